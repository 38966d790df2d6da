"""Exams as their events tell them."""

from datetime import datetime, timedelta

import pytest

from shared.clock import MILLISECOND
from shared.exams.model import Ended, Event, Exam, History, Started, Status, Void, absence
from tests.support.clock import NOON

PK = "019aa0e2-8e00-7000-8000-000000000001"
DEADLINE = NOON + timedelta(seconds=120)
MARGIN = timedelta(milliseconds=500)

STARTED = Started(recorded_at=NOON, candidate="ada", title="Algebra", started_at=NOON, deadline_at=DEADLINE)
PASSED = Ended(
    status=Status.PASS, ended_at=NOON + timedelta(seconds=60), recorded_at=NOON + timedelta(seconds=61), reason=None
)


def folded(*events: Event) -> Exam:
    exam = History(PK, events).fold()
    assert exam is not None
    return exam


def test_a_start_alone_is_a_running_exam() -> None:
    """Nothing is known yet of an end."""
    assert folded(STARTED) == Exam(
        pk=PK,
        status=Status.STARTED,
        candidate="ada",
        title="Algebra",
        started_at=NOON,
        deadline_at=DEADLINE,
        ended_at=None,
        recorded_at=None,
        reason=None,
        version=1,
    )


def test_an_outcome_ends_the_exam_and_changes_nothing_else() -> None:
    """The end tells status, when and why; the rest stays as the start said."""
    exam = folded(STARTED, PASSED)
    assert (exam.status, exam.ended_at, exam.recorded_at, exam.reason, exam.version) == (
        Status.PASS,
        NOON + timedelta(seconds=60),
        NOON + timedelta(seconds=61),
        None,
        2,
    )
    assert (exam.candidate, exam.title, exam.started_at, exam.deadline_at) == ("ada", "Algebra", NOON, DEADLINE)


@pytest.mark.parametrize("events", [[], [Void(recorded_at=NOON)]], ids=["nothing", "voided"])
def test_no_start_is_no_exam(events: list[Event]) -> None:
    """Neither a pk never written nor a start that was voided is an exam."""
    assert History(PK, events).fold() is None


@pytest.mark.parametrize(
    ("now", "overdue"),
    [
        (DEADLINE - MILLISECOND, False),
        (DEADLINE, False),
        (DEADLINE + MARGIN - MILLISECOND, False),
        (DEADLINE + MARGIN, True),
        (DEADLINE + timedelta(days=400), True),
    ],
    ids=["a millisecond before", "at the deadline", "a millisecond within the margin", "at the margin", "years later"],
)
def test_an_exam_is_overdue_once_deadline_and_margin_have_passed(now: datetime, overdue: bool) -> None:
    """Not a millisecond earlier."""
    assert folded(STARTED).is_overdue(now, MARGIN) is overdue


def test_without_a_margin_the_deadline_itself_is_overdue() -> None:
    """The deadline is the first instant at which it is too late."""
    assert not folded(STARTED).is_overdue(DEADLINE - MILLISECOND, timedelta())
    assert folded(STARTED).is_overdue(DEADLINE, timedelta())


def test_a_decided_exam_is_never_overdue() -> None:
    """Time cannot change an outcome."""
    assert not folded(STARTED, PASSED).is_overdue(DEADLINE + timedelta(days=1), timedelta())


def test_what_remains_runs_down_to_zero() -> None:
    """Never below, even while the margin keeps the exam undecided."""
    exam = folded(STARTED)
    instants = [NOON, DEADLINE - MILLISECOND, DEADLINE, DEADLINE + MARGIN]
    assert [exam.remaining(now) for now in instants] == [timedelta(seconds=120), MILLISECOND, timedelta(), timedelta()]


def test_nothing_remains_of_an_exam_that_has_ended() -> None:
    """An early result gives no time back."""
    assert folded(STARTED, PASSED).remaining(NOON + timedelta(seconds=61)) == timedelta()


@pytest.mark.parametrize("duration", [timedelta(seconds=1), timedelta(milliseconds=1500), timedelta(days=7)])
def test_the_duration_is_from_start_to_deadline(duration: timedelta) -> None:
    """Whole, fractional and long ones alike."""
    start = Started(recorded_at=NOON, candidate=None, title=None, started_at=NOON, deadline_at=NOON + duration)
    assert folded(start).duration == duration


def test_absence_counts_from_the_deadline_whenever_it_is_written() -> None:
    """Late is only the record: the candidate was absent as of the deadline."""
    written_at = DEADLINE + timedelta(hours=3)
    exam = folded(STARTED, absence(folded(STARTED), written_at))
    assert (exam.status, exam.ended_at, exam.recorded_at) == (Status.ABSENT, DEADLINE, written_at)
    assert exam.reason == "no result arrived before the deadline"


def test_the_deadline_task_is_named_after_the_event_that_set_the_deadline() -> None:
    """That is event 1, before and after the end."""
    assert [folded(STARTED).task_id, folded(STARTED, PASSED).task_id] == [f"{PK}.1", f"{PK}.1"]
