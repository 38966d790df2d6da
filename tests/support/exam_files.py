"""One process's view of an exam folder, and what must be true of a folder after whatever happened to it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from shared.clock import Clock, SystemClock
from shared.exams.digest_files import FileDigestStore
from shared.exams.disk import Disk
from shared.exams.files import FileExamStore
from shared.exams.model import Exam, Status
from shared.exams.register import ExamRegister, ListQuery, Result, Start
from tests.support.clock import ManualClock
from tests.support.disk import WatchedDisk

EVERY_DIGEST = 1_000_000  # outcomes: more than any test makes


class AlarmLog:
    """A DeadlineAlarm that only remembers, as Redis would that loses everything."""

    def __init__(self) -> None:
        self.was_set: list[str] = []
        self.cancelled: list[str] = []

    def set(self, exams: Sequence[Exam]) -> None:
        self.was_set += [exam.pk for exam in exams]

    def cancel(self, exams: Sequence[Exam]) -> None:
        self.cancelled += [exam.pk for exam in exams]


class ExamProcess(NamedTuple):
    """What one process holds of the store."""

    exams: FileExamStore
    digests: FileDigestStore
    register: ExamRegister

    def digest(self, window: str) -> list[str]:
        """Sends a window; the pks in it."""
        pks = [history.pk for history in self.digests.collect(window, EVERY_DIGEST)]
        self.digests.close(window)
        return pks


def open_process(disk: Disk, clock: Clock) -> ExamProcess:
    exams = FileExamStore(disk)
    exams.prepare()
    digests = FileDigestStore(disk, exams)
    digests.prepare()
    return ExamProcess(exams, digests, ExamRegister(exams, AlarmLog(), clock, timedelta()))


def present() -> ManualClock:
    """A manual clock that starts at the true time, for what compares it with the stamps of files."""
    return ManualClock(SystemClock().now())


def a_start(candidate: str | None = None, seconds: float = 120) -> Start:
    return Start(candidate=candidate, title=None, duration=timedelta(seconds=seconds))


def a_result(pk: str, received_at: datetime, status: Status = Status.PASS) -> Result:
    return Result(pk=pk, status=status, received_at=received_at)


def started(register: ExamRegister, *starts: Start) -> list[Exam]:
    """The exams of starts that cannot fail."""
    exams = register.start(starts)
    assert all(isinstance(exam, Exam) for exam in exams), exams
    return [exam for exam in exams if isinstance(exam, Exam)]


def listed(register: ExamRegister, query: ListQuery | None = None) -> list[Exam]:
    """All pages of a list, one after the other."""
    query = query or ListQuery()
    exams: list[Exam] = []
    while True:
        page = register.page(query)
        exams += page.exams
        if page.next_before is None:
            return exams
        query = ListQuery(
            status=query.status,
            candidate=query.candidate,
            started_from=query.started_from,
            started_to=query.started_to,
            before=page.next_before,
            limit=query.limit,
        )


def files_below(root: Path, folder: str) -> list[str]:
    """Every name below a folder that is no folder itself, as paths relative to `root`."""
    return sorted(str(path.relative_to(root)) for path in (root / folder).rglob("*") if not path.is_dir())


def check_aftermath(
    root: Path,
    later: datetime,
    acknowledged: Mapping[str, Status | None],
    digested: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Exam]:
    """Lets a healthy process clear up `later`, when every exam is over, and checks all that must hold then.

    `acknowledged`: each exam answered for, and the outcome answered, None where that was only `started`.
    `digested`: what windows were seen to hold. Returns every exam there is.
    """
    clock = ManualClock(later)
    process = open_process(WatchedDisk(root), clock)
    for _ in range(2):  # the second removes the minute folders that the first has emptied
        while process.register.sweep():
            pass
    exams = {exam.pk: exam for exam in listed(process.register)}
    _check_outcomes(process, exams, acknowledged)
    _check_digests(process, root, exams, digested or {})
    _check_candidates(process.register, exams)
    leftovers = [name for folder in ("tmp", "open", "outbox", "unsent") for name in files_below(root, folder)]
    assert leftovers == []
    assert list((root / "open").iterdir()) == []
    return exams


def _check_outcomes(process: ExamProcess, exams: Mapping[str, Exam], acknowledged: Mapping[str, Status | None]) -> None:
    assert set(acknowledged) <= set(exams)
    answered = {pk: status for pk, status in acknowledged.items() if status is not None}
    assert {pk: exams[pk].status for pk in answered} == answered
    for exam in exams.values():
        assert exam.is_decided
        assert len(process.register.events(exam.pk)) == 2
        if exam.status is Status.ABSENT:
            assert exam.ended_at == exam.deadline_at
            assert exam.recorded_at is not None
            assert exam.recorded_at >= exam.deadline_at


def _check_digests(
    process: ExamProcess, root: Path, exams: Mapping[str, Exam], digested: Mapping[str, Sequence[str]]
) -> None:
    windows = {path.name for path in (root / "digests").iterdir()} | set(process.digests.unsent()) | {"the last one"}
    content = {window: process.digest(window) for window in sorted(windows)}
    assert {window: content[window] for window in digested} == {window: list(pks) for window, pks in digested.items()}
    assert Counter(pk for pks in content.values() for pk in pks) == Counter(list(exams))


def _check_candidates(register: ExamRegister, exams: Mapping[str, Exam]) -> None:
    for candidate in {exam.candidate for exam in exams.values()} - {None}:
        theirs = {pk for pk, exam in exams.items() if exam.candidate == candidate}
        assert {exam.pk for exam in listed(register, ListQuery(candidate=candidate))} == theirs
