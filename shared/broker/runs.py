"""The two ends of a run: asking Redis whether it may begin, and telling it what came of it."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import structlog
from dramatiq import Message
from dramatiq.middleware import SkipMessage

from shared.broker.deliveries import Delivery, Held, HeldMessage, Retry
from shared.broker.dispatch import Dispatch
from shared.broker.interrupts import Revoked
from shared.broker.room import Room
from shared.broker.states import Outcome, Reason, State, TaskError, error_of, readable
from shared.errors import BrokerRefuses, BrokerUnavailable, InvalidInput

TRY_AGAIN_S = 0.5

_log = structlog.get_logger(__name__)


class Runs:
    """Used by worker threads, through Dramatiq's hooks and its consumers."""

    def __init__(
        self, dispatch: Dispatch, held: Held, room: Room, keep_of: Callable[[Message[Any]], timedelta | None]
    ) -> None:
        self._dispatch = dispatch
        self._held = held
        self._room = room
        self._keep_of = keep_of
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
                return self._dispatch.begin(message.deliveries)
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

    def _has_told(self, message: HeldMessage) -> bool:
        """False where Redis is out of reach."""
        deliveries = [delivery for delivery in message.deliveries if not delivery.is_over]
        try:
            self._tell(message, deliveries)
        except BrokerUnavailable:
            return False
        except Exception as error:  # noqa: BLE001 - no error of ours may leave the task to its lease, and run it again
            _log.exception("verdict_not_told", task_id=message.message_id)
            return self._has_failed(deliveries, error)
        return True

    def _has_failed(self, deliveries: Sequence[Delivery], error: Exception) -> bool:
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
            self._retry(message.retry, deliveries, exception)
        elif message.failed or exception is not None:  # no verdict on an exception is no success
            self._fail(deliveries, exception)
        elif message.is_skipped:
            self._finish(self._send_again(deliveries), Outcome(State.IGNORED))
        else:
            self._succeed(self._send_again(deliveries), message.result)

    def _send_again(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Lets go of those that have been sent again meanwhile; answers the others."""
        for delivery in deliveries:
            if delivery.again is not None:
                message, due = delivery.again
                answer = self._dispatch.retry(delivery, message, due, State.PENDING, Outcome(State.PENDING))
                self._note_lost([delivery], [answer])
        return [delivery for delivery in deliveries if delivery.again is None]

    def _succeed(self, deliveries: Sequence[Delivery], result: object) -> None:
        try:
            self._finish(deliveries, Outcome(State.SUCCESS, result=result))
        except InvalidInput as error:
            self._fail(deliveries, error)

    def _retry(self, retry: Retry, deliveries: Sequence[Delivery], exception: BaseException | None) -> None:
        error = None if exception is None else error_of(exception)
        for delivery in deliveries:
            message = delivery.message.copy(options=_with_readable_traceback(retry.options))
            outcome = Outcome(State.RETRY, error=error)
            try:
                answer = self._dispatch.retry(delivery, message, retry.delay, State.RETRY, outcome)
            except InvalidInput as refused:  # with the traceback that Retries adds it has become too large
                self._fail([delivery], exception or refused)
            else:
                self._note_lost([delivery], [answer])

    def _fail(self, deliveries: Sequence[Delivery], exception: BaseException | None) -> None:
        error = TaskError("Rejected", "it was rejected without an error") if exception is None else error_of(exception)
        self._finish(deliveries, Outcome(State.FAILURE, error=error), is_dead=True)

    def _finish(self, deliveries: Sequence[Delivery], outcome: Outcome, *, is_dead: bool = False) -> None:
        if deliveries:
            keep = self._keep_of(deliveries[0].message)
            self._note_lost(deliveries, self._dispatch.finish(deliveries, outcome, is_dead=is_dead, keep=keep))

    def _note_lost(self, deliveries: Sequence[Delivery], answers: Sequence[str]) -> None:
        for delivery, answer in zip(deliveries, answers, strict=True):
            if answer == "lost":
                _log.warning("run_lost", task_id=delivery.message.message_id)


def _with_readable_traceback(options: dict[str, Any]) -> dict[str, Any]:
    """Retries notes it as it is, and an exception may quote text that cannot be encoded."""
    if "traceback" not in options:
        return options
    return options | {"traceback": readable(options["traceback"])}
