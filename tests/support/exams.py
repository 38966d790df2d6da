"""Exams as tests need them: in memory, or put into a store by its own means."""

from datetime import timedelta

from shared.exams.model import Ended, Exam, History, Started, Status
from shared.exams.pk import new_pk
from shared.exams.store import ExamStore
from tests.support.clock import NOON

SITTING = timedelta(minutes=2)


def ended_exam(status: Status = Status.PASS, candidate: str | None = "Ada", title: str | None = "Algebra") -> Exam:
    """An exam that started at noon and ended two minutes later."""
    exam = _history(status, candidate, title).fold()
    assert exam is not None
    return exam


def store_outcomes(store: ExamStore, count: int = 1, candidate: str | None = "Ada") -> list[str]:
    """Starts and ends this many exams, as API processes would; their pks."""
    histories = [_history(Status.PASS, candidate, "Algebra") for _ in range(count)]
    starts = [(history.pk, event) for history in histories if isinstance(event := history.events[0], Started)]
    assert all(store.start(starts))
    exams = [exam for pk, event in starts if (exam := History(pk, [event]).fold())]
    assert all(store.append([(exam, history.events[1]) for exam, history in zip(exams, histories, strict=True)]))
    return [history.pk for history in histories]


def _history(status: Status, candidate: str | None, title: str | None) -> History:
    ended_at = NOON + SITTING
    started = Started(recorded_at=NOON, candidate=candidate, title=title, started_at=NOON, deadline_at=NOON + SITTING)
    ended = Ended(status=status, ended_at=ended_at, recorded_at=ended_at, reason=None)
    return History(new_pk(NOON), [started, ended])
