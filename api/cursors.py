"""Cursors of lists of tasks: where a page has ended, as text that its client need not understand."""

import base64
import binascii
from typing import Annotated

import msgspec

from shared.broker.engine import Place
from shared.errors import FieldError, InvalidInput
from shared.tasks.listing import Cursor, TaskPage

CursorText = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z0-9_-]{1,400}(?!\n)$", description="the next_cursor of an earlier answer to the same query"
    ),
]


class _Packed(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    section: Annotated[int, msgspec.Meta(ge=0, le=100)]
    score: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
    id: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


def cursor_text(page: TaskPage) -> str | None:
    """What a client sends to get the page after this one; None after the last."""
    if page.next is None:
        return None
    packed = msgspec.msgpack.encode(_Packed(page.next.section, page.next.place.score, page.next.place.id))
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def cursor_of(text: CursorText | None) -> Cursor | None:
    """Raises InvalidInput for a text that is none."""
    if text is None:
        return None
    try:
        packed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        found = msgspec.msgpack.decode(packed, type=_Packed)
    except (binascii.Error, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidInput(FieldError("cursor", "must be the next_cursor of an earlier answer")) from error
    return Cursor(found.section, Place(found.score, found.id))
