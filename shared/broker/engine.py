"""What senders and operators ask Redis for. One method a script; docs/engine.md follows a message through them."""

import os
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from dramatiq import Message
from dramatiq.errors import DecodeError

from shared.broker.asking import Asking, Due, in_script
from shared.broker.record import NONCE_BYTES, pack_id, pack_record, unpack_id, unpack_record
from shared.broker.scripts import Argument
from shared.broker.states import STATES, State, TaskState, ended, under_way
from shared.clock import MILLISECOND, to_ms
from shared.errors import TaskIdTaken, TaskNotFound

TICK_REMEMBERED = timedelta(days=2)
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


class DeadLetter(NamedTuple):
    """A task that has failed for good, and its message: None where that cannot be read."""

    state: TaskState
    message: Message[Any] | None


class Engine:
    """Tasks in Redis, for whoever sends them or looks after them. Every method raises BrokerUnavailable where Redis
    fails; what was asked may have been done all the same.

    `keep`: how long it is known how a task ended, unless a call says otherwise.
    """

    def __init__(self, asking: Asking, keep: timedelta) -> None:
        self._ask = asking
        self.keep = keep

    def keep_trying_while(self, condition: Callable[[], bool]) -> None:
        """Instead of raising BrokerUnavailable where Redis is out of reach; `condition` may wait."""
        self._ask.tries_again = condition

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

    def cancel(self, task_ids: Sequence[str], *, interrupts: bool = False, keep: timedelta | None = None) -> list[str]:
        """For each `revoked`, `running`, `too_late` or `unknown`. A run that has begun goes on, and none follows it;
        with `interrupts` it is stopped.
        """
        how = "interrupt" if interrupts else "cancelled"
        ids = [pack_id(task_id) for task_id in task_ids]
        calls: list[tuple[Argument, ...]] = [
            (self._ms(keep), how, *ids[begin : begin + CANCELLED_TOGETHER])
            for begin in range(0, len(ids), CANCELLED_TOGETHER)
        ]
        return [answer.decode() for answers in self._ask.each("cancel", calls) for answer in answers]

    def move(self, task_id: str, due: Due) -> str:
        """Another time for a task that has not begun: `moved`, `running`, `ended` or `unknown`."""
        return self._ask.text("move", pack_id(task_id), in_script(due))

    def look_up(self, task_id: str) -> TaskState:
        """Raises TaskNotFound."""
        packed_id = pack_id(task_id)
        over, record, due_ms, *live = self._ask.one("look_up", packed_id)
        if over is not None:
            return ended(task_id, over)
        if record is None:
            raise TaskNotFound()
        fields = dict(zip(live[::2], live[1::2], strict=True))
        return under_way(task_id, unpack_record(packed_id, record), None if due_ms is None else int(due_ms), fields)

    def stats(self, queues: Sequence[str]) -> dict[str, QueueStats]:
        rows = self._ask.one("stats", *queues)
        return {queue: _stats(row) for queue, row in zip(queues, rows, strict=True)}

    def dead_letters(self, queue: str, limit: int, offset: int = 0) -> list[DeadLetter]:
        """The latest first."""
        rows = self._ask.one("dead", queue, offset, limit)
        return [_dead_letter(*row) for row in zip(rows[::3], rows[1::3], rows[2::3], strict=True)]

    def revive(self, queue: str, task_id: str, message: Message[Any]) -> None:
        """Sends `message` in place of a dead letter: a new task, as no final state changes. Raises TaskNotFound where
        there is no such dead letter, and TaskIdTaken.
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


def _dead_letter(packed_id: bytes, record: bytes, over: bytes) -> DeadLetter:
    state = ended(unpack_id(packed_id), over)
    try:
        return DeadLetter(state, unpack_record(packed_id, record).message)
    except DecodeError:
        return DeadLetter(state, None)
