"""Dramatiq's broker on our engine: what sends messages, and what a worker asks for its parts."""

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from threading import get_ident
from time import monotonic, sleep
from typing import Any

import redis
from dramatiq import Message, Middleware
from dramatiq.broker import Consumer
from dramatiq.brokers.redis import RedisBroker
from dramatiq.errors import QueueJoinTimeout
from dramatiq.middleware import AgeLimit, Callbacks, Retries
from dramatiq.results import Results

from shared.broker.asking import Due
from shared.broker.consumer import QueueConsumer
from shared.broker.deliveries import Again, Delivery, HeldMessage
from shared.broker.engine import Engine
from shared.broker.following import Chains
from shared.broker.interrupts import Interrupts, in_child
from shared.broker.large_values import LargeValues, drop_arguments, lightened
from shared.broker.lifecycle import Lifecycle
from shared.broker.record import NAME_BYTES, keep_of, pack_record
from shared.broker.results import EngineResults
from shared.broker.runs import TRY_AGAIN_S
from shared.broker.states import State
from shared.broker.worker_parts import WorkerParts
from shared.clock import MILLISECOND
from shared.errors import (
    BrokerRefuses,
    BrokerUnavailable,
    FieldError,
    InvalidInput,
    StoreUnavailable,
    TaskIdTaken,
    Unavailable,
)
from shared.redis_keys import RedisKeys


def usual_middleware() -> list[Middleware]:
    """Dramatiq's own, but for time limits and notice of a shutdown: those interrupt acknowledging too."""
    return [AgeLimit(), Callbacks(), Chains(), Retries()]


class TaskBroker(RedisBroker):
    """Stock Dramatiq above it, the engine below. `middleware` comes after what the engine needs itself.

    `client` is for a worker; what is sent goes through `engine`. `large`: where values go that are too large for Redis;
    without it they are refused.
    """

    def __init__(
        self,
        engine: Engine,
        client: "redis.Redis",
        keys: RedisKeys,
        middleware: Sequence[Middleware] | None = None,
        large: LargeValues | None = None,
    ) -> None:
        self.engine = engine
        self.large = large
        engine.keep_trying_while(self._tries_again)
        self.interrupts = interrupts = Interrupts()
        make_parts = partial(WorkerParts, client, keys, engine.keep, self._keep_of, self._may_kill, large, interrupts)
        self.lifecycle = Lifecycle(make_parts)
        results = Results(backend=EngineResults(engine), store_results=True)  # type: ignore[no-untyped-call]
        chosen = usual_middleware() if middleware is None else middleware
        super().__init__(client=client, middleware=[self.lifecycle, results, interrupts, *chosen])  # type: ignore[no-untyped-call]

    def __getattr__(self, name: str) -> Any:
        """None of the parent's commands: they are for its own keys."""
        raise AttributeError(name)

    def declare_queue(self, queue_name: str) -> None:
        """There is no delay queue beside it. Raises InvalidInput."""
        if not 0 < len(queue_name.encode()) <= NAME_BYTES:
            raise InvalidInput(FieldError("queue", f"must be 1 to {NAME_BYTES} bytes long"))
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        """`delay` in ms. What a worker enqueues again while it runs it (a retry, or a body that moves itself) is only
        noted, and done when the run ends.

        Raises BrokerUnavailable, TaskIdTaken, and InvalidInput for what cannot be sent.
        """
        wait = _wait(delay)
        self.emit_before("enqueue", message, delay)
        if isinstance(message, HeldMessage) and not message.has_ended:
            message.retry = wait or timedelta()
        elif delivery := self._running_here(message):
            self._note_again(delivery, message, wait)
        else:
            _raise_taken([(message, wait)], self._send([(message, wait)]))
        self.emit_after("enqueue", message, delay)
        return message

    def enqueue_many(self, sendings: Sequence[tuple[Message[Any], Due]]) -> None:
        """In one round trip. Raises as `enqueue`; those whose id is not taken are sent all the same."""
        _raise_taken(sendings, self.enqueue_each(sendings))

    def enqueue_each(self, sendings: Sequence[tuple[Message[Any], Due]]) -> list[State | None]:
        """In one round trip: for each None, or the state of the task that has its id already. Raises BrokerUnavailable;
        InvalidInput and StoreUnavailable for the first that cannot be sent, before any is.

        Hooks are told the delay of what is due after a while, and none for what is due at an instant.
        """
        for message, due in sendings:
            self.emit_before("enqueue", message, _delay_ms(due))
        new = {}
        for number, (message, due) in enumerate(sendings):
            if delivery := self._running_here(message):
                self._note_again(delivery, message, due)
            else:
                new[number] = (message, due)
        states = dict(zip(new, self._send(list(new.values())), strict=True))
        for number, (message, due) in enumerate(sendings):
            if states.get(number) is None:
                self.emit_after("enqueue", message, _delay_ms(due))
        return [states.get(number) for number in range(len(sendings))]

    def arrive(self, group: str, message_id: str, callbacks: Sequence[Message[Any]]) -> None:
        """This one of a group has succeeded. The last sends `callbacks`, once. Raises as `enqueue`."""
        if self.engine.arrive(group, message_id) != "last":
            return
        for callback in callbacks:
            self.emit_before("enqueue", callback, None)
            self._check(callback)
        if self.engine.arrive(group, message_id, [self._lightened(each) for each in callbacks]) == "called":
            for callback in callbacks:
                self.emit_after("enqueue", callback, None)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Consumer:  # noqa: ARG002
        """Fetches what the worker has threads for, whatever `prefetch` says."""
        together = [self._together(name) for name, actor in self.actors.items() if actor.queue_name == queue_name]
        return QueueConsumer(
            queue_name, timeout / 1000, self.lifecycle.booted, self._together, max(together, default=1)
        )

    def flush(self, queue_name: str) -> None:
        self.engine.purge(queue_name)

    def join(self, queue_name: str, *, interval: int = 100, timeout: int | None = None) -> None:
        """Waits until nothing of the queue waits or runs; looks every `interval` ms. Raises QueueJoinTimeout."""
        give_up_at = None if timeout is None else monotonic() + timeout / 1000
        while not self.engine.stats([queue_name])[queue_name].is_empty:
            if give_up_at is not None and monotonic() >= give_up_at:
                raise QueueJoinTimeout(queue_name)  # type: ignore[no-untyped-call]
            sleep(interval / 1000)

    def _tries_again(self, error: Unavailable) -> bool:
        """A run waits for a Redis that is out of reach. When its body is left, whatever keeps it from sending is waited
        for: a body can be told, but what a hook does not send, such as the next of a pipeline, is lost.
        """
        parts = self.lifecycle.parts
        if parts is None or not parts.held.is_run_by(get_ident()):
            return False
        is_away = isinstance(error, BrokerUnavailable) and not isinstance(error, BrokerRefuses)
        return (is_away or self.interrupts.has_left_body()) and not parts.runs.giving_up.wait(TRY_AGAIN_S)

    def _running_here(self, message: Message[Any]) -> Delivery | None:
        """The delivery of this very task, if it is this thread that runs it."""
        parts = self.lifecycle.parts
        delivery = None if parts is None else parts.held.get(message.message_id)
        return delivery if delivery is not None and delivery.thread == get_ident() else None

    def _note_again(self, delivery: Delivery, message: Message[Any], due: Due) -> None:
        self._check(message)
        message = lightened(message, self.large)
        pack_record(message, delivery.record.nonce)  # an error is for who sends it; when its run ends it is too late
        delivery.again = Again(message, due or timedelta())

    def _send(self, sendings: Sequence[tuple[Message[Any], Due]]) -> list[State | None]:
        for message, _ in sendings:
            self._check(message)
        light = [(self._lightened(message), due) for message, due in sendings]
        states = self.engine.enqueue(light)
        refused = [number for number, state in enumerate(states) if state is not None]
        drop_arguments([light[i][0] for i in refused if light[i][0] is not sendings[i][0]], self.large)
        return states

    def _lightened(self, message: Message[Any]) -> Message[Any]:
        while True:
            try:
                return lightened(message, self.large)
            except StoreUnavailable as error:
                if not self._tries_again(error):
                    raise

    def _check(self, message: Message[Any]) -> None:
        if message.queue_name not in self.queues:
            known = ", ".join(sorted(self.queues))
            raise InvalidInput(FieldError("queue", f"there is no queue {message.queue_name!r}; there are {known}"))
        if "eta" in message.options:
            raise InvalidInput(FieldError("options.eta", "is not understood; give a delay"))

    def _together(self, actor_name: str) -> int:
        actor = self.actors.get(actor_name)
        return 1 if actor is None else int(actor.options.get("together", 1))

    def _may_kill(self, message: Message[Any]) -> bool:
        actor = self.actors.get(message.actor_name)
        return actor is not None and in_child(actor.options, message)

    def _keep_of(self, message: Message[Any]) -> timedelta | None:
        """Dramatiq's option `result_ttl`, in ms, of the message or its actor."""
        actor = self.actors.get(message.actor_name)
        default = None if actor is None else actor.options.get("result_ttl")
        return keep_of(message) if default is None or "result_ttl" in message.options else default * MILLISECOND


def _raise_taken(sendings: Sequence[tuple[Message[Any], Due]], states: Sequence[State | None]) -> None:
    for (message, _), state in zip(sendings, states, strict=True):
        if state is not None:
            raise TaskIdTaken(message.message_id, state)


def _wait(delay_ms: int | None) -> timedelta | None:
    try:
        return None if delay_ms is None else delay_ms * MILLISECOND
    except OverflowError as error:
        raise InvalidInput(FieldError("delay", "is too long")) from error


def _delay_ms(due: Due) -> int | None:
    return due // MILLISECOND if isinstance(due, timedelta) else None
