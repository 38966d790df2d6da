"""Reading with a million exams stored, spread over a day and a half; a hundred of them are running."""

import random
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

from benchmarks.report import RUNS, head, line, scratch
from shared.clock import SystemClock
from shared.exams.disk import Disk
from shared.exams.files import FileExamStore
from shared.exams.model import Ended, Exam, History, Started, Status
from shared.exams.pk import new_pk
from shared.exams.register import ExamRegister, ListQuery

EXAMS = 1_000_000
RUNNING = 100
SPREAD = timedelta(hours=36)
CANDIDATES = 100_000  # ten exams each
BATCH = 500


class NoAlarm:
    """Nothing is called for here."""

    def set(self, exams: Sequence[Exam]) -> None: ...

    def cancel(self, exams: Sequence[Exam]) -> None: ...


class UnsyncedDisk(Disk):
    """For laying out the million only: what a power cut would do to them is not measured here."""

    def _sync(self, handle: int, path: str) -> None: ...


def main() -> None:
    head(f"Lists: {EXAMS:,} exams stored, {RUNNING} of them running, warm cache")
    folder = str(scratch())
    lay_out(folder)
    measure(folder)


def lay_out(folder: str) -> None:
    began = time.perf_counter()
    store = FileExamStore(UnsyncedDisk(folder, halt=print))
    store.prepare()
    now = SystemClock().now()
    first = now - SPREAD
    for begin in range(0, EXAMS, BATCH):
        starts = []
        for number in range(begin, begin + BATCH):
            at = first + SPREAD * number / EXAMS
            at -= timedelta(microseconds=at.microsecond % 1000)
            is_running = number >= EXAMS - RUNNING
            deadline = at + (timedelta(days=1) if is_running else timedelta(seconds=120))
            event = Started(
                recorded_at=at,
                candidate=f"candidate {number % CANDIDATES}",
                title=None,
                started_at=at,
                deadline_at=deadline,
            )
            starts.append((new_pk(at), event))
        store.start(starts)
        ended = [fold(pk, event) for pk, event in starts if event.deadline_at - event.started_at < timedelta(days=1)]
        store.append([(exam, outcome(exam)) for exam in ended])
    print(f"laid out in {time.perf_counter() - began:.0f} s")


def measure(folder: str) -> None:
    store = FileExamStore(Disk(folder, halt=print))
    register = ExamRegister(store, NoAlarm(), SystemClock(), timedelta())
    candidate = f"candidate {random.randrange(CANDIDATES)}"
    middle = SystemClock().now() - SPREAD / 2
    timed("newest page of 50", lambda: len(register.page(ListQuery()).exams), 50)
    timed("status=started", lambda: len(register.page(ListQuery(status=Status.STARTED, limit=200)).exams), RUNNING)
    timed("candidate=", lambda: len(register.page(ListQuery(candidate=candidate)).exams), EXAMS // CANDIDATES)
    timed("started_to= in the middle", lambda: len(register.page(ListQuery(started_to=middle)).exams), 50)
    timed(
        "status=fail, none among the newest 2,000", lambda: len(register.page(ListQuery(status=Status.FAIL)).exams), 0
    )
    timed("a sweep with nothing due", lambda: int(register.sweep()), 0)


def timed(what: str, call: Callable[[], int], expected: int) -> None:
    call()
    took = []
    for _ in range(RUNS):
        began = time.perf_counter()
        count = call()
        took.append(1000 * (time.perf_counter() - began))
        assert count == expected, (what, count)
    line(what, took, "ms")


def fold(pk: str, event: Started) -> Exam:
    exam = History(pk, [event]).fold()
    assert exam is not None
    return exam


def outcome(exam: Exam) -> Ended:
    at = exam.deadline_at - timedelta(seconds=1)
    return Ended(recorded_at=at, status=Status.PASS, ended_at=at, reason=None)
