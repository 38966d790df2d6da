"""Sends tasks of the catalog."""

from datetime import timedelta

from dramatiq import Broker, Message
from dramatiq.message import generate_unique_id

from shared.broker.breaker import Breaker
from shared.clock import MILLISECOND
from shared.tasks.catalog import QUEUES, Task


class TaskSender:
    """Sends through `broker`, and not at all while `breaker` skips."""

    def __init__(self, broker: Broker, breaker: Breaker) -> None:
        self._broker = broker
        self._breaker = breaker
        for queue in QUEUES:
            broker.declare_queue(queue)

    def send(self, task: Task, *args: str, task_id: str | None = None, delay: timedelta | None = None) -> str:
        """The id of the task sent: `task_id`, or one of its own. Due at once, or after `delay`, rounded up to a ms.

        Raises BrokerUnavailable; the task may have been sent all the same.
        """
        message: Message[None] = Message(
            queue_name=task.queue,
            actor_name=task.name,
            args=args,
            kwargs={},
            options={},
            message_id=task_id or generate_unique_id(),
        )
        delay_ms = None if delay is None else max(0, -(-delay // MILLISECOND))
        self._breaker.call(lambda: self._broker.enqueue(message, delay=delay_ms))
        return message.message_id
