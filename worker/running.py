"""Runs bodies: in the worker's own threads, or in a child process where a body must be stoppable."""

import os
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from dramatiq import Message, MessageProxy

from shared.broker.deliveries import Delivery, HeldMessage
from shared.broker.interrupts import Revoked, Run
from shared.broker.large_values import arguments_of, lightened_result
from shared.broker.record import USUAL_PRIORITY, check
from shared.broker.retries import FailedInChild, RetryLater
from shared.broker.runs import TRY_AGAIN_S
from shared.broker.states import Progress, StoredResult, instant
from shared.clock import MILLISECOND
from shared.errors import Ignore, SettingsError, StoreUnavailable
from shared.services import Services
from shared.tasks.task import Task
from worker.bodies import Body
from worker.bound_task import BoundTask, Request
from worker.job import (
    CANCELLED,
    NO,
    PROGRESS,
    YES,
    Done,
    Failed,
    Ignored,
    Job,
    Reply,
    Retry,
    decode_reply,
    encode_job,
)
from worker.slots import Running, Slots

T = TypeVar("T")

# Options by which Dramatiq itself sends what follows, with the result, before the engine hears of the end.
_FOLLOWING = {"pipe_target", "on_success", "group_completion_callbacks"}


class Bodies:
    """Makes each body when it is first needed: most of a worker's queues need few.

    Raises SettingsError for a setting that a body lacks.
    """

    def __init__(self, services: Services, bodies: Mapping[str, Body]) -> None:
        self._services = services
        self._bodies = bodies
        self._made: dict[str, Callable[..., Any]] = {}

    def function(self, task: Task[..., Any]) -> Callable[..., Any]:
        if task.name not in self._made:  # made twice by two threads at once, both are good
            self._made[task.name] = self._bodies[task.name].make(self._services)
        return self._made[task.name]

    def is_bound(self, task: Task[..., Any]) -> bool:
        return self._bodies[task.name].bind

    def task(self, name: str) -> Task[..., Any]:
        return self._bodies[name].task


class Runner:
    """What Dramatiq's actors call. `slots`: None in a worker that has no child processes."""

    def __init__(self, services: Services, bodies: Bodies, slots: Slots | None) -> None:
        self._large = services.payloads
        self._engine = services.broker.engine
        self._lifecycle = services.broker.lifecycle
        self._run_here: Callable[[], Run] = services.broker.interrupts.run_here
        self._bodies = bodies
        self._slots = slots

    def actor_function(self, task: Task[..., Any]) -> Callable[..., Any]:
        """What Dramatiq gives it is passed over: arguments are fetched here if they are large, and have their types."""

        def run(*_args: Any, **_kwargs: Any) -> Any:
            here = self._run_here()
            message = _held(here.message)
            if task.together == 1 and runs_in_child(task, message.deliveries[0].message):
                return self._run_in_child(task, message, here)
            return self._run_in_thread(task, message)

        return run

    def _run_in_thread(self, task: Task[..., Any], message: HeldMessage) -> Any:
        """What cannot be told of its result is the run's own failure, before anything follows from it."""
        first = message.deliveries[0]
        body = self._bodies.function(task)
        if task.together > 1:
            result = _call(body, [self._only_argument(task, each) for each in message.deliveries])
        else:
            args, kwargs = self._arguments(task, first)
            if self._bodies.is_bound(task):
                args.insert(0, _bound(task, first))
            result = _call(body, *args, **kwargs)
        if len(message.deliveries) == 1:
            kept = self._patiently(first, lambda: lightened_result(first.message.message_id, result, self._large))
            if isinstance(kept, StoredResult):
                message.result = kept
                return result
        check("result", result)
        return result

    def _arguments(self, task: Task[..., Any], delivery: Delivery) -> tuple[list[Any], dict[str, Any]]:
        return task.arguments.read(*self._patiently(delivery, lambda: arguments_of(delivery.message, self._large)))

    def _only_argument(self, task: Task[..., Any], delivery: Delivery) -> Any:
        args, kwargs = self._arguments(task, delivery)
        (value,) = (*args, *kwargs.values())
        return value

    def _patiently(self, delivery: Delivery, call: Callable[[], T]) -> T:
        """Waits for the disk as long as the worker runs and the task is its own."""
        while True:
            try:
                return call()
            except StoreUnavailable:
                if self._lifecycle.booted.runs.giving_up.wait(TRY_AGAIN_S) or delivery.is_over:
                    raise

    def _run_in_child(self, task: Task[..., Any], message: HeldMessage, here: Run) -> Any:
        if self._slots is None:
            raise SettingsError(f"{task.name} needs a child process for its limits, and this worker has none")
        (delivery,) = message.deliveries
        job = Job(
            request=request_of(task, delivery),
            args=delivery.message.args,
            kwargs=delivery.message.kwargs,
            stored=message.options.get("stored"),
            soft_limit_ms=_limit(message, "soft_time_limit", task.soft_time_limit),
        )
        hard_limit_ms = _limit(message, "time_limit", task.time_limit)

        def answer(question: bytes) -> bytes:
            if question == CANCELLED:
                return YES if is_cancelled(delivery) else NO
            delivery.progress = question.removeprefix(PROGRESS)
            return YES

        def on_start(running: Running) -> None:
            here.hand_over(running.stop)

        reply = self._slots.run(
            encode_job(job),
            time_limit_s=None if hard_limit_ms is None else hard_limit_ms / 1000,
            answer=answer,
            on_start=on_start,
        )
        return self._outcome(decode_reply(reply), message)

    def _outcome(self, reply: Reply, message: HeldMessage) -> Any:
        if isinstance(reply, Failed):
            raise FailedInChild(*msgspec.structs.astuple(reply.error), is_retried=reply.is_retried)
        if isinstance(reply, Retry):
            cause = None if reply.cause is None else FailedInChild(*msgspec.structs.astuple(reply.cause))
            raise RetryLater(reply.delay_ms) from cause
        if isinstance(reply, Ignored):
            raise Ignore
        (delivery,) = message.deliveries
        is_followed = not _FOLLOWING.isdisjoint(message.options)
        if is_followed and not self._engine.let_end(delivery.message.message_id, delivery.token):
            raise Revoked
        if isinstance(reply, Done):
            return reply.result
        message.result = kept = StoredResult(reply.reference)
        return self._patiently(delivery, lambda: self._large.load_value(kept.reference)) if is_followed else None


def runs_in_child(task: Task[..., Any], message: Message[Any] | MessageProxy) -> bool:
    """As the task is declared, or because this call has a limit of its own."""
    return task.needs_child or "time_limit" in message.options or "soft_time_limit" in message.options


def request_of(task: Task[..., Any], delivery: Delivery) -> Request:
    message = delivery.message
    options = message.options
    return Request(
        id=message.message_id,
        task=task.name,
        queue=message.queue_name,
        priority=options.get("priority", USUAL_PRIORITY),
        retries=options.get("retries", 0),
        max_retries=options.get("max_retries", task.max_retries),
        deliveries=delivery.number,
        eta=_instant(options.get("due_at")),
        expires=_instant(options.get("expires")),
    )


def is_cancelled(delivery: Delivery) -> bool:
    return delivery.is_cancelled or delivery.is_over


def _bound(task: Task[..., Any], delivery: Delivery) -> BoundTask:
    def report(progress: Progress) -> None:
        delivery.progress = msgspec.msgpack.encode(progress)

    return BoundTask(request_of(task, delivery), report, lambda: is_cancelled(delivery))


def _limit(message: HeldMessage, name: str, declared: Any) -> int | None:
    """In ms: the call's own, or the task's."""
    return message.options.get(name, None if declared is None else declared // MILLISECOND)


def _instant(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else instant(milliseconds)


def _call(body: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    me = os.getpid()
    try:
        return body(*args, **kwargs)
    finally:
        if os.getpid() != me:  # the body has forked, and this is not the process that was given the task
            os._exit(0)


def _held(message: MessageProxy) -> HeldMessage:
    if not isinstance(message, HeldMessage):
        raise TypeError("this worker runs on another broker")
    return message
