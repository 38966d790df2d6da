"""An exam as its readers see it."""

from datetime import datetime
from typing import Annotated, Any

import msgspec

from api.fields import Instant, Pk
from shared.clock import rfc3339, seconds
from shared.exams.model import Ended, Event, Exam, Started, Status

ExamSeconds = Annotated[int | float, msgspec.Meta(description="seconds, to the millisecond")]


class ExamBody(msgspec.Struct, gc=False):
    """An exam as it stands at `server_now`; `seconds_remaining` is 0 once it has ended."""

    pk: Pk
    status: Status
    candidate: str | None
    title: str | None
    duration_s: ExamSeconds
    started_at: Instant
    deadline_at: Instant
    ended_at: Annotated[Instant | None, msgspec.Meta(description="for `absent` the deadline itself")]
    recorded_at: Annotated[Instant | None, msgspec.Meta(description="when the outcome was stored")]
    reason: str | None
    version: Annotated[int, msgspec.Meta(description="the number of its last event")]
    task_id: Annotated[str, msgspec.Meta(description="of the task that makes it absent at its deadline")]
    server_now: Instant
    seconds_remaining: ExamSeconds


class ExamList(msgspec.Struct):
    """A page, which may be shorter than asked for; `next_cursor` leads to the next and is null after the last."""

    items: list[ExamBody]
    next_cursor: str | None


class EventBody(msgspec.Struct, kw_only=True, tag_field="event"):
    """What happened, and when it was written down."""

    number: int
    recorded_at: Instant


class StartedBody(EventBody, kw_only=True, tag="started"):
    """The candidate sat down. `deadline_at` is the first instant at which a result is too late."""

    candidate: str | None
    title: str | None
    started_at: Instant
    deadline_at: Instant


class EndedBody(EventBody, kw_only=True, tag="ended"):
    """The outcome."""

    status: Status
    ended_at: Instant
    reason: str | None


class EventList(msgspec.Struct):
    """All events of an exam, in order."""

    items: list[StartedBody | EndedBody]
    next_cursor: None


def exam_json(exam: Exam, now: datetime) -> ExamBody:
    """All its fields, and how much time is left as of `now`."""
    return ExamBody(
        pk=exam.pk,
        status=exam.status,
        candidate=exam.candidate,
        title=exam.title,
        duration_s=seconds(exam.duration),
        started_at=rfc3339(exam.started_at),
        deadline_at=rfc3339(exam.deadline_at),
        ended_at=_instant(exam.ended_at),
        recorded_at=_instant(exam.recorded_at),
        reason=exam.reason,
        version=exam.version,
        task_id=exam.task_id,
        server_now=rfc3339(now),
        seconds_remaining=seconds(exam.remaining(now)),
    )


def event_json(number: int, event: Event) -> StartedBody | EndedBody:
    """An event under its number, with the fields that its kind has."""
    fields: dict[str, Any] = {
        name: rfc3339(value) if isinstance(value, datetime) else value
        for name, value in msgspec.structs.asdict(event).items()
    }
    return _EVENT_BODIES[type(event)](number=number, **fields)


# An exam that can be read has no other events: one that was voided is not there.
_EVENT_BODIES: dict[type[Event], type[StartedBody | EndedBody]] = {Started: StartedBody, Ended: EndedBody}


def _instant(instant: datetime | None) -> str | None:
    return None if instant is None else rfc3339(instant)
