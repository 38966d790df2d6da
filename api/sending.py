"""Sends print_message tasks, a batch of messages at a time."""

from collections.abc import Callable, Sequence

from shared.tasks.catalog import PRINT_MESSAGE
from shared.tasks.sender import Sending, TaskSender


def send_messages(sender: TaskSender) -> Callable[[Sequence[str]], Sequence[str]]:
    """For each message the id of its task. Raises BrokerUnavailable for all of them."""

    def send(messages: Sequence[str]) -> Sequence[str]:
        return sender.send_many([Sending(PRINT_MESSAGE, (message,)) for message in messages])

    return send
