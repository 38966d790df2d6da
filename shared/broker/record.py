"""Tasks as Redis holds them: short ids, and records whose head the scripts can read.

An id that is a UUID, or a UUID, a dot and a number below 256, is stored in 17 or 18 bytes; any other as it is. A record
is the priority (a digit), the queue (its length, its name), the call's nonce (four bytes), the ms of the enqueuing (six
bytes) and a list in MessagePack: actor, args, kwargs, options, the last ones left out where they are empty.
"""

import math
import re
import struct
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, cast

import msgspec
from dramatiq import Message
from dramatiq.errors import DecodeError

from shared.clock import MILLISECOND
from shared.errors import FieldError, InvalidInput

RECORD_BYTES = 256 * 1024  # four times the body that the API accepts
DEPTH = 100  # a pipeline nests two levels a step
ID_BYTES = 200
NAME_BYTES = 100  # of a queue or an actor
USUAL_PRIORITY = 5  # of 0 to 9; 9 goes first
NONCE_BYTES = 4

_UUID_AND_NUMBER = re.compile(
    "([0-9a-f]{8})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{12})"
    r"(?:\.(0|[1-9][0-9]?|1[0-9][0-9]|2[0-4][0-9]|25[0-5]))?"
)
_INTEGERS = range(-(2**63), 2**64)


class Record(NamedTuple):
    """What a record says: the message, and what only Redis's side needs."""

    message: Message[Any]
    priority: int
    nonce: bytes


def pack_id(message_id: str) -> bytes:
    """Raises InvalidInput for an id that cannot be used."""
    if match := _UUID_AND_NUMBER.fullmatch(message_id):
        *digits, number = match.groups()
        packed = bytes.fromhex("".join(digits))
        return b"u" + packed if number is None else b"n" + packed + bytes([int(number)])
    try:
        encoded = message_id.encode()
    except UnicodeEncodeError:
        encoded = b""
    if not 0 < len(encoded) <= ID_BYTES:
        raise InvalidInput(FieldError("task_id", f"must be 1 to {ID_BYTES} bytes of UTF-8"))
    return b"t" + encoded


def unpack_id(packed: bytes) -> str:
    kind, rest = packed[:1], packed[1:]
    if kind == b"t":
        return rest.decode()
    digits = rest[:16].hex()
    text = f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
    return text if kind == b"u" else f"{text}.{rest[16]}"


def pack_record(message: Message[Any], nonce: bytes) -> bytes:
    """Raises InvalidInput for what cannot be sent: it says which argument, and what is allowed."""
    priority = message.options.get("priority", USUAL_PRIORITY)
    if type(priority) is not int or not 0 <= priority <= 9:
        raise InvalidInput(FieldError("priority", "must be a whole number from 0 to 9; 9 goes first"))
    instant = " of ms since 1970"
    for name, what in (("expires", instant), ("due_at", instant), ("result_ttl", " of ms"), ("retries", "")):
        value = message.options.get(name, 0)
        if type(value) is not int or not 0 <= value < 2**48:
            raise InvalidInput(FieldError(name, f"must be a whole number{what}"))
    _check_text("actor", message.actor_name)
    if not 0 < len(message.actor_name.encode()) <= NAME_BYTES:
        raise InvalidInput(FieldError("actor", f"must be 1 to {NAME_BYTES} bytes long"))
    parts = [message.actor_name, message.args, message.kwargs, message.options]
    while not parts[-1]:
        parts.pop()
    for name, part in zip(("args", "kwargs", "options"), parts[1:], strict=False):
        check(name, part)
    queue = message.queue_name.encode()
    head = struct.pack(
        f">cB{len(queue)}s{NONCE_BYTES}sHI",
        b"%d" % priority,
        len(queue),
        queue,
        nonce,
        *divmod(message.message_timestamp, 2**32),
    )
    record = head + encode(parts)
    if len(record) > RECORD_BYTES:
        raise InvalidInput(FieldError("args", f"take {len(record)} bytes; at most {RECORD_BYTES} are sent"))
    return record


def unpack_record(packed_id: bytes, record: bytes) -> Record:
    """Raises DecodeError."""
    try:
        length = record[1]
        queue = record[2 : 2 + length].decode()
        nonce, high, low = struct.unpack_from(f">{NONCE_BYTES}sHI", record, 2 + length)
        actor, args, kwargs, options = [*decode(record[2 + length + NONCE_BYTES + 6 :]), None, None, None][:4]
        message: Message[Any] = Message(
            queue_name=queue,
            actor_name=actor,
            args=tuple(args or ()),
            kwargs=kwargs or {},
            options=options or {},
            message_id=unpack_id(packed_id),
            message_timestamp=high << 32 | low,
        )
        return Record(message, int(record[:1]), nonce)
    except Exception as error:
        raise DecodeError("this record cannot be read", record, error) from error  # type: ignore[no-untyped-call]


def keep_of(message: Message[Any]) -> timedelta | None:
    """For how long its call wants it to be known how it ended: Dramatiq's option `result_ttl`, in ms."""
    keep = message.options.get("result_ttl")
    return None if keep is None else keep * MILLISECOND


def encode(value: object) -> bytes:
    """MessagePack of what `check` has let pass."""
    return msgspec.msgpack.encode(value)


def decode(data: bytes) -> Any:
    return msgspec.msgpack.decode(data)


def check(name: str, value: object, depth: int = DEPTH) -> None:
    """Raises InvalidInput for what would not arrive as it was sent: all but None, booleans, numbers, strings, and lists
    and objects of these. Exact types only, as a subclass would arrive as its base.
    """
    kind = type(value)
    if kind is list or kind is tuple or kind is dict:
        if depth == 0:
            raise InvalidInput(FieldError(name, f"may be nested {DEPTH} deep at most"))
        for part_name, part in _parts(name, value):
            check(part_name, part, depth - 1)
    elif kind is str:
        _check_text(name, cast(str, value))
    elif kind is int:
        if value not in _INTEGERS:
            raise InvalidInput(FieldError(name, "a whole number must fit into 64 bits"))
    elif kind is float:
        if not math.isfinite(cast(float, value)):
            raise InvalidInput(FieldError(name, "a number must be finite"))
    elif kind is not bool and value is not None:
        what = f"a {kind.__name__} cannot be sent; allowed are null, true, false, numbers, text, lists and objects"
        raise InvalidInput(FieldError(name, what))


def _parts(name: str, value: object) -> Iterator[tuple[str, object]]:
    if not isinstance(value, dict):
        yield from ((f"{name}[{index}]", part) for index, part in enumerate(cast(Sequence[object], value)))
        return
    for key, part in value.items():
        if type(key) is not str:
            raise InvalidInput(FieldError(name, f"an object's keys must be text, not {type(key).__name__}"))
        _check_text(name, key)
        yield f"{name}.{key}", part


def _check_text(name: str, text: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(FieldError(name, "text must be Unicode without lone surrogates")) from error
