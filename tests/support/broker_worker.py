"""Dramatiq's own Worker on a TaskBroker, inside this process."""

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from dramatiq import Broker, Message, MessageProxy, Middleware, Worker

from shared.broker.asking import Asking
from shared.broker.broker import TaskBroker
from shared.broker.connection import patient_client
from shared.broker.engine import Engine
from shared.broker.scripts import through_pool
from shared.broker.states import TaskState
from shared.errors import TaskNotFound
from shared.redis_keys import RedisKeys
from tests.support.redis_server import PrivateRedis
from tests.support.waiting import eventually

WITHIN_S = 10
WITHIN_MS = 1_000 * WITHIN_S

_BROKEN = "Unhandled error during post_process_message"  # logged by Dramatiq as an error, though a task may hang then


def task_broker(
    server: PrivateRedis | str, middleware: Sequence[Middleware] | None = None, namespace: str = "test"
) -> TaskBroker:
    """On a connection of its own to this server, or this URL. `middleware`: the usual one, unless given."""
    client = patient_client(server if isinstance(server, str) else server.url)
    keys = RedisKeys(namespace)
    return TaskBroker(Engine(Asking(through_pool(client), keys), timedelta(hours=24)), client, keys, middleware)


@contextmanager
def working(broker: TaskBroker, threads: int = 2, queues: Collection[str] = ()) -> Iterator[Worker]:
    """A worker for these queues, or for all. At the end every thread must be alive and none may have logged a failure
    that Dramatiq swallows.
    """
    worker = Worker(broker, queues=set(queues), worker_threads=threads, worker_timeout=100)
    with _swallowed_failures() as failures:
        worker.start()
        try:
            yield worker
            parts = broker.lifecycle.parts
            assert parts is not None
            assert all(thread.is_alive() for thread in [*worker.consumers.values(), *worker.workers, *parts.loops])
        finally:
            worker.stop(timeout=WITHIN_MS)
    assert not failures


@contextmanager
def _swallowed_failures() -> Iterator[list[str]]:
    failures: list[str] = []

    class Collecting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.CRITICAL or record.msg.startswith(_BROKEN):
                failures.append(self.format(record))

    handler, logger = Collecting(), logging.getLogger("dramatiq")
    logger.addHandler(handler)
    try:
        yield failures
    finally:
        logger.removeHandler(handler)


def once_over(broker: TaskBroker, message: Message[Any], within_s: float = WITHIN_S) -> TaskState:
    """How its task has ended."""

    def look() -> TaskState | None:
        try:
            state = broker.engine.look_up(message.message_id)
        except TaskNotFound:  # the next of a pipeline has not been sent yet
            return None
        return state if state.is_over else None

    state = eventually(look, within_s, f"the end of {message}")
    assert state is not None
    return state


class StatesSeen(Middleware):
    """What is known of each task just before its body runs and just after its run has been acknowledged."""

    def __init__(self) -> None:
        self._seen: list[TaskState] = []

    def of(self, message: Message[Any]) -> list[TaskState]:
        """In their order. Of a worker with one thread, as another may have begun the next run already."""
        return [state for state in self._seen if state.id == message.message_id]

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        assert isinstance(broker, TaskBroker)
        self._seen.append(broker.engine.look_up(message.message_id))

    def after_ack(self, broker: Broker, message: MessageProxy) -> None:
        self.before_process_message(broker, message)

    def after_nack(self, broker: Broker, message: MessageProxy) -> None:
        self.before_process_message(broker, message)
