"""The file store's own ways: what lies where on disk, and what is done about what crashes leave there."""

import hashlib
import json
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shared.clock import MILLISECOND
from shared.errors import StoreDamaged, StoreUnavailable
from shared.exams.disk import Disk
from shared.exams.event_json import encode
from shared.exams.files import STALE_AFTER, FileExamStore, event_path
from shared.exams.model import Exam, Started, Status
from shared.exams.pk import new_pk
from shared.exams.register import RECORDS_READ, ListQuery
from tests.support.clock import ManualClock
from tests.support.disk import FrozenCall, WatchedDisk
from tests.support.exam_files import (
    ExamProcess,
    a_result,
    a_start,
    check_aftermath,
    files_below,
    listed,
    open_process,
    present,
    started,
)
from tests.support.tools import missing

AT = datetime(2026, 3, 7, 9, 5, 30, 250_000, UTC)
NONCE = "0123456789abcdef"


@pytest.fixture
def process(tmp_path: Path, clock: ManualClock) -> ExamProcess:
    """Its clock stands at 09:05:30.250 on 7 March 2026."""
    clock.set(AT)
    return open_process(WatchedDisk(tmp_path), clock)


def all_files(root: Path) -> list[str]:
    return files_below(root, ".")


def make_stale(path: Path, now: datetime) -> None:
    """Gives a file the stamp of one whose writer has been silent for too long at `now`."""
    written_at = (now - STALE_AFTER).timestamp()
    os.utime(path, (written_at, written_at))


def test_a_started_exam_is_three_names(process: ExamProcess, tmp_path: Path) -> None:
    """The event in the minute of its start, the marker in the minute of its deadline, and one for the candidate."""
    (exam,) = started(process.register, a_start("ada", 120))
    digest = hashlib.sha256(b"ada").hexdigest()
    assert all_files(tmp_path) == [
        f"candidates/{digest[:3]}/{digest}-{exam.pk}",
        f"exams/2026/03/07/0905/{exam.pk}.1",
        f"open/20260307T0907/{1_772_874_450_250}-{exam.pk}",
    ]


def test_all_names_of_a_start_are_one_file(process: ExamProcess, tmp_path: Path) -> None:
    """Links, so a name costs no inode and no second copy of what it says."""
    started(process.register, a_start("ada"))
    assert len({(tmp_path / name).stat().st_ino for name in all_files(tmp_path)}) == 1


def test_an_event_is_json_that_a_person_can_read(process: ExamProcess, tmp_path: Path) -> None:
    """What the exam is, from one file."""
    (exam,) = started(process.register, a_start("ada"))
    assert json.loads((tmp_path / event_path(exam.pk, 1)).read_bytes()) == {
        "event": "started",
        "recorded_at": "2026-03-07T09:05:30.250Z",
        "candidate": "ada",
        "title": None,
        "started_at": "2026-03-07T09:05:30.250Z",
        "deadline_at": "2026-03-07T09:07:30.250Z",
    }


def test_an_outcome_turns_the_marker_into_an_entry_of_the_outbox(process: ExamProcess, tmp_path: Path) -> None:
    """Event 2 beside event 1, nothing running any more, one outcome that waits for a digest."""
    (exam,) = started(process.register, a_start())
    process.register.record_results([a_result(exam.pk, AT)])
    assert all_files(tmp_path) == [
        f"exams/2026/03/07/0905/{exam.pk}.1",
        f"exams/2026/03/07/0905/{exam.pk}.2",
        f"outbox/{exam.pk}.2",
    ]


def test_a_digest_moves_outcomes_from_the_outbox_to_its_window(process: ExamProcess, tmp_path: Path) -> None:
    """A list that never changes, one link an outcome that says its window, a note for each one served."""
    (exam,) = started(process.register, a_start())
    process.register.record_results([a_result(exam.pk, AT)])
    process.digests.collect("20260307T090500.000Z", 10)
    process.digests.note_served("20260307T090500.000Z", "ada@example.org")
    served = hashlib.sha256(b"ada@example.org").hexdigest()[:16]
    assert [name for name in all_files(tmp_path) if not name.startswith("exams/")] == [
        f"digested/2026/03/07/0905/{exam.pk}.2",
        "digests/20260307T090500.000Z",
        f"digests/20260307T090500.000Z.{served}",
        "unsent/20260307T090500.000Z",
    ]
    assert (tmp_path / "digests/20260307T090500.000Z").read_text() == f"{exam.pk}.2"
    assert str((tmp_path / f"digested/2026/03/07/0905/{exam.pk}.2").readlink()) == "20260307T090500.000Z"
    process.digests.close("20260307T090500.000Z")
    assert files_below(tmp_path, "unsent") == []


@pytest.mark.parametrize("candidate", ["../../etc/passwd", "a/b", "\x00", "x" * 3000, "Zoë"])
def test_no_candidate_can_name_a_path(process: ExamProcess, tmp_path: Path, candidate: str) -> None:
    """Their exams lie under a hash and are found by the name all the same."""
    (exam,) = started(process.register, a_start(candidate))
    (name,) = files_below(tmp_path, "candidates")
    assert re.fullmatch(rf"candidates/[0-9a-f]{{3}}/[0-9a-f]{{64}}-{exam.pk}", name)
    assert listed(process.register, ListQuery(candidate=candidate)) == [exam]


class Linkless(WatchedDisk):
    """A file system that lets a second link take a name that is taken."""

    def link(self, source: str, target: str) -> bool:
        super().link(source, target)
        return True


class Pointless(WatchedDisk):
    """A file system that lets a second symbolic link take a name that is taken."""

    def point(self, text: str, target: str) -> bool:
        super().point(text, target)
        return True


class Moveless(WatchedDisk):
    """A file system that does not rename."""

    def move(self, source: str, target: str) -> bool:
        return False


@pytest.mark.parametrize("kind", [Linkless, Pointless, Moveless])
def test_a_file_system_that_cannot_keep_the_promises_is_refused_at_boot(
    tmp_path: Path, kind: Callable[[Path], Disk]
) -> None:
    """Before the first exam is lost on it; and the check leaves nothing behind."""
    with pytest.raises(StoreUnavailable, match="file system"):
        FileExamStore(kind(tmp_path)).prepare()
    assert all_files(tmp_path) == []


def test_folders_on_two_file_systems_are_refused_at_boot(tmp_path: Path) -> None:
    """Neither link nor rename goes across."""
    elsewhere = Path("/dev/shm")  # only looked at: memory is another file system than any disk
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        missing("a second file system")
    (tmp_path / "outbox").symlink_to(elsewhere)
    with pytest.raises(StoreUnavailable, match="one file system"):
        FileExamStore(WatchedDisk(tmp_path)).prepare()


def test_a_good_file_system_passes_without_a_trace(tmp_path: Path) -> None:
    """Booting twice on the same folder changes nothing."""
    for _ in range(2):
        FileExamStore(WatchedDisk(tmp_path)).prepare()
    assert all_files(tmp_path) == []


def test_a_file_that_holds_no_event_is_named(process: ExamProcess, tmp_path: Path) -> None:
    """Whoever operates the store must know which one to look at."""
    (exam,) = started(process.register, a_start())
    path = tmp_path / event_path(exam.pk, 1)
    path.write_bytes(b"\x00" * 200)
    with pytest.raises(StoreUnavailable, match=re.escape(event_path(exam.pk, 1))):
        process.register.read(exam.pk)


class ListingDisk(WatchedDisk):
    """Remembers which folders were listed."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.listed: list[str] = []

    def names(self, folder: str) -> list[str]:
        self.listed.append(folder)
        return super().names(folder)


def test_a_sweep_lists_only_minutes_that_are_due(tmp_path: Path, clock: ManualClock) -> None:
    """However many exams run, or ever ran."""
    clock.set(AT)
    disk = ListingDisk(tmp_path)
    register = open_process(disk, clock).register
    started(register, a_start(seconds=20), a_start(seconds=60), a_start(seconds=600))
    clock.move(seconds=61)
    disk.listed.clear()
    register.sweep()
    assert disk.listed == ["tmp", "open", "open/20260307T0905", "open/20260307T0906"]


def test_a_list_lists_only_minutes_within_its_bounds(tmp_path: Path, clock: ManualClock) -> None:
    """And stops once the page is full."""
    disk = ListingDisk(tmp_path)
    register = open_process(disk, clock).register
    instants = [AT + timedelta(minutes=n) for n in range(5)]
    for instant in instants:
        clock.set(instant)
        started(register, a_start())
    disk.listed.clear()
    register.page(ListQuery(limit=2))
    register.page(ListQuery(started_from=instants[1], started_to=instants[2]))
    assert [name[-4:] for name in disk.listed if name.count("/") == 4] == ["0909", "0908", "0907", "0906"]


def test_minute_folders_without_markers_are_removed(process: ExamProcess, tmp_path: Path, clock: ManualClock) -> None:
    """Those that are past; the current minute's stays, as new markers come into it."""
    exams = started(process.register, a_start(seconds=10), a_start(seconds=60))
    process.register.record_results([a_result(exam.pk, AT) for exam in exams])
    clock.move(seconds=61)
    process.register.sweep()
    assert [path.name for path in (tmp_path / "open").iterdir()] == ["20260307T0906"]


def test_a_start_into_a_removed_minute_folder_makes_it_again(
    process: ExamProcess, tmp_path: Path, clock: ManualClock
) -> None:
    """A process that remembers the folder as made is not misled."""
    started(process.register, a_start(seconds=60))
    clock.move(minutes=2)
    for _ in range(2):
        open_process(WatchedDisk(tmp_path), clock).register.sweep()
    assert list((tmp_path / "open").iterdir()) == []
    clock.set(AT)
    (exam,) = started(process.register, a_start(seconds=60))
    assert [name[-36:] for name in files_below(tmp_path, "open")] == [exam.pk]


def test_a_frozen_starter_is_refused_once_its_exam_was_voided(tmp_path: Path) -> None:
    """The sweep voids a marker without an event; the starter thaws to StoreUnavailable, and there is no exam."""
    clock = present()
    disk = WatchedDisk(tmp_path)
    starter = open_process(disk, clock)
    started(starter.register, a_start(seconds=5))  # so that all folders exist and the steps below are the only ones
    before_event = _steps_before_the_event(disk, starter)
    frozen = FrozenCall(disk, before_event, lambda: starter.register.start([a_start(seconds=5)]))
    marker = next(
        name for name in files_below(tmp_path, "open") if name[-36:] not in str(files_below(tmp_path, "exams"))
    )
    clock.move(seconds=5)
    open_process(WatchedDisk(tmp_path), clock).register.sweep()
    assert marker not in files_below(tmp_path, "open")
    pk = marker[-36:]
    assert json.loads((tmp_path / event_path(pk, 1)).read_bytes())["event"] == "void"
    (answer,) = frozen.thaw()
    assert isinstance(answer, StoreUnavailable)
    assert pk not in check_aftermath(tmp_path, clock.now() + timedelta(days=1), {})


def _steps_before_the_event(disk: WatchedDisk, process: ExamProcess) -> int:
    """How many system calls of a start come before the link of its event, that one included."""
    calls: list[Callable[..., object]] = []
    disk.watch = calls.append
    started(process.register, a_start(seconds=5))
    marker, event = (at for at, call in enumerate(calls, 1) if call is os.link)
    assert marker < event
    return event


def test_a_void_start_is_no_exam(process: ExamProcess, tmp_path: Path, clock: ManualClock) -> None:
    """It is in no list, even where the voider died before it removed the marker."""
    pk = new_pk(AT)
    minute = tmp_path / event_path(pk, 1)
    minute.parent.mkdir(parents=True)
    minute.write_bytes(b'{"event":"void","recorded_at":"2026-03-07T09:05:30.250Z"}')
    marker = tmp_path / f"open/20260307T0905/1772874330250-{pk}"
    marker.parent.mkdir()
    marker.touch()
    assert listed(process.register) == listed(process.register, ListQuery(status=Status.STARTED)) == []
    process.register.sweep()
    assert not marker.exists()


def test_strange_names_are_left_alone(process: ExamProcess, tmp_path: Path, clock: ManualClock) -> None:
    """A file that somebody put among the markers is neither swept nor in the way."""
    (exam,) = started(process.register, a_start(seconds=10))
    stranger = tmp_path / "open/20260307T0905/README"
    stranger.touch()
    clock.move(minutes=5)
    process.register.sweep()
    assert stranger.exists()
    assert process.register.read(exam.pk).status is Status.ABSENT


# stale temporary files


def leave_temp(root: Path, exam: Exam, n: int, now: datetime) -> Path:
    """The state in which the writer of event n died after linking it: its temp file still there, and stale."""
    temp = root / f"tmp/{exam.pk}.{n}.{NONCE}"
    os.link(root / event_path(exam.pk, n), temp)
    make_stale(temp, now)
    return temp


def test_a_start_that_died_before_its_candidate_link_gets_it(
    process: ExamProcess, tmp_path: Path, clock: ManualClock
) -> None:
    """The stale temp file says that the exam may lack it."""
    (exam,) = started(process.register, a_start("ada"))
    (link,) = (tmp_path / name for name in files_below(tmp_path, "candidates"))
    temp = leave_temp(tmp_path, exam, 1, AT)
    link.unlink()
    process.register.sweep()
    assert link.exists()
    assert not temp.exists()


def test_an_outcome_that_died_before_the_outbox_gets_there(
    process: ExamProcess, tmp_path: Path, clock: ManualClock
) -> None:
    """At once, not at the exam's deadline."""
    (exam,) = started(process.register, a_start(seconds=86_400))
    (marker,) = (tmp_path / name for name in files_below(tmp_path, "open"))
    process.register.record_results([a_result(exam.pk, AT)])
    (tmp_path / f"outbox/{exam.pk}.2").rename(marker)
    leave_temp(tmp_path, exam, 2, AT)
    process.register.sweep()
    assert files_below(tmp_path, "outbox") == [f"outbox/{exam.pk}.2"]
    assert files_below(tmp_path, "open") == files_below(tmp_path, "tmp") == []


def test_a_stale_outcome_never_linked_is_dropped(process: ExamProcess, tmp_path: Path, clock: ManualClock) -> None:
    """Nobody was answered from it: the exam runs on."""
    (exam,) = started(process.register, a_start())
    temp = tmp_path / f"tmp/{exam.pk}.2.{NONCE}"
    temp.write_bytes(b'{"event":"ended","recorded_at":')
    make_stale(temp, AT)
    process.register.sweep()
    assert not temp.exists()
    assert process.register.read(exam.pk).status is Status.STARTED


def test_other_stale_files_are_dropped(process: ExamProcess, tmp_path: Path) -> None:
    """What a boot check, a readiness probe or a digest left half-done."""
    leftovers = [tmp_path / "tmp" / name for name in (f"probe.{NONCE}", f"20260307T090500.000Z.{NONCE}")]
    for leftover in leftovers:
        leftover.touch()
        make_stale(leftover, AT)
    process.register.sweep()
    assert files_below(tmp_path, "tmp") == []


def test_a_young_temp_file_is_left_to_its_writer(process: ExamProcess, tmp_path: Path) -> None:
    """It is at work: a millisecond short of ten seconds is not stale."""
    temp = tmp_path / f"tmp/{new_pk(AT)}.1.{NONCE}"
    temp.touch()
    make_stale(temp, AT + MILLISECOND)
    process.register.sweep()
    assert temp.exists()


# long lists


def write_plainly(root: Path, count: int) -> list[str]:
    """Exams put on disk by hand, all of one start; their pks, newest first."""
    event = Started(recorded_at=AT, candidate=None, title=None, started_at=AT, deadline_at=AT + timedelta(days=2))
    pks = sorted((new_pk(AT) for _ in range(count)), reverse=True)
    (root / event_path(pks[0], 1)).parent.mkdir(parents=True)
    first = root / event_path(pks[0], 1)
    first.write_bytes(encode(event))
    for pk in pks[1:]:
        os.link(first, root / event_path(pk, 1))
    return pks


def test_a_list_that_finds_little_gives_short_pages(process: ExamProcess, tmp_path: Path) -> None:
    """A call reads a bounded number of records and says where to go on; the pages together miss none."""
    pks = write_plainly(tmp_path, RECORDS_READ + 1)
    process.register.record_results([a_result(pks[0], AT), a_result(pks[-1], AT)])
    first = process.register.page(ListQuery(status=Status.PASS))
    assert ([exam.pk for exam in first.exams], first.next_before) == ([pks[0]], pks[-2])
    second = process.register.page(ListQuery(status=Status.PASS, before=first.next_before))
    assert ([exam.pk for exam in second.exams], second.next_before) == ([pks[-1]], None)


def test_a_damaged_record_holds_no_other_exam_up(process: ExamProcess, tmp_path: Path, clock: ManualClock) -> None:
    """Sweep, list, digest and results pass over a record that cannot be understood; reading it is refused by name."""
    damaged, silent, passed = started(process.register, *[a_start(None, 60)] * 3)
    (tmp_path / event_path(damaged.pk, 1)).write_bytes(b"not an event")
    answers = process.register.record_results([a_result(exam.pk, clock.now()) for exam in (damaged, passed)])
    assert isinstance(answers[0], StoreDamaged)
    assert isinstance(answers[1], Exam)
    clock.move(seconds=61)
    process.register.sweep()
    assert (tmp_path / event_path(silent.pk, 2)).exists()
    listed_pks = {exam.pk for exam in process.register.page(ListQuery()).exams}
    assert listed_pks == {silent.pk, passed.pk}
    assert {history.pk for history in process.digests.collect("w", 10)} == {silent.pk, passed.pk}
    with pytest.raises(StoreDamaged, match=re.escape(event_path(damaged.pk, 1))):
        process.register.read(damaged.pk)
