"""The two ends of a run: asking Redis whether it may begin, and telling it what came of it."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import dramatiq
import structlog
from dramatiq import Message
from dramatiq.middleware import SkipMessage

from shared.broker.asking import Due
from shared.broker.deliveries import Delivery, Held, HeldMessage
from shared.broker.dispatch import Dispatch
from shared.broker.interrupts import Revoked
from shared.broker.large_values import LargeValues, drop_arguments, lightened_result
from shared.broker.room import Room
from shared.broker.states import (
    TRACEBACK_CHARACTERS,
    Outcome,
    Reason,
    State,
    StoredResult,
    TaskError,
    error_of,
    readable,
)
from shared.errors import BrokerRefuses, BrokerUnavailable, Ignore, InvalidInput, StoreUnavailable, Unavailable

TRY_AGAIN_S = 0.5

_log = structlog.get_logger(__name__)


class Runs:
    """Used by worker threads, through Dramatiq's hooks and its consumers."""

    def __init__(
        self,
        dispatch: Dispatch,
        held: Held,
        room: Room,
        keep_of: Callable[[Message[Any]], timedelta | None],
        is_killable: Callable[[Message[Any]], bool],
        large: LargeValues | None,
    ) -> None:
        self._dispatch = dispatch
        self._held = held
        self._room = room
        self._keep_of = keep_of
        self._is_killable = is_killable
        self._large = large
        self.giving_up = threading.Event()

    def begin(self, message: HeldMessage) -> None:
        """Raises SkipMessage where nothing of it is to run. With Redis out of reach it waits, the lease being kept."""
        deliveries = message.deliveries
        answers = self._ask_to_begin(message)
        by_answer: dict[str, list[Delivery]] = {}
        for delivery, answer in zip(deliveries, answers, strict=True):
            by_answer.setdefault(answer, []).append(delivery)
        running = by_answer.pop("run", [])
        for answer, others in by_answer.items():
            self._held.remove(others)
            if answer in ("expired", "revoked"):
                self._drop_arguments(others)
            _log.info("not_run", why=answer, task_ids=[delivery.message.message_id for delivery in others])
        if not running:
            raise SkipMessage(f"{message.message_id} is not to run: {', '.join(by_answer)}")
        thread = threading.get_ident()
        for delivery in running:
            delivery.thread = thread
        message.narrow(running)

    def _ask_to_begin(self, message: HeldMessage) -> list[str]:
        while not self._room.is_closed:
            try:
                is_killable = self._is_killable(message.deliveries[0].message)
                return self._dispatch.begin(message.deliveries, is_killable=is_killable)
            except BrokerRefuses as error:
                self._held.remove(message.deliveries)
                raise SkipMessage(f"{message.message_id} may not begin: {error}") from error
            except BrokerUnavailable:
                self.giving_up.wait(TRY_AGAIN_S)
        self._give_back(message.deliveries)
        raise SkipMessage(f"{message.message_id} may not begin: the worker stops")

    def end(self, message: HeldMessage) -> None:
        """Tells Redis, however long it is out of reach: meanwhile the lease is kept, so nobody else runs the task."""
        for delivery in message.deliveries:
            delivery.is_ending = True
        try:
            while not self._has_told(message):
                if self.giving_up.wait(TRY_AGAIN_S):
                    _log.warning("not_told", task_id=message.message_id)
                    return
        finally:
            message.has_ended = True
            self._held.remove(message.deliveries)
            self._room.leave()

    def give_back(self, messages: Sequence[HeldMessage]) -> None:
        """Those that have not begun go back to their places."""
        try:
            self._give_back([delivery for message in messages for delivery in message.deliveries])
        finally:
            self._room.leave(len(messages))

    def give_up(self) -> None:
        """The worker ends: what still runs goes back too, and what its threads say from now on is not heard."""
        self.giving_up.set()
        self._give_back([delivery for delivery in self._held.all() if not delivery.is_ending])

    def _give_back(self, deliveries: Sequence[Delivery]) -> None:
        held = [delivery for delivery in deliveries if not delivery.is_over]
        self._held.remove(held)
        if not held:
            return
        try:
            fates = self._dispatch.give_back(held)
        except BrokerUnavailable as error:
            _log.warning("not_given_back", tasks=len(held), why=str(error))  # their leases run out
        else:
            _log.info("given_back", **Counter(fates))
            self._drop_arguments([delivery for delivery, fate in zip(held, fates, strict=True) if fate == "revoked"])

    def _has_told(self, message: HeldMessage) -> bool:
        """False where Redis, or the disk for a large result, is out of reach."""
        deliveries = [delivery for delivery in message.deliveries if not delivery.is_over]
        try:
            self._tell(message, deliveries)
        except Unavailable:
            return False
        except BaseException as error:  # noqa: BLE001 - none may leave the task to its lease, and run it again
            _log.exception("verdict_not_told", task_id=message.message_id)
            return self._has_failed(deliveries, error)
        return True

    def _has_failed(self, deliveries: Sequence[Delivery], error: BaseException) -> bool:
        try:
            self._fail(deliveries, error)
        except BrokerUnavailable:
            return False
        return True

    def _tell(self, message: HeldMessage, deliveries: Sequence[Delivery]) -> None:
        exception = message.exception
        if isinstance(exception, Revoked):
            self._finish(deliveries, Outcome(State.REVOKED, Reason.TERMINATED))
        elif message.retry is not None:
            self._retry(message, message.retry, deliveries)
        elif isinstance(exception, Ignore):
            self._finish(self._send_again(deliveries), Outcome(State.IGNORED))
        elif message.failed or exception is not None:  # no verdict on an exception is no success
            self._fail(deliveries, exception)
        elif message.is_skipped:
            self._finish(self._send_again(deliveries), Outcome(State.IGNORED))
        else:
            self._succeed(message, self._send_again(deliveries))

    def _send_again(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Lets go of those that have been sent again meanwhile; answers the others."""
        for delivery in deliveries:
            if delivery.again is not None:
                message, due = delivery.again
                self._let_go(delivery, message, due, Outcome(State.PENDING))
        return [delivery for delivery in deliveries if delivery.again is None]

    def _let_go(self, delivery: Delivery, message: Message[Any], due: Due, outcome: Outcome) -> None:
        answer = self._dispatch.retry(delivery, message, due, outcome.state, outcome)
        self._held.remove([delivery])  # Redis may have to be asked again for the others of this run
        self._note_lost([delivery], [answer])
        if answer == "revoked":
            drop_arguments([delivery.message, message], self._large)

    def _succeed(self, message: HeldMessage, deliveries: Sequence[Delivery]) -> None:
        try:
            if len(deliveries) == 1:  # noted, so that it is kept once, however often Redis has to be asked
                message.result = lightened_result(message.message_id, message.result, self._large)
            self._finish(deliveries, Outcome(State.SUCCESS, result=message.result))
        except InvalidInput as error:
            self._fail(deliveries, error)

    def _retry(self, run: HeldMessage, delay: timedelta, deliveries: Sequence[Delivery]) -> None:
        exception = run.exception
        cause = exception.__cause__ if isinstance(exception, dramatiq.Retry) else exception
        error = None if cause is None else error_of(cause)
        for delivery in deliveries:
            message = delivery.message.copy(options=_with_readable_traceback(run.options))
            try:
                self._let_go(delivery, message, delay, Outcome(State.RETRY, error=error))
            except InvalidInput as refused:  # with the traceback that Retries adds it has become too large
                self._fail([delivery], exception or refused)

    def _fail(self, deliveries: Sequence[Delivery], exception: BaseException | None) -> None:
        error = TaskError("Rejected", "it was rejected without an error") if exception is None else error_of(exception)
        self._finish(deliveries, Outcome(State.FAILURE, error=error), is_dead=True)

    def _finish(self, deliveries: Sequence[Delivery], outcome: Outcome, *, is_dead: bool = False) -> None:
        if deliveries:
            keep = self._keep_of(deliveries[0].message)
            answers = self._dispatch.finish(deliveries, outcome, is_dead=is_dead, keep=keep)
            self._note_lost(deliveries, answers)
            needless = {"revoked"} if is_dead else {"revoked", "finished"}  # one that was lost is run again with them
            self._drop_arguments([d for d, answer in zip(deliveries, answers, strict=True) if answer in needless])
            if "revoked" in answers and self._large is not None and isinstance(outcome.result, StoredResult):
                with suppress(StoreUnavailable):
                    self._large.remove(outcome.result.reference)

    def _drop_arguments(self, deliveries: Sequence[Delivery]) -> None:
        drop_arguments([delivery.message for delivery in deliveries], self._large)

    def _note_lost(self, deliveries: Sequence[Delivery], answers: Sequence[str]) -> None:
        for delivery, answer in zip(deliveries, answers, strict=True):
            if answer == "lost":
                _log.warning("run_lost", task_id=delivery.message.message_id)


def _with_readable_traceback(options: dict[str, Any]) -> dict[str, Any]:
    """Retries notes it as it is, and an exception may quote text that is long, or that cannot be encoded."""
    if "traceback" not in options:
        return options
    return options | {"traceback": readable(options["traceback"][-TRACEBACK_CHARACTERS:])}
