"""What a worker and its child processes tell each other, in MessagePack."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from shared.broker.states import TaskError
from worker.bound_task import Request

# Questions: whether the task has been cancelled; or, after this prefix, how far it is.
CANCELLED, PROGRESS = b"c", b"p"
YES, NO = b"y", b"n"


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A task to run; `stored`: the reference to its arguments, where they are large."""

    request: Request
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    stored: str | None
    soft_limit_ms: int | None


class Done(msgspec.Struct, frozen=True, tag=True):
    result: Any


class Kept(msgspec.Struct, frozen=True, tag=True):
    """The result is large, and kept under this reference."""

    reference: str


class Failed(msgspec.Struct, frozen=True, tag=True):
    """`is_retried`: whether the task is declared to be tried again after this."""

    error: TaskError
    is_retried: bool


class Retry(msgspec.Struct, frozen=True, tag=True):
    """The body has asked for it."""

    delay_ms: int | None
    cause: TaskError | None


class Ignored(msgspec.Struct, frozen=True, tag=True):
    """As the body wished."""


Reply = Done | Kept | Failed | Retry | Ignored

encode_job = msgspec.msgpack.Encoder().encode
decode_job = msgspec.msgpack.Decoder(Job).decode
encode_reply = msgspec.msgpack.Encoder().encode
decode_reply = msgspec.msgpack.Decoder(Reply).decode
