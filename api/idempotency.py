"""Requests that a client may send again without fear: those with an Idempotency-Key."""

import contextlib
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from falcon.asgi import Request, Response

from shared.idempotency import HEADER, KEY_LIMIT, Attempt

REPLAYED = "Idempotent-Replayed"

IdempotencyKey = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=KEY_LIMIT,
        pattern=r"^[!-~]([ -~]*[!-~])?$",  # spaces at either end belong to no header's value
        description=f"1 to {KEY_LIMIT} printable ASCII characters. The same request with the same key within 24 hours "
        f"makes nothing twice, and its answer says {REPLAYED}: true. With another body it is refused",
    ),
]
KEY_HEADER = {HEADER: IdempotencyKey}


def attempt_of(req: Request, body: msgspec.Struct) -> Attempt | None:
    """What a request with a key is an attempt at; None where it has none. Raises InvalidInput for a bad key.

    Bodies are the same where they mean the same: spaces, the order of fields, and the zones that their own instants are
    written in do not count.
    """
    key = req.get_header(HEADER)
    if key is None:
        return None
    caller: Any = req.context.caller
    packed = msgspec.json.encode(_in_utc(body), order="deterministic")
    return Attempt(caller.id, f"{req.method} {req.uri_template}", key, packed)


def _in_utc(body: msgspec.Struct) -> msgspec.Struct:
    instants = {name: value for name, value in msgspec.structs.asdict(body).items() if isinstance(value, datetime)}
    with contextlib.suppress(OverflowError):  # out of the calendar: refused later, by name
        return msgspec.structs.replace(body, **{name: value.astimezone(UTC) for name, value in instants.items()})
    return body


def mark(resp: Response, *, is_repeat: bool) -> None:
    if is_repeat:
        resp.set_header(REPLAYED, "true")
