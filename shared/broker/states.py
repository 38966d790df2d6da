"""The states of a task, by Celery's names, and how Redis keeps them."""

import struct
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec
from dramatiq import Message
from dramatiq.middleware import TimeLimitExceeded

from shared.broker.record import USUAL_PRIORITY, Record, check, decode, encode
from shared.clock import from_ms, to_ms
from shared.errors import FieldError, InvalidInput, TaskFailed

RESULT_BYTES = 256 * 1024
MESSAGE_CHARACTERS = 4_000
PLAIN_MODULES = ("builtins", "shared.errors", TimeLimitExceeded.__module__)
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
_LATEST_MS = to_ms(datetime.max.replace(tzinfo=UTC))


class TaskError(msgspec.Struct, frozen=True):
    """An exception, in words."""

    type: str
    message: str
    traceback: str | None = None


class StoredResult(NamedTuple):
    """Stands for a result that is kept outside Redis."""

    reference: str


class Progress(msgspec.Struct, frozen=True):
    """How far a body says it is."""

    current: float
    total: float | None = None
    note: str | None = None


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
        if isinstance(self.result, StoredResult):
            return encode(["stored", self.result.reference])
        if self.result is None:
            return b""
        check("result", self.result)
        packed = encode(["result", self.result])
        if len(packed) > RESULT_BYTES:
            raise InvalidInput(FieldError("result", f"takes {len(packed)} bytes; at most {RESULT_BYTES} are kept"))
        return packed


def error_of(exception: BaseException) -> TaskError:
    """The end of the traceback is kept where it is long: that is where the error was raised."""
    if isinstance(exception, TaskFailed):  # raised in another process, where all of this was seen to
        return TaskError(exception.type, exception.message, exception.traceback)
    return TaskError(
        _in_words(lambda: _class_of(exception)),
        _in_words(lambda: str(exception)[:MESSAGE_CHARACTERS]),
        _in_words(lambda: "".join(traceback.format_exception(exception, limit=-30))[-TRACEBACK_CHARACTERS:]),
    )


def _class_of(exception: BaseException) -> str:
    kind = type(exception)
    return kind.__qualname__ if kind.__module__ in PLAIN_MODULES else f"{kind.__module__}.{kind.__qualname__}"


def _in_words(tell: Callable[[], str]) -> str:
    try:
        return readable(tell())
    except BaseException:  # noqa: BLE001 - a class of the body's, which may do anything
        return "(it cannot be put into words)"


WORKER_LOST = Outcome(
    State.FAILURE, error=TaskError("WorkerLost", "its worker was lost too often while it held this task")
).pack()


class TaskState(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a task; of an exam's deadline that was cancelled only state, reason and end.

    `due_at`: when it is or was due, if it was put off. `stored`: the reference to a result that is kept outside Redis.
    """

    id: str
    state: State
    reason: Reason | None = None
    task: str | None = None
    queue: str | None = None
    priority: int | None = None
    enqueued_at: datetime | None = None
    due_at: datetime | None = None
    expires_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    retries: int = 0
    deliveries: int = 0
    progress: Progress | None = None
    result: Any = None
    stored: str | None = None
    error: TaskError | None = None
    retry_of: str | None = None

    @property
    def is_over(self) -> bool:
        return self.ended_at is not None

    @property
    def time_taken(self) -> timedelta | None:
        """How long the last run took; None where the task has not ended with a run."""
        if self.started_at is None or self.ended_at is None or self.reason in (Reason.CANCELLED, Reason.EXPIRED):
            return None
        return self.ended_at - self.started_at


class About(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What is kept of a task beside how it ended; instants in ms."""

    task: str
    queue: str
    priority: int
    enqueued_at: int
    retries: int = 0
    due_at: int | None = None
    expires_at: int | None = None
    retry_of: str | None = None


def about(record: Record) -> About:
    message = record.message
    options = message.options
    return About(
        message.actor_name,
        message.queue_name,
        record.priority,
        message.message_timestamp,
        options.get("retries", 0),
        options.get("due_at"),
        options.get("expires"),
        options.get("retry_of"),
    )


def ended(task_id: str, over: bytes) -> TaskState:
    """From what lua/lib/finish.lua keeps."""
    state, reason = STATES[over[:1]], _REASONS[over[1:2]]
    told: dict[str, Any] = {}
    if details := over[12:]:
        started_at, (deliveries,) = _instant(details[:6]), struct.unpack(">I", details[6:10])
        known, rest = _cut(details[10:])
        progress, outcome = _cut(rest)
        told = {"started_at": started_at, "deliveries": deliveries, "progress": _progress(progress)}
        told |= _of_about(known) | _of_outcome(outcome)
    return TaskState(id=task_id, state=state, reason=reason, ended_at=_instant(over[2:8]), **told)


def sent(message: Message[Any]) -> TaskState:
    """Of one that has just been sent."""
    record = Record(message, message.options.get("priority", USUAL_PRIORITY), b"")
    return TaskState(id=message.message_id, state=State.PENDING, **_told(about(record)))


def under_way(task_id: str, record: Record, due_ms: int | None, live: Mapping[bytes, bytes]) -> TaskState:
    """From its record, its time in the due set and its live fields."""
    started_at = live.get(b"started_at")
    state = State(live.get(b"state", b"PENDING").decode())
    known = _told(about(record))
    # One that expires before it is due lies in the due set for its expiry; one put off by a retry for the next try.
    if due_ms is not None and (known["due_at"] is None or state is State.RETRY):
        known["due_at"] = instant(due_ms)
    return TaskState(
        id=task_id,
        state=state,
        started_at=None if started_at is None else instant(int(started_at)),
        deliveries=int(live.get(b"deliveries", 0)),
        progress=_progress(live.get(b"progress", b"")),
        **known,
        **_of_outcome(live.get(b"outcome", b"")),
    )


def _of_about(packed: bytes) -> dict[str, Any]:
    return _told(msgspec.msgpack.decode(packed, type=About)) if packed else {}


def _told(known: About) -> dict[str, Any]:
    instants = ("enqueued_at", "due_at", "expires_at")
    return {
        name: instant(value) if name in instants and value is not None else value
        for name, value in msgspec.structs.asdict(known).items()
    }


def _cut(packed: bytes) -> tuple[bytes, bytes]:
    """What its two bytes of length say, and the rest."""
    end = 2 + int.from_bytes(packed[:2], "big")
    return packed[2:end], packed[end:]


def _progress(packed: bytes) -> Progress | None:
    return msgspec.msgpack.decode(packed, type=Progress) if packed else None


def _of_outcome(packed: bytes) -> dict[str, Any]:
    if not packed:
        return {}
    kind, value = decode(packed)
    return {kind: msgspec.convert(value, TaskError) if kind == "error" else value}


def _instant(packed: bytes) -> datetime | None:
    milliseconds = int.from_bytes(packed, "big")
    return instant(milliseconds) if milliseconds else None


def instant(milliseconds: int) -> datetime:
    """The last one that there is for those after it: what somebody has put off so far is still to be looked at."""
    return from_ms(min(milliseconds, _LATEST_MS))


def readable(text: str) -> str:
    """What can be encoded: an exception may quote anything."""
    return text.encode(errors="backslashreplace").decode()
