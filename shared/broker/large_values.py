"""Arguments and results that are too large for Redis: they are kept elsewhere, and only a reference travels."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, Protocol

from dramatiq import Message

from shared.broker.record import encode
from shared.broker.states import StoredResult
from shared.errors import InvalidInput, StoreUnavailable

INLINE_BYTES = 64 * 1024


class LargeValues(Protocol):
    """Where they are kept. Every method raises StoreUnavailable."""

    def keep_value(self, task_id: str, role: Literal["args", "result"], value: object) -> str:
        """The reference to it. Raises InvalidInput for what cannot be sent, or is too large even here."""

    def load_value(self, reference: str) -> Any:
        """Raises PayloadMissing."""

    def share_arguments(self, reference: str, task_id: str) -> str:
        """Another task's own reference to the same. Raises PayloadMissing."""

    def references(self, task_id: str) -> list[str]: ...

    def remove(self, *references: str) -> None: ...


def lightened(message: Message[Any], large: LargeValues | None) -> Message[Any]:
    """The message as it travels: without its arguments where they are large."""
    if large is None or not _is_large([message.args, message.kwargs]):
        return message
    reference = large.keep_value(message.message_id, "args", [message.args, message.kwargs])
    return message.copy(args=(), kwargs={}, options={"stored": reference})


def arguments_of(message: Message[Any], large: LargeValues | None) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """What the body is to be given."""
    if large is None or "stored" not in message.options:
        return message.args, message.kwargs
    args, kwargs = large.load_value(message.options["stored"])
    return args, kwargs


def lightened_result(task_id: str, result: Any, large: LargeValues | None) -> Any:
    """The result as it travels."""
    if large is None or isinstance(result, StoredResult) or not _is_large(result):
        return result
    return StoredResult(large.keep_value(task_id, "result", result))


def drop_arguments(messages: Iterable[Message[Any]], large: LargeValues | None) -> None:
    """Of tasks that have ended, or were not sent after all. What the disk does not let go of is cleared away later."""
    references = [message.options["stored"] for message in messages if "stored" in message.options]
    if large is not None and references:
        with suppress(StoreUnavailable):
            large.remove(*references)


def drop_all(task_id: str, large: LargeValues | None) -> None:
    """Of a task that has ended with neither a result nor a dead letter."""
    if large is not None:
        with suppress(StoreUnavailable):
            large.remove(*large.references(task_id))


def _is_large(value: object) -> bool:
    if value is None:
        return False
    try:
        return len(encode(value)) > INLINE_BYTES
    except (TypeError, ValueError, OverflowError, RecursionError, InvalidInput):
        return False  # it cannot be sent at all; who packs it says why
