"""The query string of `GET /v1/exams`, and its cursor: the pk at which the page before ended."""

import base64
import uuid
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from api.bodies import Query
from api.fields import InstantGiven, Line
from shared.exams.model import Status
from shared.exams.pk import is_pk
from shared.exams.register import ListQuery, Page

DEFAULT_LIMIT, LARGEST_LIMIT = 50, 200

Limit = Annotated[int, msgspec.Meta(ge=1, le=LARGEST_LIMIT, description=f"a whole number from 1 to {LARGEST_LIMIT}")]
Cursor = Annotated[
    str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{22}(?!\n)$", description="the next_cursor of an earlier answer")
]


class ExamsQuery(msgspec.Struct, kw_only=True):
    """Which exams to list, newest first."""

    status: Annotated[Status, msgspec.Meta(description=f"one of {', '.join(Status)}")] | None = None
    candidate: Line | None = None
    started_from: InstantGiven | None = None
    started_to: InstantGiven | None = None
    cursor: Cursor | None = None
    limit: Limit = DEFAULT_LIMIT


EXAMS_QUERY = Query(ExamsQuery)


def wanted(query: ExamsQuery) -> ListQuery:
    """Raises InvalidInput for a cursor of nobody's, and for an instant that its offset moves out of the calendar."""
    return ListQuery(
        status=query.status,
        candidate=query.candidate,
        started_from=_utc("started_from", query.started_from),
        started_to=_utc("started_to", query.started_to),
        before=_before(query.cursor),
        limit=query.limit,
    )


def cursor(page: Page) -> str | None:
    """What a client sends to get the page after this one; None after the last."""
    if page.next_before is None:
        return None
    return base64.urlsafe_b64encode(uuid.UUID(page.next_before).bytes).decode().rstrip("=")


def _before(text: str | None) -> str | None:
    if text is None:
        return None
    pk = str(uuid.UUID(bytes=base64.urlsafe_b64decode(f"{text}==")))
    if not is_pk(pk):
        raise EXAMS_QUERY.bad("cursor")
    return pk


def _utc(name: str, instant: datetime | None) -> datetime | None:
    try:
        return None if instant is None else instant.astimezone(UTC)
    except OverflowError as error:
        raise EXAMS_QUERY.bad(name) from error
