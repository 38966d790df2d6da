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
from dramatiq.middleware import AgeLimit, Callbacks, Pipelines, Retries
from dramatiq.results import Results

from shared.broker.asking import Due
from shared.broker.consumer import QueueConsumer
from shared.broker.deliveries import Again, Delivery, HeldMessage, Retry
from shared.broker.engine import Engine
from shared.broker.interrupts import Interrupts
from shared.broker.lifecycle import Lifecycle
from shared.broker.record import NAME_BYTES, pack_record
from shared.broker.results import EngineResults
from shared.broker.runs import TRY_AGAIN_S
from shared.broker.worker_parts import WorkerParts
from shared.clock import MILLISECOND
from shared.errors import FieldError, InvalidInput, TaskIdTaken
from shared.redis_keys import RedisKeys


def usual_middleware() -> list[Middleware]:
    """Dramatiq's own, but for time limits and notice of a shutdown: those interrupt acknowledging too."""
    return [AgeLimit(), Callbacks(), Pipelines(), Retries()]


class TaskBroker(RedisBroker):
    """Stock Dramatiq above it, the engine below. `middleware` comes after what the engine needs itself.

    `client` is for a worker; what is sent goes through `engine`.
    """

    def __init__(
        self, engine: Engine, client: "redis.Redis", keys: RedisKeys, middleware: Sequence[Middleware] | None = None
    ) -> None:
        self.engine = engine
        engine.keep_trying_while(self._waits_for_redis)
        interrupts = Interrupts()
        self.lifecycle = Lifecycle(partial(WorkerParts, client, keys, engine.keep, self._keep_of, interrupts))
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
            message.retry = Retry(wait or timedelta(), dict(message.options))
        elif delivery := self._running_here(message):
            self._note_again(delivery, message, wait)
        else:
            self._send([(message, wait)])
        self.emit_after("enqueue", message, delay)
        return message

    def enqueue_many(self, sendings: Sequence[tuple[Message[Any], Due]]) -> None:
        """In one round trip. Raises as `enqueue`; those whose id is not taken are sent all the same.

        Hooks are told the delay of what is due after a while, and none for what is due at an instant.
        """
        for message, due in sendings:
            self.emit_before("enqueue", message, _delay_ms(due))
        new = []
        for message, due in sendings:
            if delivery := self._running_here(message):
                self._note_again(delivery, message, due)
            else:
                new.append((message, due))
        self._send(new)
        for message, due in sendings:
            self.emit_after("enqueue", message, _delay_ms(due))

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

    def _waits_for_redis(self) -> bool:
        """A run does, in its body and after it: else what a hook sends, such as the next of a pipeline, is lost."""
        parts = self.lifecycle.parts
        is_run = parts is not None and parts.held.is_run_by(get_ident())
        return parts is not None and is_run and not parts.runs.giving_up.wait(TRY_AGAIN_S)

    def _running_here(self, message: Message[Any]) -> Delivery | None:
        """The delivery of this very task, if it is this thread that runs it."""
        parts = self.lifecycle.parts
        delivery = None if parts is None else parts.held.get(message.message_id)
        return delivery if delivery is not None and delivery.thread == get_ident() else None

    def _note_again(self, delivery: Delivery, message: Message[Any], due: Due) -> None:
        self._check(message)
        pack_record(message, delivery.record.nonce)  # an error is for who sends it; when its run ends it is too late
        delivery.again = Again(message, due or timedelta())

    def _send(self, sendings: Sequence[tuple[Message[Any], Due]]) -> None:
        for message, _ in sendings:
            self._check(message)
        for (message, _), state in zip(sendings, self.engine.enqueue(sendings), strict=True):
            if state is not None:
                raise TaskIdTaken(message.message_id, state)

    def _check(self, message: Message[Any]) -> None:
        if message.queue_name not in self.queues:
            known = ", ".join(sorted(self.queues))
            raise InvalidInput(FieldError("queue", f"there is no queue {message.queue_name!r}; there are {known}"))
        if "eta" in message.options:
            raise InvalidInput(FieldError("options.eta", "is not understood; give a delay"))

    def _together(self, actor_name: str) -> int:
        actor = self.actors.get(actor_name)
        return 1 if actor is None else int(actor.options.get("together", 1))

    def _keep_of(self, message: Message[Any]) -> timedelta | None:
        """Dramatiq's option `result_ttl`, in ms, of the message or its actor."""
        actor = self.actors.get(message.actor_name)
        default = None if actor is None else actor.options.get("result_ttl")
        keep = message.options.get("result_ttl", default)
        return None if keep is None else keep * MILLISECOND


def _wait(delay_ms: int | None) -> timedelta | None:
    try:
        return None if delay_ms is None else delay_ms * MILLISECOND
    except OverflowError as error:
        raise InvalidInput(FieldError("delay", "is too long")) from error


def _delay_ms(due: Due) -> int | None:
    return due // MILLISECOND if isinstance(due, timedelta) else None
