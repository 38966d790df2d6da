"""Sends tasks of the catalog."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from dramatiq import Message
from dramatiq.message import generate_unique_id

from shared.broker.asking import Due
from shared.broker.broker import TaskBroker
from shared.broker.record import USUAL_PRIORITY
from shared.tasks.catalog import QUEUES, Task


class Sending(NamedTuple):
    """A task to be sent, under `task_id` or an id of its own."""

    task: Task
    args: tuple[str, ...] = ()
    task_id: str | None = None
    due: Due = None


class TaskSender:
    """Sends through `broker`."""

    def __init__(self, broker: TaskBroker) -> None:
        self._broker = broker
        for queue in QUEUES:
            broker.declare_queue(queue)

    def send(self, task: Task, *args: str, task_id: str | None = None, due: Due = None) -> str:
        """The id of the task sent. Raises BrokerUnavailable (it may have been sent all the same) and TaskIdTaken."""
        return self.send_many([Sending(task, args, task_id, due)])[0]

    def send_many(self, sendings: Sequence[Sending]) -> list[str]:
        """The ids of the tasks sent. Raises as `send`; any of them may have been sent all the same."""
        messages = [(_message(sending), sending.due) for sending in sendings]
        self._broker.enqueue_many(messages)
        return [message.message_id for message, _ in messages]

    def tick(self, schedule: str, scheduled_at: datetime, task: Task, *args: str) -> str:
        """Sends a schedule's task for this time, unless somebody else has: `sent`, `known`, or `too_old`.

        Raises BrokerUnavailable.
        """
        return self._broker.engine.tick(schedule, scheduled_at, _message(Sending(task, args)))


def _message(sending: Sending) -> Message[Any]:
    task = sending.task
    return Message(
        queue_name=task.queue,
        actor_name=task.name,
        args=sending.args,
        kwargs={},
        options={} if task.priority == USUAL_PRIORITY else {"priority": task.priority},
        message_id=sending.task_id or generate_unique_id(),
    )
