"""Disks that are full or broken, and writers that hang or die, at every single system call.

Each test does one thing again and again, with the first, the second, the third … system call failing, until the
thing got through unharmed. After each time a healthy process must find everything in order.
"""

import errno
import os
from collections.abc import Callable
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest

from shared.clock import MILLISECOND
from shared.errors import ExamConflict, InvigilError, StoreUnavailable
from shared.exams.files import STALE_AFTER
from shared.exams.model import Exam, Status
from shared.exams.register import ListQuery
from tests.support.disk import Death, Fault, FrozenCall, ProcessEnded, WatchedDisk, quick_folder
from tests.support.exam_files import (
    ExamProcess,
    a_result,
    a_start,
    check_aftermath,
    listed,
    open_process,
    present,
    started,
)

WRITES: frozenset[Callable[..., object]] = frozenset(
    {os.open, os.write, os.fsync, os.link, os.symlink, os.rename, os.makedirs}
)
SYNCS: frozenset[Callable[..., object]] = frozenset({os.fsync})
NEVER_EIO_FROM_SYNC: frozenset[Callable[..., object]] = frozenset(
    {os.open, os.write, os.read, os.link, os.symlink, os.readlink, os.rename, os.unlink, os.stat, os.listdir, os.rmdir}
)
LONGEST = timedelta(hours=1)


class Scene:
    """A folder with exams in it, a clock at the moment before the act, and the process that acts."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = present()
        self.disk = WatchedDisk(root)
        self.process = open_process(self.disk, self.clock)
        # Two ended, two that run for a second, two for an hour.
        self.ended = started(self.process.register, a_start("ada"), a_start())
        self.short = started(self.process.register, a_start("ada", seconds=1), a_start(seconds=1))
        self.long = started(self.process.register, a_start("bob", seconds=3600), a_start(seconds=3600))
        self.acknowledged: dict[str, Status | None] = {exam.pk: None for exam in (*self.short, *self.long)}
        self.digested: dict[str, list[str]] = {}
        self.take(self.process.register.record_results([a_result(exam.pk, self.clock.now()) for exam in self.ended]))

    def take(self, answers: list[Exam | InvigilError]) -> None:
        """Keeps in mind what was answered: what a conflict tells of an outcome is an answer too."""
        for answer in answers:
            exam = answer.exam if isinstance(answer, ExamConflict) else answer
            if isinstance(exam, Exam):
                self.acknowledged[exam.pk] = exam.status if exam.is_decided else None

    def check(self) -> dict[str, Exam]:
        return check_aftermath(self.root, self.clock.now() + 2 * LONGEST, self.acknowledged, self.digested)


class Act(NamedTuple):
    """Something a process does, how long after the starts, and what happened before."""

    do: Callable[[Scene], None]
    after: timedelta = timedelta()
    before: Callable[[Scene], None] | None = None


def start(scene: Scene) -> None:
    scene.take(scene.process.register.start([a_start("ada", 1), a_start("new one", 3600), a_start(None, 3600)]))


def results(scene: Scene) -> None:
    now = scene.clock.now()
    exams = [*scene.short, *scene.long]
    scene.take(scene.process.register.record_results([a_result(exam.pk, now, Status.FAIL) for exam in exams]))


def sweep(scene: Scene) -> None:
    scene.process.register.sweep()


def read(scene: Scene) -> None:
    scene.take([scene.process.register.read(exam.pk) for exam in scene.short])


def list_all(scene: Scene) -> None:
    scene.take([*listed(scene.process.register)])


def digest(scene: Scene) -> None:
    window = "act"
    scene.digested[window] = [history.pk for history in scene.process.digests.collect(window, 10)]
    scene.process.digests.note_served(window, "ada@example.org")
    scene.process.digests.close(window)


def writers_die(scene: Scene) -> None:
    """One between marker and event, one between event and candidate, one between outcome and outbox."""
    register = scene.process.register
    die_before(scene, 2, os.link, lambda: register.start([a_start("never", 1)]))
    die_before(scene, 3, os.link, lambda: register.start([a_start("late", 1)]))
    result = a_result(scene.long[0].pk, scene.clock.now())
    die_before(scene, 1, os.rename, lambda: register.record_results([result]))


def die_before(scene: Scene, at: int, among: Callable[..., object], call: Callable[[], object]) -> None:
    scene.disk.watch = Death(at, among)
    with pytest.raises(ProcessEnded):
        call()
    scene.disk.watch = None


SECONDS_LATER = timedelta(seconds=2)
ACTS = {
    "start": Act(start),
    "results": Act(results),
    "results too late": Act(results, SECONDS_LATER),
    "sweep": Act(sweep, SECONDS_LATER),
    "sweep after deaths": Act(sweep, 2 * STALE_AFTER, writers_die),
    "read": Act(read, SECONDS_LATER),
    "list": Act(list_all, SECONDS_LATER),
    "digest": Act(digest),
}

FAULTS = {
    "ENOSPC": (errno.ENOSPC, WRITES, False),
    "ENOSPC from then on": (errno.ENOSPC, WRITES, True),
    "EDQUOT": (errno.EDQUOT, WRITES, False),
    "EIO": (errno.EIO, NEVER_EIO_FROM_SYNC, False),
    "EIO from then on": (errno.EIO, NEVER_EIO_FROM_SYNC, True),
}


def scene_before(act: Act, folder: str) -> Scene:
    scene = Scene(Path(folder))
    if act.before is not None:
        act.before(scene)
    scene.clock.move(seconds=act.after.total_seconds())
    return scene


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_a_failing_system_call_harms_nothing(
    act: Act, fault: tuple[int, frozenset[Callable[..., object]], bool]
) -> None:
    """Whichever it is: the caller hears StoreUnavailable, what was answered stands, and nothing is lost or doubled."""
    number, among, lasting = fault
    for at in count(1):
        with quick_folder() as folder:
            scene = scene_before(act, folder)
            scene.disk.watch = failing = Fault(at, number, among, lasting=lasting)
            try:
                act.do(scene)
            except StoreUnavailable:
                assert failing.failed
            scene.disk.watch = None
            scene.check()
            assert scene.disk.halts == []
        if not failing.failed:
            break
    assert at > 3


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT], ids=["ENOSPC", "EDQUOT"])
@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_a_disk_found_full_by_fsync_is_unavailable(act: Act, number: int) -> None:
    """Some file systems say so only then; nothing of it may be answered with success."""
    for at in count(1):
        with quick_folder() as folder:
            scene = scene_before(act, folder)
            scene.disk.watch = failing = Fault(at, number, SYNCS, lasting=False)
            if not _is_unavailable(lambda: act.do(scene)):  # noqa: B023 - called at once
                assert not failing.failed
                break
            scene.disk.watch = None
            scene.check()
            assert scene.disk.halts == []
    assert at > 1


def _is_unavailable(call: Callable[[], None]) -> bool:
    try:
        call()
    except StoreUnavailable:
        return True
    return False


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_an_io_error_from_fsync_ends_the_process_once(act: Act, lasting: bool) -> None:
    """fsync is not asked again: the page may be gone. What the process had answered before stands."""
    for at in count(1):
        with quick_folder() as folder:
            scene = scene_before(act, folder)
            scene.disk.watch = failing = Fault(at, errno.EIO, SYNCS, lasting=lasting)
            try:
                act.do(scene)
            except ProcessEnded:
                assert failing.failed == [os.fsync]
                assert [error.errno for error in scene.disk.halts] == [errno.EIO]
            else:
                assert failing.failed == []
                assert scene.disk.halts == []
                break
            scene.check()
    assert at > 1


def test_an_overdue_exam_is_not_shown_as_running_when_it_cannot_be_settled(tmp_path: Path) -> None:
    """Neither read nor listed: the reader is told to come back."""
    scene = Scene(tmp_path)
    scene.clock.move(seconds=1)
    scene.disk.watch = Fault(1, errno.ENOSPC, frozenset({os.write}), lasting=True)
    with pytest.raises(StoreUnavailable):
        scene.process.register.read(scene.short[0].pk)
    with pytest.raises(StoreUnavailable):
        listed(scene.process.register)


def test_a_full_disk_is_not_writable_until_there_is_room(tmp_path: Path) -> None:
    """Readiness follows, both ways, and leaves no probe behind."""
    scene = Scene(tmp_path)
    scene.disk.watch = Fault(1, errno.ENOSPC, frozenset({os.write, os.fsync}), lasting=True)
    with pytest.raises(StoreUnavailable, match="No space left"):
        scene.process.exams.check_writable()
    scene.disk.watch = None
    scene.process.exams.check_writable()
    assert list((tmp_path / "tmp").iterdir()) == []


# frozen and killed between any two steps


def others_sweep(scene: Scene, other: ExamProcess) -> None:
    """Soon: temporary files are young still."""
    scene.clock.move(seconds=2)
    other.register.sweep()


def others_sweep_later(scene: Scene, other: ExamProcess) -> None:
    """When the frozen writer is given up, and all it did is cleared up."""
    scene.clock.move(seconds=2 * STALE_AFTER.total_seconds())
    other.register.sweep()


def others_sweep_much_later(scene: Scene, other: ExamProcess) -> None:
    """When every exam is over, and its minute folder gone."""
    scene.clock.move(seconds=2 * LONGEST.total_seconds())
    other.register.sweep()
    other.register.sweep()
    other.register.sweep()


def others_decide(scene: Scene, other: ExamProcess) -> None:
    """Results for every exam there is, in time for the long ones."""
    exams = [*scene.short, *scene.long]
    received_at = scene.clock.now()
    scene.take(other.register.record_results([a_result(exam.pk, received_at) for exam in exams]))
    scene.digested["other"] = other.digest("other")


def others_digest(scene: Scene, other: ExamProcess) -> None:
    """The window that may be half-done first, as every digest run does, then its own."""
    scene.clock.move(seconds=2 * STALE_AFTER.total_seconds())
    other.register.sweep()
    for window in [*other.digests.unsent(), "other"]:
        scene.digested[window] = other.digest(window)


OTHERS = {
    "others sweep": others_sweep,
    "others sweep later": others_sweep_later,
    "others sweep much later": others_sweep_much_later,
    "others decide": others_decide,
    "others digest": others_digest,
}


@pytest.mark.parametrize("dies", [False, True], ids=["thaws", "dies"])
@pytest.mark.parametrize("meanwhile", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_a_writer_stopped_between_any_two_steps_harms_nothing(
    act: Act, meanwhile: Callable[[Scene, ExamProcess], None], dies: bool
) -> None:
    """Meanwhile others go on; then it thaws, or is gone for good. One outcome each, in one digest, none lost."""
    for at in count(1):
        with quick_folder() as folder:
            scene = scene_before(act, folder)
            other = open_process(WatchedDisk(scene.root), scene.clock)
            frozen = FrozenCall(scene.disk, at, lambda: act.do(scene))  # noqa: B023 - over before the next round
            if not frozen.is_frozen:
                break
            meanwhile(scene, other)
            if dies:
                frozen.end()
            else:
                _is_unavailable(frozen.thaw)
            scene.check()
    assert at > 3


@pytest.mark.parametrize("status", [Status.ABSENT, Status.STARTED])
def test_a_list_stopped_at_any_step_shows_no_exam_of_another_status(status: Status) -> None:
    """A result that wins while the list is at it takes the exam out of a list of the absent."""
    for at in count(1):
        with quick_folder() as folder:
            scene = scene_before(Act(list_all, SECONDS_LATER), folder)
            other = open_process(WatchedDisk(scene.root), scene.clock)
            query = ListQuery(status=status)
            frozen = FrozenCall(scene.disk, at, lambda: listed(scene.process.register, query))  # noqa: B023
            received_at = scene.short[0].deadline_at - MILLISECOND
            scene.take(other.register.record_results([a_result(exam.pk, received_at) for exam in scene.short]))
            shown = frozen.thaw()
            assert {exam.status for exam in shown} <= {status}
            assert {exam.pk for exam in shown} <= {exam.pk for exam in (*scene.short, *scene.long)}
            scene.take([*shown])
            scene.check()
        if not frozen.is_frozen:
            break
    assert at > 3
