"""The states of a task, by Celery's names, and how Redis keeps them."""

import struct
import traceback
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from shared.broker.record import Record, check, decode, encode
from shared.clock import from_ms
from shared.errors import FieldError, InvalidInput

RESULT_BYTES = 256 * 1024
MESSAGE_CHARACTERS = 4_000
TRACEBACK_CHARACTERS = 16_000


class State(StrEnum):
    """The last four are final: no task leaves them."""

    PENDING = "PENDING"
    STARTED = "STARTED"
    RETRY = "RETRY"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    IGNORED = "IGNORED"
    REVOKED = "REVOKED"


class Reason(StrEnum):
    """Why a task is REVOKED."""

    CANCELLED = "cancelled"
    EXPIRED = "expired"
    TERMINATED = "terminated"


STATES = {b"S": State.SUCCESS, b"F": State.FAILURE, b"I": State.IGNORED, b"R": State.REVOKED}
_REASONS = {b"-": None, b"c": Reason.CANCELLED, b"e": Reason.EXPIRED, b"t": Reason.TERMINATED}
_STATE_LETTERS = {state: letter for letter, state in STATES.items()}
_REASON_LETTERS = {reason: letter for letter, reason in _REASONS.items()}


class TaskError(msgspec.Struct, frozen=True):
    """An exception, in words."""

    type: str
    message: str
    traceback: str | None = None


class Outcome(NamedTuple):
    """What came of a run: the state its task is in now, and a result or an error."""

    state: State
    reason: Reason | None = None
    result: object = None
    error: TaskError | None = None

    @property
    def letters(self) -> tuple[bytes, bytes]:
        """Of a final state and its reason."""
        return _STATE_LETTERS[self.state], _REASON_LETTERS[self.reason]

    def pack(self) -> bytes:
        """Raises InvalidInput for a result that cannot be kept."""
        if self.error is not None:
            return encode(["error", self.error])
        if self.result is None:
            return b""
        check("result", self.result)
        packed = encode(["result", self.result])
        if len(packed) > RESULT_BYTES:
            raise InvalidInput(FieldError("result", f"takes {len(packed)} bytes; at most {RESULT_BYTES} are kept"))
        return packed


def error_of(exception: BaseException) -> TaskError:
    """The end of the traceback is kept where it is long: that is where the error was raised."""
    kind = type(exception)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    lines = "".join(traceback.format_exception(exception, limit=-30))
    try:
        message = str(exception)[:MESSAGE_CHARACTERS]
    except Exception:  # noqa: BLE001 - a class of the body's, which may do anything
        message = "(it cannot be put into words)"
    return TaskError(readable(module + kind.__qualname__), readable(message), readable(lines[-TRACEBACK_CHARACTERS:]))


WORKER_LOST = Outcome(
    State.FAILURE, error=TaskError("WorkerLost", "its worker was lost too often while it held this task")
).pack()


class TaskState(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a task. Of one that was revoked before it ever began only state, reason and end are."""

    id: str
    state: State
    reason: Reason | None = None
    task: str | None = None
    queue: str | None = None
    priority: int | None = None
    enqueued_at: datetime | None = None
    due_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    retries: int = 0
    deliveries: int = 0
    result: Any = None
    error: TaskError | None = None

    @property
    def is_over(self) -> bool:
        return self.ended_at is not None

    @property
    def time_taken(self) -> timedelta | None:
        """How long the last run took."""
        if self.started_at is None or self.ended_at is None:
            return None
        return self.ended_at - self.started_at


class About(msgspec.Struct, frozen=True, array_like=True):
    """What is kept of a task beside how it ended; `enqueued_at` in ms."""

    task: str
    queue: str
    priority: int
    enqueued_at: int
    retries: int


def about(record: Record) -> About:
    message = record.message
    retries = message.options.get("retries", 0)
    return About(message.actor_name, message.queue_name, record.priority, message.message_timestamp, retries)


def ended(task_id: str, over: bytes) -> TaskState:
    """From what lua/lib/finish.lua keeps."""
    state, reason = STATES[over[:1]], _REASONS[over[1:2]]
    told: dict[str, Any] = {}
    if details := over[12:]:
        started_at, deliveries, length = _instant(details[:6]), *struct.unpack(">IH", details[6:12])
        told = {"started_at": started_at, "deliveries": deliveries}
        told |= _of_about(details[12 : 12 + length]) | _of_outcome(details[12 + length :])
    return TaskState(id=task_id, state=state, reason=reason, ended_at=_instant(over[2:8]), **told)


def under_way(task_id: str, record: Record, due_ms: int | None, live: Mapping[bytes, bytes]) -> TaskState:
    """From its record, its time in the due set and its live fields."""
    started_at = live.get(b"started_at")
    known = about(record)
    return TaskState(
        id=task_id,
        state=State(live.get(b"state", b"PENDING").decode()),
        task=known.task,
        queue=known.queue,
        priority=known.priority,
        enqueued_at=from_ms(known.enqueued_at),
        due_at=None if due_ms is None else from_ms(due_ms),
        started_at=None if started_at is None else from_ms(int(started_at)),
        retries=int(live.get(b"retries", 0)),
        deliveries=int(live.get(b"deliveries", 0)),
        **_of_outcome(live.get(b"outcome", b"")),
    )


def _of_about(packed: bytes) -> dict[str, Any]:
    if not packed:
        return {}
    known = msgspec.msgpack.decode(packed, type=About)
    return msgspec.structs.asdict(known) | {"enqueued_at": from_ms(known.enqueued_at)}


def _of_outcome(packed: bytes) -> dict[str, Any]:
    if not packed:
        return {}
    kind, value = decode(packed)
    return {kind: msgspec.convert(value, TaskError) if kind == "error" else value}


def _instant(packed: bytes) -> datetime | None:
    milliseconds = int.from_bytes(packed, "big")
    return from_ms(milliseconds) if milliseconds else None


def readable(text: str) -> str:
    """What can be encoded: an exception may quote anything."""
    return text.encode(errors="backslashreplace").decode()
