"""The query string of `GET /v1/exams`, and its cursor: the pk at which the page before ended."""

import base64
import binascii
import re
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

import msgspec

from api.texts import TEXT_LIMIT, text_error
from shared.errors import FieldError, InvalidInput
from shared.exams.model import Status
from shared.exams.pk import is_pk
from shared.exams.register import ListQuery, Page

LIST_PARAMETERS = ("status", "candidate", "started_from", "started_to", "limit", "cursor")
DEFAULT_LIMIT, LARGEST_LIMIT = 50, 200

T = TypeVar("T")


def list_query(parameters: Mapping[str, str]) -> ListQuery:
    """Raises InvalidInput naming every parameter that cannot be used."""
    errors: list[FieldError] = []

    def read(name: str, parse: Callable[[str], T]) -> T | None:
        if name not in parameters:
            return None
        try:
            return parse(parameters[name])
        except ValueError as error:
            errors.append(FieldError(name, str(error)))
            return None

    wanted = ListQuery(
        status=read("status", _status),
        candidate=read("candidate", _candidate),
        started_from=read("started_from", _instant),
        started_to=read("started_to", _instant),
        before=read("cursor", _before),
        limit=read("limit", _limit) or DEFAULT_LIMIT,
    )
    if errors:
        raise InvalidInput(*errors)
    return wanted


def cursor(page: Page) -> str | None:
    """What a client sends to get the page after this one; None after the last."""
    if page.next_before is None:
        return None
    return base64.urlsafe_b64encode(uuid.UUID(page.next_before).bytes).decode().rstrip("=")


def _before(text: str) -> str:
    try:
        pk = str(uuid.UUID(bytes=base64.b64decode(f"{text}==", altchars=b"-_", validate=True)))
    except (ValueError, binascii.Error):
        pk = ""
    if len(text) != 22 or not is_pk(pk):
        raise ValueError("must be the next_cursor of an earlier answer")
    return pk


def _status(text: str) -> Status:
    if text not in set(Status):
        raise ValueError(f"must be one of {', '.join(Status)}")
    return Status(text)


def _candidate(text: str) -> str:
    if message := text_error(text, TEXT_LIMIT):
        raise ValueError(message)
    return text


def _instant(text: str) -> datetime:
    try:
        instant = msgspec.convert(text, datetime)
        if instant.tzinfo is not None:
            return instant.astimezone(UTC)
    except (msgspec.ValidationError, OverflowError):  # an offset may lead out of the years 1 to 9999
        pass
    raise ValueError("must be an instant such as 2026-11-20T10:45:00Z (a + in an offset is written %2B)")


def _limit(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,3}", text) or not 1 <= int(text) <= LARGEST_LIMIT:
        raise ValueError(f"must be a whole number from 1 to {LARGEST_LIMIT}")
    return int(text)
