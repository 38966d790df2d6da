"""An exam, its events, and the rules that need nothing but those and an instant.

An exam is a short list of numbered, immutable events; its state is their fold. Event 1 starts it (or voids a
start that never finished), event 2 ends it. Whoever appends event n+1 first has decided; everyone else folds again.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec


class Status(StrEnum):
    """What a reader is told."""

    STARTED = "started"
    PASS = "pass"  # noqa: S105 - an exam's outcome, not a password
    FAIL = "fail"
    ABSENT = "absent"


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """What happened, and when it was written down."""

    recorded_at: datetime


class Started(Event, frozen=True, kw_only=True, tag="started"):
    """A candidate sat down. `deadline_at` is the first instant at which a result is too late."""

    candidate: str | None
    title: str | None
    started_at: datetime
    deadline_at: datetime


class Ended(Event, frozen=True, kw_only=True, tag="ended"):
    """The outcome. `ended_at` is when the result was received or, for `absent`, the deadline itself."""

    status: Status
    ended_at: datetime
    reason: str | None


class Void(Event, frozen=True, kw_only=True, tag="void"):
    """Takes the place of a start whose writer never came back, so that it can no longer happen."""


class Exam(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate's timed sitting, as its events tell it."""

    pk: str
    status: Status
    candidate: str | None
    title: str | None
    started_at: datetime
    deadline_at: datetime
    ended_at: datetime | None
    recorded_at: datetime | None
    reason: str | None
    version: int

    @property
    def duration(self) -> timedelta:
        return self.deadline_at - self.started_at

    @property
    def task_id(self) -> str:
        """The id of its deadline task: the pk and the number of the event that set the deadline."""
        return f"{self.pk}.1"

    @property
    def is_decided(self) -> bool:
        return self.status is not Status.STARTED

    def is_overdue(self, now: datetime, margin: timedelta) -> bool:
        """Whether it must be `absent` now: undecided, and the deadline and the margin have passed."""
        return not self.is_decided and now >= self.deadline_at + margin

    def remaining(self, now: datetime) -> timedelta:
        """How long a result is still in time; zero once the exam has ended."""
        return timedelta() if self.is_decided else max(timedelta(), self.deadline_at - now)


class History(msgspec.Struct, frozen=True):
    """A pk and its events in order: event n is `events[n - 1]`."""

    pk: str
    events: Sequence[Event]

    def fold(self) -> Exam | None:
        """The exam these events tell of, or None where there is none (nothing written, or voided)."""
        if not self.events or not isinstance(started := self.events[0], Started):
            return None
        ended = self.events[1] if len(self.events) > 1 else None
        outcome = ended if isinstance(ended, Ended) else None
        return Exam(
            pk=self.pk,
            status=outcome.status if outcome else Status.STARTED,
            candidate=started.candidate,
            title=started.title,
            started_at=started.started_at,
            deadline_at=started.deadline_at,
            ended_at=outcome.ended_at if outcome else None,
            recorded_at=outcome.recorded_at if outcome else None,
            reason=outcome.reason if outcome else None,
            version=len(self.events),
        )


def absence(exam: Exam, now: datetime) -> Ended:
    """The event that ends an overdue exam: `absent` as of its deadline, whenever it is written."""
    reason = "no result arrived before the deadline"
    return Ended(status=Status.ABSENT, ended_at=exam.deadline_at, recorded_at=now, reason=reason)
