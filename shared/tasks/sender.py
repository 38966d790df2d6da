"""Sends tasks of the catalog."""

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

from dramatiq import Message
from dramatiq.message import generate_unique_id

from shared.broker.breaker import Breaker
from shared.broker.connection import BatchingBroker
from shared.clock import MILLISECOND
from shared.tasks.catalog import QUEUES, Task


class Sending(NamedTuple):
    """A task to be sent: under `task_id` or an id of its own; due at once, or after `delay`, rounded up to a ms."""

    task: Task
    args: tuple[str, ...] = ()
    task_id: str | None = None
    delay: timedelta | None = None


class TaskSender:
    """Sends through `broker`, and not at all while `breaker` skips."""

    def __init__(self, broker: BatchingBroker, breaker: Breaker) -> None:
        self._broker = broker
        self._breaker = breaker
        for queue in QUEUES:
            broker.declare_queue(queue)

    def send(self, task: Task, *args: str, task_id: str | None = None, delay: timedelta | None = None) -> str:
        """The id of the task sent. Raises BrokerUnavailable; the task may have been sent all the same."""
        message = _message(Sending(task, args, task_id))
        self._breaker.call(lambda: self._broker.enqueue(message, delay=_delay_ms(delay)))
        return message.message_id

    def send_many(self, sendings: Sequence[Sending]) -> list[str]:
        """The ids of the tasks sent. Raises BrokerUnavailable; any of them may have been sent all the same."""
        messages = [(_message(sending), _delay_ms(sending.delay)) for sending in sendings]
        self._breaker.call(lambda: self._broker.enqueue_many(messages))
        return [message.message_id for message, _ in messages]


def _message(sending: Sending) -> Message[None]:
    return Message(
        queue_name=sending.task.queue,
        actor_name=sending.task.name,
        args=sending.args,
        kwargs={},
        options={},
        message_id=sending.task_id or generate_unique_id(),
    )


def _delay_ms(delay: timedelta | None) -> int | None:
    return None if delay is None else max(0, -(-delay // MILLISECOND))
