"""What a worker asks Redis for: tasks to run, and leave to run them. One method a script."""

import itertools
import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from dramatiq import Message
from dramatiq.errors import DecodeError

from shared.broker.asking import Asking, Due, in_script
from shared.broker.deliveries import Delivery
from shared.broker.record import NONCE_BYTES, encode, keep_of, pack_record, unpack_id, unpack_record
from shared.broker.states import WORKER_LOST, Outcome, State, about, error_of
from shared.clock import MILLISECOND

LEASE = timedelta(seconds=10)
# In one script, so that none keeps Redis from others for more than a few milliseconds:
FETCHED_TOGETHER = 1_000
PROMOTED_TOGETHER = 500
REAPED_TOGETHER = 200


class Promoted(NamedTuple):
    """`clock`: Redis's, since 1970; `next_in`: until the next task is due; `is_lapsed`: a lease has run out; `waiting`:
    queues with tasks ready.
    """

    clock: timedelta
    next_in: timedelta | None
    is_lapsed: bool
    waiting: list[str]


class Fetched(NamedTuple):
    """`is_alone`: the one delivery is to run with nothing beside it; `is_more`: others are ready."""

    deliveries: list[Delivery]
    is_alone: bool
    is_more: bool


class Dispatch:
    """The worker's side. Every method raises BrokerUnavailable where Redis fails, and may be called again then.

    `keep`: how long it is known how a task ended, unless a call says otherwise.
    """

    def __init__(self, asking: Asking, keep: timedelta) -> None:
        self._ask = asking
        self._keep = keep
        self.process = os.urandom(6).hex()  # of two processes, even after a fork, no two tokens are alike
        self._fetches = itertools.count()

    def promote(self, queues: Sequence[str], *, wakes_another: bool) -> Promoted:
        """Makes ready what is due. `wakes_another`: this process cannot take what is ready."""
        wakes = "1" if wakes_another else ""
        clock, next_in, is_lapsed, waiting = self._ask.one("promote", PROMOTED_TOGETHER, wakes, *queues)
        return Promoted(
            clock * MILLISECOND,
            None if next_in < 0 else next_in * MILLISECOND,
            bool(is_lapsed),
            [queue.decode() for queue in waiting],
        )

    def fetch(self, queue: str, limit: int) -> Fetched:
        """Takes at most `limit` tasks; one whose record cannot be read becomes a dead letter."""
        token = f"{self.process}.{next(self._fetches)}"
        asked = (queue, min(limit, FETCHED_TOGETHER), token, LEASE // MILLISECOND)
        is_alone, is_more, *found = self._ask.one("fetch", *asked)
        deliveries = []
        for packed_id, record in zip(found[::2], found[1::2], strict=True):
            try:
                deliveries.append(Delivery(packed_id, unpack_record(packed_id, record), token))
            except DecodeError as error:
                self._bury_unreadable(queue, packed_id, token, error)
        return Fetched(deliveries, bool(is_alone), bool(is_more))

    def begin(self, deliveries: Sequence[Delivery], *, is_killable: bool = False) -> list[str]:
        """For each `run`, `revoked`, `expired`, `done` (it has ended), or `lost` (somebody else holds it). Notes of
        those that run which delivery to a run this is.
        """
        calls = []
        killable = "1" if is_killable else ""
        for delivery in deliveries:
            record = delivery.record
            expires = record.message.options.get("expires", 0)
            kept = encode(about(record))
            keep = self._ms(keep_of(record.message))
            calls.append((*_held(delivery), record.nonce, expires, kept, keep, killable))
        answers: list[bytes] = self._ask.each("begin", calls)
        for delivery, answer in zip(deliveries, answers, strict=True):
            if answer.isdigit():
                delivery.number = int(answer)
        return ["run" if answer.isdigit() else answer.decode() for answer in answers]

    def finish(
        self, deliveries: Sequence[Delivery], outcome: Outcome, *, is_dead: bool = False, keep: timedelta | None = None
    ) -> list[str]:
        """For each `finished`, `revoked` where somebody has been promised that it is killed, or `lost`. `is_dead`: its
        message stays among the dead letters.

        Raises InvalidInput for a result that cannot be kept.
        """
        end = (*outcome.letters, self._ms(keep), outcome.pack(), "1" if is_dead else "")
        calls = [
            (*_held(delivery), delivery.record.nonce, *end, _untold(delivery), delivery.progress)
            for delivery in deliveries
        ]
        return [answer.decode() for answer in self._ask.each("finish", calls)]

    def retry(self, delivery: Delivery, message: Message[Any], due: Due, state: State, outcome: Outcome) -> str:
        """Lets go of a task that is to run again, as `message` says: `retried`, `lost`, or `revoked` where it has been
        cancelled meanwhile. `state`: RETRY, or PENDING for one that was only early. Raises InvalidInput.
        """
        record = pack_record(message, delivery.record.nonce)
        retries = message.options.get("retries", 0)
        after = (in_script(due), record, state, retries, outcome.pack(), self._ms(keep_of(message)))
        return self._ask.text("retry", *_held(delivery), *after)

    def progress(self, delivery: Delivery, progress: bytes) -> None:
        """Notes how far its run is; nothing where the task is no longer held."""
        self._ask.one("progress", delivery.packed_id, delivery.token, progress)

    def announce(self, forgotten_after: timedelta, most: int, began_ms: int, said: bytes) -> int:
        """Says of this process what it is, or nothing where it ends; 0: it begins. Answers when it has begun."""
        about_all = (self.process, forgotten_after // MILLISECOND, most)
        began: int = self._ask.one("announce", *about_all, began_ms, said)
        return began

    def renew(self, deliveries: Sequence[Delivery]) -> list[str]:
        """For each `held`, `lost`, `cancelled`, or `interrupt` where it is to be stopped."""
        held = [argument for delivery in deliveries for argument in _held(delivery)]
        return [answer.decode() for answer in self._ask.one("renew", LEASE // MILLISECOND, *held)]

    def give_back(self, deliveries: Sequence[Delivery]) -> list[str]:
        """For each `returned` or `lost` (a run that had begun is over), `revoked`, `buried` or `gone`."""
        held = [argument for delivery in deliveries for argument in _held(delivery)]
        return [answer.decode() for answer in self._ask.one("give_back", self._ms(None), WORKER_LOST, *held)]

    def reap(self, queues: Sequence[str]) -> list[tuple[str, str]]:
        """Takes back what is held under leases that have run out: each id, and what became of it."""
        lease_ms = LEASE // MILLISECOND
        answer = self._ask.one("reap", REAPED_TOGETHER, lease_ms, self._ms(None), WORKER_LOST, *queues)
        return [(unpack_id(id_), fate.decode()) for id_, fate in zip(answer[::2], answer[1::2], strict=True)]

    def _bury_unreadable(self, queue: str, packed_id: bytes, token: str, error: DecodeError) -> None:
        """Without its nonce, which cannot be read either: no call will repeat that one."""
        outcome = Outcome(State.FAILURE, error=error_of(error))
        end = (*outcome.letters, self._ms(None), outcome.pack(), "1", "", "")
        self._ask.one("finish", queue, packed_id, token, b"\0" * NONCE_BYTES, *end)

    def _ms(self, keep: timedelta | None) -> int:
        return (self._keep if keep is None else keep) // MILLISECOND


def _held(delivery: Delivery) -> tuple[str, bytes, str]:
    return delivery.message.queue_name, delivery.packed_id, delivery.token


def _untold(delivery: Delivery) -> bytes:
    """What it is, unless its begin has told that."""
    return b"" if delivery.has_begun else encode(about(delivery.record))
