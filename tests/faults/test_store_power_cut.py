"""What has been answered survives a power cut: the names and bytes it rests on were synced before the answer."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from shared.exams.files import event_path
from shared.exams.model import Exam, Status
from shared.exams.register import ListQuery
from tests.support.clock import ManualClock
from tests.support.disk import FrozenCall, Power, WatchedDisk
from tests.support.exam_files import ExamProcess, a_result, a_start, files_below, listed, open_process, present, started


class Site:
    """Two processes on one folder, and the power that may go."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = present()
        self.power = Power(root)
        self.disk = WatchedDisk(root, self.power)
        self.process = open_process(self.disk, self.clock)
        self.other = open_process(WatchedDisk(root, self.power), self.clock)

    def start_one(self, seconds: float = 120) -> Exam:
        (exam,) = started(self.process.register, a_start("ada", seconds))
        return exam

    def names(self, folder: str) -> list[str]:
        return files_below(self.root, folder)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_start_lasts_when_it_is_answered(site: Site) -> None:
    """Its event and its marker, with every folder above them."""
    exam = site.start_one()
    assert site.power.lasts(event_path(exam.pk, 1))
    assert [site.power.lasts(name) for name in site.names("open")] == [True]


def test_the_marker_lasts_before_the_event_appears(site: Site) -> None:
    """Otherwise a power cut could leave an exam that no sweep would ever end."""
    exam = site.start_one()
    (marker,) = site.names("open")
    assert site.power.lasted_when_linked(marker, event_path(exam.pk, 1))


def test_a_folder_that_another_process_made_is_made_to_last(site: Site) -> None:
    """The other may be frozen between making and syncing it."""
    calls: list[Callable[..., object]] = []
    site.disk.watch = calls.append
    site.start_one(seconds=3600)
    first_sync = calls.index(os.makedirs) + 2  # the open that comes before the sync
    frozen = FrozenCall(site.disk, first_sync, lambda: site.process.register.start([a_start(seconds=7200)]))
    assert frozen.is_frozen
    (exam,) = started(site.other.register, a_start(seconds=7200))
    (marker,) = (name for name in site.names("open") if name.endswith(exam.pk))
    assert site.power.lasts(marker)
    frozen.thaw()


def test_a_result_lasts_when_it_is_answered(site: Site) -> None:
    """The append is the answer; nobody else need come by to make it last."""
    exam = site.start_one()
    site.process.register.record_results([a_result(exam.pk, site.clock.now())])
    assert site.power.lasts(event_path(exam.pk, 2))


def test_an_absence_lasts_when_the_sweep_is_done(site: Site) -> None:
    """As a result does."""
    exam = site.start_one(seconds=1)
    site.clock.move(seconds=1)
    site.process.register.sweep()
    assert site.power.lasts(event_path(exam.pk, 2))


def read(process: ExamProcess, exam: Exam, clock: ManualClock) -> None:
    assert process.register.read(exam.pk).status is Status.PASS


def read_events(process: ExamProcess, exam: Exam, clock: ManualClock) -> None:
    assert len(process.register.events(exam.pk)) == 2


def list_all(process: ExamProcess, exam: Exam, clock: ManualClock) -> None:
    assert [shown.pk for shown in listed(process.register, ListQuery(status=Status.PASS))] == [exam.pk]


def same_result(process: ExamProcess, exam: Exam, clock: ManualClock) -> None:
    (answer,) = process.register.record_results([a_result(exam.pk, clock.now())])
    assert isinstance(answer, Exam)


def other_result(process: ExamProcess, exam: Exam, clock: ManualClock) -> None:
    (answer,) = process.register.record_results([a_result(exam.pk, clock.now(), Status.FAIL)])
    assert isinstance(answer, Exception)


def sweep_and_digest(process: ExamProcess, exam: Exam, clock: ManualClock) -> None:
    clock.move(seconds=5)
    process.register.sweep()
    assert process.digest("window") == [exam.pk]


def sweep_late_and_digest(process: ExamProcess, exam: Exam, clock: ManualClock) -> None:
    """By the stale temporary file, as the deadline is far."""
    clock.move(seconds=30)
    process.register.sweep()
    assert process.digest("window") == [exam.pk]


@pytest.mark.parametrize(
    ("seconds", "answer"),
    [
        (120, read),
        (120, read_events),
        (120, list_all),
        (120, same_result),
        (120, other_result),
        (5, sweep_and_digest),
        (3600, sweep_late_and_digest),
    ],
    ids=["read", "events", "list", "same result", "other result", "sweep and digest", "late sweep and digest"],
)
def test_an_answer_from_the_event_of_a_frozen_writer_lasts(
    site: Site, seconds: float, answer: Callable[[ExamProcess, Exam, ManualClock], None]
) -> None:
    """The writer has linked its event and not come to syncing it: whoever tells of it does that first."""
    exam = site.start_one(seconds)
    result = a_result(exam.pk, site.clock.now())
    frozen = FrozenCall(site.disk, _steps_until_linked(site), lambda: site.process.register.record_results([result]))
    assert not site.power.lasts(event_path(exam.pk, 2))
    answer(site.other, exam, site.clock)
    assert site.power.lasts(event_path(exam.pk, 2))
    frozen.thaw()


def _steps_until_linked(site: Site) -> int:
    """The number of the system call of a result that follows the link of its event."""
    calls: list[Callable[..., object]] = []
    exam = site.start_one()
    site.disk.watch = calls.append
    site.process.register.record_results([a_result(exam.pk, site.clock.now(), Status.FAIL)])
    site.process.digest("earlier")
    return calls.index(os.link) + 2


def test_a_digest_lasts_before_it_is_sent(site: Site) -> None:
    """That the window is unsent, what is on its list, and what it has claimed."""
    exam = site.start_one()
    site.process.register.record_results([a_result(exam.pk, site.clock.now())])
    site.process.digests.collect("window", 10)
    names = [*site.names("unsent"), *site.names("digests"), *site.names("digested")]
    assert len(names) == 3
    assert [site.power.lasts(name) for name in names] == [True] * 3
    assert site.power.lasted_when_linked("unsent/window", "digests/window")


def test_who_was_served_lasts(site: Site) -> None:
    """Or they would get the mail again."""
    site.process.digests.note_served("window", "ada@example.org")
    (note,) = site.names("digests")
    assert site.power.lasts(note)


def test_an_old_event_is_not_synced_again(site: Site) -> None:
    """Its writer, or a sweep, did that long ago; reading it costs no more than reading."""
    exam = site.start_one(seconds=3600)
    site.clock.move(seconds=timedelta(minutes=1).total_seconds())
    calls: list[Callable[..., object]] = []
    site.disk.watch = calls.append
    site.process.register.read(exam.pk)
    assert os.read in calls
    assert os.fsync not in calls
