"""One key makes one exam: with its process killed, frozen or refused by the disk at any step, and with many at once."""

import errno
import os
from collections.abc import Callable
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest

from shared.clock import SystemClock
from shared.errors import StoreUnavailable
from shared.exams.files import STALE_AFTER, event_path
from shared.exams.keyed_starts import Sitting
from tests.support.clock import ManualClock
from tests.support.disk import Death, Fault, FrozenCall, Power, ProcessEnded, WatchedDisk, quick_folder
from tests.support.exam_files import check_aftermath, files_below, present
from tests.support.exam_writers import WITHIN_S, processes
from tests.support.keyed_starts import KeyedProcess, KeyedRacer, keyed_start, killed_at, open_keyed

DAY = timedelta(days=1)
RACERS = 4
KEYS = 120


def pks_claimed(root: Path) -> set[str]:
    texts = {str((root / name).readlink()) for name in files_below(root, "idempotency")} - {"closed"}
    return {text.partition(" ")[2] for text in texts}


def test_an_attempt_killed_at_any_step_is_completed_by_the_next() -> None:
    """`kill -9` before each of its system calls: one exam, of the pk that was claimed if any was."""
    for at in count(1):
        with quick_folder() as folder:
            root, clock = Path(folder), present()
            was_killed = killed_at(root, at, clock.now())
            claimed = pks_claimed(root)
            keyed = open_keyed(WatchedDisk(root), clock)
            exam, _ = keyed.start()
            assert claimed <= {exam.pk}
            assert [each.pk for each in keyed.exams()] == [exam.pk]
            assert keyed.start().exam == exam
            clock.move(seconds=2 * STALE_AFTER.total_seconds())
            keyed.process.register.sweep()
            assert set(check_aftermath(root, clock.now() + DAY, {exam.pk: None})) == {exam.pk}
            if not was_killed:
                break
    assert at > 15


def attempt(keyed: KeyedProcess) -> str | None:
    """The pk of the exam that it is told; None where it is to try again."""
    try:
        (answer,) = keyed.starts.start([keyed_start()])
    except StoreUnavailable:
        return None
    if isinstance(answer, Sitting):
        return answer.exam.pk
    assert isinstance(answer, StoreUnavailable), answer
    return None


def at_once(clock: ManualClock, other: KeyedProcess) -> None:
    """Nothing happens in between."""


def sweeps_later(clock: ManualClock, other: KeyedProcess) -> None:
    """The frozen attempt's temporary file is removed."""
    clock.move(seconds=2 * STALE_AFTER.total_seconds())
    other.process.register.sweep()


def sweeps_after_the_deadline(clock: ManualClock, other: KeyedProcess) -> None:
    """The frozen attempt's start is voided."""
    clock.move(seconds=121)
    other.process.register.sweep()


@pytest.mark.parametrize("meanwhile", [at_once, sweeps_later, sweeps_after_the_deadline])
@pytest.mark.parametrize("dies", [False, True], ids=["thaws", "dies"])
def test_an_attempt_frozen_at_any_step_makes_no_second_exam(
    meanwhile: Callable[[ManualClock, KeyedProcess], None], dies: bool
) -> None:
    """Another attempt goes on meanwhile: it is told one exam, and so is the frozen one, unless it is refused."""
    for at in count(1):
        with quick_folder() as folder:
            root, clock = Path(folder), present()
            disk = WatchedDisk(root)
            frozen_process, other = open_keyed(disk, clock), open_keyed(WatchedDisk(root), clock)
            frozen = FrozenCall(disk, at, lambda: attempt(frozen_process))  # noqa: B023 - over before the next round
            if not frozen.is_frozen:
                break
            meanwhile(clock, other)
            told = other.start().exam
            if dies:
                frozen.end()
            else:
                assert frozen.thaw() in (told.pk, None)
            assert other.start().exam.pk == told.pk
            assert [each.pk for each in other.exams()] == [told.pk]
            assert set(check_aftermath(root, clock.now() + DAY, {told.pk: None})) == {told.pk}
    assert at > 15


WRITES: frozenset[Callable[..., object]] = frozenset({os.open, os.write, os.fsync, os.link, os.symlink, os.makedirs})


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT], ids=["ENOSPC", "EDQUOT"])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
def test_an_attempt_refused_by_the_disk_is_completed_by_the_next(number: int, lasting: bool) -> None:
    """Whichever of its writes fails: 503 now, one exam once there is room."""
    for at in count(1):
        with quick_folder() as folder:
            root, clock = Path(folder), present()
            disk = WatchedDisk(root)
            keyed = open_keyed(disk, clock)
            disk.watch = failing = Fault(at, number, WRITES, lasting=lasting)
            told = attempt(keyed)
            disk.watch = None
            exam, _ = keyed.start()
            assert told in (None, exam.pk)
            assert set(check_aftermath(root, clock.now() + DAY, {exam.pk: None})) == {exam.pk}
            if not failing.failed:
                break
    assert at > 10


def test_a_key_is_kept_before_its_exam_appears(tmp_path: Path) -> None:
    """Otherwise a power cut could leave an exam that its key knows nothing of."""
    power = Power(tmp_path)
    keyed = open_keyed(WatchedDisk(tmp_path, power), present())
    exam, _ = keyed.start()
    (claim,) = (name for name in files_below(tmp_path, "idempotency") if exam.pk in str((tmp_path / name).readlink()))
    assert power.lasted_when_linked(claim, event_path(exam.pk, 1))


def test_a_repeat_makes_last_what_it_tells_of(tmp_path: Path) -> None:
    """The first attempt is frozen before it has synced its claim, or its exam: whoever answers does that first."""
    power, clock = Power(tmp_path), present()
    for at in count(1):
        disk = WatchedDisk(tmp_path, power)
        first, second = open_keyed(disk, clock), open_keyed(WatchedDisk(tmp_path, power), clock)
        frozen = FrozenCall(disk, at, lambda: first.start(f"key {at}"))  # noqa: B023 - over before the next round
        if not frozen.is_frozen:
            break
        exam, _ = second.start(f"key {at}")
        claims = [name for name in files_below(tmp_path, "idempotency") if exam.pk in os.readlink(tmp_path / name)]
        assert [power.lasts(name) for name in (*claims, event_path(exam.pk, 1))] == [True, True]
        frozen.thaw()
    assert at > 10


@pytest.mark.parametrize("together", [1, 30])
def test_processes_that_race_for_keys_are_told_the_same_exams(tmp_path: Path, together: int) -> None:
    """Each key once or in batches, in the same order: one exam each, and one process that began it."""
    barrier = processes.Barrier(RACERS, timeout=WITHIN_S)
    keys = [f"key {n}" for n in range(KEYS)]
    racers = [KeyedRacer(tmp_path, keys, together, barrier) for _ in range(RACERS)]
    told = [racer.answers() for racer in racers]
    for key in keys:
        assert len({sittings[key].exam.pk for sittings in told}) == 1
        assert sorted(sittings[key].is_repeat for sittings in told) == [False] + [True] * (RACERS - 1)
    exams = check_aftermath(tmp_path, SystemClock().now() + DAY, {s.exam.pk: None for s in told[0].values()})
    assert len(exams) == KEYS


def test_racers_agree_on_what_takes_the_place_of_a_start_given_up(tmp_path: Path) -> None:
    """Each key's first attempt died before its event, and the sweep voided its exam."""
    clock = present()
    disk = WatchedDisk(tmp_path)
    died = open_keyed(disk, clock)
    keys = [f"key {n}" for n in range(KEYS)]
    disk.watch = Death(KEYS + 1, os.link)  # the markers are linked first
    with pytest.raises(ProcessEnded):
        died.start_all([(key, 120) for key in keys])
    open_keyed(WatchedDisk(tmp_path), ManualClock(clock.now() + timedelta(seconds=120))).process.register.sweep()
    barrier = processes.Barrier(RACERS, timeout=WITHIN_S)
    racers = [KeyedRacer(tmp_path, keys, 10, barrier) for _ in range(RACERS)]
    first, *others = ({key: sitting.exam.pk for key, sitting in racer.answers().items()} for racer in racers)
    assert others == [first] * (RACERS - 1)
    assert {exam.pk for exam in open_keyed(WatchedDisk(tmp_path), clock).exams()} == set(first.values())
    assert set(first.values()) & pks_claimed(tmp_path) == set(first.values())
    assert len(pks_claimed(tmp_path)) == 2 * KEYS
