"""What senders and operators ask Redis for. One method a script; docs/engine.md follows a message through them."""

import contextlib
import os
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from dramatiq import Message
from dramatiq.errors import DecodeError

from shared.broker.asking import Asking, Due, in_script
from shared.broker.record import NONCE_BYTES, encode, keep_of, pack_id, pack_record, unpack_id, unpack_record
from shared.broker.registry import DEAD_AFTER, WorkerProcess, worker_processes
from shared.broker.scripts import Argument
from shared.broker.states import STATES, About, State, TaskState, about, ended, under_way
from shared.clock import MILLISECOND, to_ms
from shared.errors import BrokerUnavailable, TaskConflict, TaskIdTaken, TaskNotFound

TICK_REMEMBERED = timedelta(days=2)
STOPPED_FOR = timedelta(days=8)  # longer than any time limit: a run that goes on finds out when it sends the next
GROUP_REMEMBERED = timedelta(days=30)  # after the last end in it
# In one script, so that none keeps Redis from others for more than a few milliseconds:
ENQUEUED_TOGETHER = 200
CANCELLED_TOGETHER = 500
PURGED_TOGETHER = 1_000


class QueueStats(NamedTuple):
    """`ready` by priority from 0 to 9, with `alone` beside it; `due` later, `overdue` but not moved to ready yet."""

    ready: list[int]
    alone: int
    due: int
    leased: int
    dead: int
    overdue: int
    oldest_ready: timedelta | None
    next_due: timedelta | None

    @property
    def is_empty(self) -> bool:
        """Nothing waits or runs; dead letters do not count."""
        return not (any(self.ready) or self.alone or self.due or self.overdue or self.leased)


class Place(NamedTuple):
    """Where a task stands in a sorted set."""

    score: int
    id: str


class DeadLetter(NamedTuple):
    """Where the message of a task is that has failed for good, and the message: None where that cannot be read."""

    queue: str
    message: Message[Any] | None


class Engine:
    """Tasks in Redis, for whoever sends them or looks after them. Every method raises BrokerUnavailable where Redis
    fails; what was asked may have been done all the same.

    `keep`: how long it is known how a task ended, unless a call says otherwise.
    """

    def __init__(self, asking: Asking, keep: timedelta) -> None:
        self._ask = asking
        self.keep = keep

    def keep_trying_while(self, condition: Callable[[BrokerUnavailable], bool]) -> None:
        """Instead of raising BrokerUnavailable where Redis is out of reach or refuses; `condition` may wait."""
        self._ask.tries_again = condition

    def tries_again(self, error: BrokerUnavailable) -> bool:
        """What that condition says, if there is one."""
        return self._ask.tries_again(error)

    def enqueue(self, sendings: Sequence[tuple[Message[Any], Due]]) -> list[State | None]:
        """For each None, or the state of the task that has its id already. Raises InvalidInput, before anything is
        sent, for one that cannot be.
        """
        arguments: list[Argument] = []
        nonces = os.urandom(NONCE_BYTES * len(sendings))
        for number, (message, due) in enumerate(sendings):
            nonce = nonces[number * NONCE_BYTES : (number + 1) * NONCE_BYTES]
            arguments += (pack_id(message.message_id), in_script(due), pack_record(message, nonce))
        step = 3 * ENQUEUED_TOGETHER
        calls = [arguments[begin : begin + step] for begin in range(0, len(arguments), step)]
        return [_taken_by(answer) for answers in self._ask.each("enqueue", calls) for answer in answers]

    def tick(self, schedule: str, scheduled_at: datetime, message: Message[Any]) -> str:
        """`sent`, `known` where somebody has sent this tick already, or `too_old`."""
        record = pack_record(message, os.urandom(NONCE_BYTES))
        remembered = TICK_REMEMBERED // MILLISECOND
        return self._ask.text("tick", schedule, to_ms(scheduled_at), remembered, pack_id(message.message_id), record)

    def cancel(
        self,
        task_ids: Sequence[str],
        *,
        interrupts: bool = False,
        keep: timedelta | None = None,
        known: About | None = None,
    ) -> list[str]:
        """For each `revoked`, `running`, `terminated`, `too_late` or `unknown`. A run that has begun goes on, and none
        follows it; with `interrupts` it is stopped: `terminated` if that is certain.

        Of a task that had not begun only a tombstone remains, unless it is `known` what the only one of them is.
        """
        how = "interrupt" if interrupts else "cancelled"
        about = b"" if known is None else encode(known)
        ids = [pack_id(task_id) for task_id in task_ids]
        calls: list[tuple[Argument, ...]] = [
            (self._ms(keep), how, about, *ids[begin : begin + CANCELLED_TOGETHER])
            for begin in range(0, len(ids), CANCELLED_TOGETHER)
        ]
        return [answer.decode() for answers in self._ask.each("cancel", calls) for answer in answers]

    def revoke(self, task_id: str, *, interrupts: bool = False, keep: timedelta | None = None) -> str:
        """As `cancel`, and what the task was stays known. Raises TaskNotFound."""
        packed_id = pack_id(task_id)
        _over, packed, *_ = self._ask.one("look_up", packed_id)
        known = None
        if packed is not None:
            with contextlib.suppress(DecodeError):
                record = unpack_record(packed_id, packed)
                known, keep = about(record), keep_of(record.message) if keep is None else keep
        (answer,) = self.cancel([task_id], interrupts=interrupts, keep=keep, known=known)
        if answer == "unknown":
            raise TaskNotFound()
        return answer

    def stop(self, task_ids: Sequence[str], *, interrupts: bool = False) -> list[str]:
        """Cancels a chain, whose members these are in their order: whatever is under way, and nothing follows it.
        Answers as `cancel`: `unknown` for those that had not been sent, which now cannot be.
        """
        packed_ids = [pack_id(task_id) for task_id in task_ids]
        found = self._ask.each("look_up", [(packed_id,) for packed_id in packed_ids])
        members: list[Argument] = []
        for packed_id, (_over, packed, *_) in zip(packed_ids, found, strict=True):
            known = b""
            if packed is not None:
                with contextlib.suppress(DecodeError):
                    known = encode(about(unpack_record(packed_id, packed)))
            members += (packed_id, known)
        how = "interrupt" if interrupts else "cancelled"
        answers = self._ask.one("stop", self._ms(None), STOPPED_FOR // MILLISECOND, how, *members)
        return [answer.decode() for answer in answers]

    def let_end(self, task_id: str, token: str) -> bool:
        """Whether a run that can be killed may end by itself, which it has: then it is too late to kill it."""
        return self._ask.text("let_end", pack_id(task_id), token) == "ends"

    def open_group(self, group: str, members: int) -> None:
        """From now on those that arrive in it are counted."""
        self._ask.one("open_group", group, members, GROUP_REMEMBERED // MILLISECOND)

    def arrive(self, group: str, task_id: str, callbacks: Sequence[Message[Any]] = ()) -> str:
        """Notes that this member of a group has succeeded, however often it says so: `counted`; `last` where all have
        now; `unknown`. Given `callbacks`, the last one sends them instead, and the group is done: `called`.
        """
        nonce = os.urandom(NONCE_BYTES)
        sent = [part for each in callbacks for part in (pack_id(each.message_id), pack_record(each, nonce))]
        return self._ask.text("arrive", group, pack_id(task_id), GROUP_REMEMBERED // MILLISECOND, *sent)

    def forget(self, task_id: str) -> None:
        """Removes what is known of an ended task. Raises TaskNotFound, and TaskConflict where it has not ended."""
        state = self.look_up(task_id)
        answer = self._ask.text("forget", pack_id(task_id), state.queue or "")
        if answer == "unknown":
            raise TaskNotFound()
        if answer == "under_way":
            raise TaskConflict(f"{task_id} has not ended: {state.state}")

    def move(self, task_id: str, due: Due) -> str:
        """Another time for a task that has not begun: `moved`, `running`, `ended` or `unknown`."""
        return self._ask.text("move", pack_id(task_id), in_script(due))

    def look_up(self, task_id: str, *, is_patient: bool = True) -> TaskState:
        """Raises TaskNotFound. Unless it `is_patient`, it does not wait for Redis in a run either."""
        (state,) = self.look_up_many([task_id], is_patient=is_patient)
        if state is None:
            raise TaskNotFound()
        return state

    def look_up_many(self, task_ids: Sequence[str], *, is_patient: bool = True) -> list[TaskState | None]:
        """For each what `look_up` would tell, or None, in one round trip; one is looked up after the other."""
        packed_ids = [pack_id(task_id) for task_id in task_ids]
        answers = self._ask.each("look_up", [(packed_id,) for packed_id in packed_ids], is_patient=is_patient)
        return [_state(packed_id, *answer) for packed_id, answer in zip(packed_ids, answers, strict=True)]

    def known(self, task_ids: Sequence[str]) -> list[bool]:
        """Whether `look_up` would find each."""
        return [bool(answer) for answer in self._ask.one("known", *map(pack_id, task_ids))]

    def page(
        self, which: str, queues: Sequence[str], count: int, after: Place | None = None, *, last_first: bool = False
    ) -> list[Place]:
        """The next `count` of one set of each queue, in the order of their scores: of `alone`, `due_set`, `recent`,
        `dead`, or a priority.
        """
        score, packed_id = (b"", b"") if after is None else (after.score, pack_id(after.id))
        answers = self._ask.one("page", which, "1" if last_first else "", count, score, packed_id, *queues)
        found = [
            (int(score), packed_id)
            for answer in answers
            for packed_id, score in zip(answer[::2], answer[1::2], strict=True)
        ]
        return [Place(score, unpack_id(packed_id)) for score, packed_id in sorted(found, reverse=last_first)[:count]]

    def leased(self, queues: Sequence[str], limit: int) -> list[str]:
        """Ids of what workers hold, in no order; at most `limit` of each queue."""
        return [unpack_id(packed_id) for packed_id in self._ask.one("leased", limit, *queues)]

    def workers(self) -> list[WorkerProcess]:
        """Those that live, the longest-lived first."""
        return worker_processes(self._ask.one("workers", DEAD_AFTER // MILLISECOND))

    def stats(self, queues: Sequence[str]) -> dict[str, QueueStats]:
        rows = self._ask.one("stats", *queues)
        return {queue: _stats(row) for queue, row in zip(queues, rows, strict=True)}

    def dead_letter(self, queues: Sequence[str], task_id: str) -> DeadLetter | None:
        """Whichever of the queues it is of."""
        packed_id = pack_id(task_id)
        found = self._ask.one("letter", packed_id, *queues)
        if not found:
            return None
        queue, record = found
        try:
            return DeadLetter(queue.decode(), unpack_record(packed_id, record).message)
        except DecodeError:
            return DeadLetter(queue.decode(), None)

    def revive(self, queue: str, task_id: str, message: Message[Any]) -> None:
        """Sends `message` in place of a dead letter: a new task, as no final state changes. Raises TaskIdTaken, and
        TaskNotFound where there is neither such a dead letter nor a task of the new id.
        """
        new = (pack_id(message.message_id), pack_record(message, os.urandom(NONCE_BYTES)))
        answer = self._ask.one("revive", queue, pack_id(task_id), *new)
        if answer == b"unknown":
            raise TaskNotFound("there is no such dead letter")
        if state := _taken_by(answer):
            raise TaskIdTaken(message.message_id, state)

    def discard(self, queue: str, task_id: str) -> None:
        """Throws a dead letter away. Raises TaskNotFound."""
        if not self._ask.one("discard", queue, pack_id(task_id)):
            raise TaskNotFound("there is no such dead letter")

    def purge(self, queue: str) -> None:
        """Drops all tasks of a queue without a trace."""
        while self._ask.one("purge", queue, PURGED_TOGETHER):
            pass

    def _ms(self, keep: timedelta | None) -> int:
        return (self.keep if keep is None else keep) // MILLISECOND


def _state(
    packed_id: bytes, over: bytes | None, record: bytes | None, due_ms: bytes | None, *live: bytes
) -> TaskState | None:
    """From what lua/look_up.lua answers."""
    task_id = unpack_id(packed_id)
    if over is not None:
        return ended(task_id, over)
    if record is None:
        return None
    fields = dict(zip(live[::2], live[1::2], strict=True))
    try:
        readable = unpack_record(packed_id, record)
    except DecodeError:  # a dead letter as soon as it is fetched
        return TaskState(id=task_id, state=State.PENDING)
    return under_way(task_id, readable, None if due_ms is None else int(due_ms), fields)


def _taken_by(answer: bytes) -> State | None:
    """Of an ended task the letter of its state is told, of another the state itself."""
    if not answer:
        return None
    return STATES[answer] if len(answer) == 1 else State(answer.decode())


def _stats(row: Sequence[int]) -> QueueStats:
    *ready, alone, due, leased, dead, overdue, oldest, next_due = row
    return QueueStats(ready, alone, due, leased, dead, overdue, _ms_or_none(oldest), _ms_or_none(next_due))


def _ms_or_none(milliseconds: int) -> timedelta | None:
    return None if milliseconds < 0 else milliseconds * MILLISECOND
