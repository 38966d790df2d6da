"""Sends print_message tasks, a batch of messages at a time."""

from collections.abc import Callable, Sequence

from shared.errors import BrokerUnavailable
from shared.tasks.catalog import PRINT_MESSAGE
from shared.tasks.sender import TaskSender


def send_messages(sender: TaskSender) -> Callable[[Sequence[str]], list[str | Exception]]:
    """For each message the id of its task, or BrokerUnavailable."""

    def send(messages: Sequence[str]) -> list[str | Exception]:
        return [_send(message) for message in messages]

    def _send(message: str) -> str | Exception:
        try:
            return sender.send(PRINT_MESSAGE, message)
        except BrokerUnavailable as error:
            return error

    return send
