"""Several processes that want the same exam to end, each in its own way, at the same moment."""

from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest

from shared.clock import MILLISECOND
from shared.errors import ExamConflict
from shared.exams.model import Exam, Status
from tests.support.clock import ManualClock
from tests.support.disk import WatchedDisk
from tests.support.exam_files import ExamProcess, a_result, a_start, check_aftermath, open_process, present, started
from tests.support.exam_writers import WITHIN_S, Racer, processes

EXAMS = 60


def running_exams(root: Path) -> list[Exam]:
    """Exams of one deadline, a second from now: to racers at that deadline no temporary file looks stale."""
    register = open_process(WatchedDisk(root), present()).register
    return started(register, *[a_start(f"candidate {n % 3}", seconds=1) for n in range(EXAMS)])


def race(root: Path, exams: list[Exam], ways: list[str]) -> list[dict[str, Status | None]]:
    """What each process was told."""
    barrier = processes.Barrier(len(ways), timeout=WITHIN_S)
    racers = [Racer(root, exams, way, barrier) for way in ways]
    return [racer.answers() for racer in racers]


def test_processes_that_race_for_an_outcome_are_all_told_the_same(tmp_path: Path) -> None:
    """Results, a reader and a sweep at the deadline: whoever won, everybody learns of that one outcome."""
    exams = running_exams(tmp_path)
    agreed, *others = race(tmp_path, exams, ["pass", "fail", "sweep", "read"])
    assert set(agreed) == {exam.pk for exam in exams}
    assert others == [agreed] * 3
    check_aftermath(tmp_path, exams[0].deadline_at + timedelta(days=1), agreed)


def test_of_processes_that_append_the_same_event_one_wins(tmp_path: Path) -> None:
    """Exactly one is told so, and its event is the one that is there."""
    exams = running_exams(tmp_path)
    told = race(tmp_path, exams, ["append pass", "append fail", "append pass", "append fail"])
    won = [(pk, status) for answers in told for pk, status in answers.items() if status is not None]
    assert Counter(pk for pk, _ in won) == Counter(exam.pk for exam in exams)
    check_aftermath(tmp_path, exams[0].deadline_at + timedelta(days=1), dict(won))


# both orders at the deadline, with the instant passed in


@pytest.fixture
def process(tmp_path: Path, clock: ManualClock) -> ExamProcess:
    return open_process(WatchedDisk(tmp_path), clock)


def start_one(process: ExamProcess) -> Exam:
    (exam,) = started(process.register, a_start())
    return exam


def test_a_result_in_time_stands_though_the_deadline_passes_before_it_is_stored(
    process: ExamProcess, clock: ManualClock
) -> None:
    """Received a millisecond before the deadline, stored a second after it, before anybody wrote `absent`."""
    exam = start_one(process)
    clock.set(exam.deadline_at + timedelta(seconds=1))
    received_at = exam.deadline_at - MILLISECOND
    (answer,) = process.register.record_results([a_result(exam.pk, received_at)])
    assert isinstance(answer, Exam)
    assert (answer.status, answer.ended_at, answer.recorded_at) == (Status.PASS, received_at, clock.now())
    process.register.sweep()
    assert process.register.read(exam.pk) == answer


def test_a_result_in_time_is_beaten_by_an_absence_stored_first(process: ExamProcess, clock: ManualClock) -> None:
    """Received a millisecond before the deadline too, but the sweep was quicker to append."""
    exam = start_one(process)
    clock.set(exam.deadline_at)
    process.register.sweep()
    (answer,) = process.register.record_results([a_result(exam.pk, exam.deadline_at - MILLISECOND)])
    assert isinstance(answer, ExamConflict)
    assert answer.exam.status is Status.ABSENT
    assert process.register.read(exam.pk) == answer.exam


def test_a_result_at_the_deadline_is_too_late_and_settles_the_exam(process: ExamProcess, clock: ManualClock) -> None:
    """The deadline is the first instant that is too late; nobody need come by to make the exam absent."""
    exam = start_one(process)
    clock.set(exam.deadline_at)
    (answer,) = process.register.record_results([a_result(exam.pk, exam.deadline_at)])
    assert isinstance(answer, ExamConflict)
    assert answer.exam.status is Status.ABSENT
    assert process.exams.read([exam.pk])[0].fold() == answer.exam


def test_a_sweep_a_millisecond_early_leaves_the_exam_to_its_result(process: ExamProcess, clock: ManualClock) -> None:
    """Until the very deadline the exam runs."""
    exam = start_one(process)
    clock.set(exam.deadline_at - MILLISECOND)
    process.register.sweep()
    assert process.register.read(exam.pk) == exam
    (answer,) = process.register.record_results([a_result(exam.pk, clock.now(), Status.FAIL)])
    assert isinstance(answer, Exam)
    assert answer.status is Status.FAIL
