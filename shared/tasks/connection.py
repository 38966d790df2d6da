"""Through what this process sends its tasks, so that `print_message.delay("hello")` needs no more than that."""

from typing import TYPE_CHECKING

from shared.errors import NotConnected

if TYPE_CHECKING:
    from shared.tasks.sender import TaskSender

_sender: "TaskSender | None" = None


def connect(sender: "TaskSender | None") -> None:
    """From now on tasks are sent through this one; None for none. shared/services.py calls it."""
    global _sender
    _sender = sender


def connected() -> "TaskSender":
    """Raises NotConnected."""
    if _sender is None:
        raise NotConnected("this process is connected to no Redis: call shared.services.connect first")
    return _sender
