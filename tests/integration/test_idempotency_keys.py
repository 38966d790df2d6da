"""Claims on idempotency keys, and starts under them, in one process: what is kept, for how long, and who agrees."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest

from shared.clock import MILLISECOND
from shared.errors import InvalidInput, StoreDamaged, StoreUnavailable
from shared.exams.files import STALE_AFTER, event_path
from shared.exams.keyed_starts import Sitting
from shared.exams.model import Status
from shared.exams.pk import new_pk, started_at
from shared.idempotency import CLEARED_TOGETHER, GIVEN_UP_AFTER, Attempt, Claim, IdempotencyKeys
from tests.support.clock import ManualClock
from tests.support.disk import Death, FrozenCall, Power, ProcessEnded, WatchedDisk, quick_folder
from tests.support.exam_files import a_result, check_aftermath, files_below, present
from tests.support.keyed_starts import KeyedProcess, an_attempt, keyed_start, open_keyed

MIDNIGHT = datetime(2026, 3, 8, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def keys(tmp_path: Path, clock: ManualClock) -> IdempotencyKeys:
    return opened(WatchedDisk(tmp_path), clock)


@pytest.fixture
def keyed(tmp_path: Path) -> KeyedProcess:
    return open_keyed(WatchedDisk(tmp_path), present())


def opened(disk: WatchedDisk, clock: ManualClock) -> IdempotencyKeys:
    keys = IdempotencyKeys(disk, clock)
    keys.prepare()
    return keys


def claimed(keys: IdempotencyKeys, id_: str, key: str = "key", body: bytes = b"") -> Claim:
    (claim,) = keys.claim([an_attempt(key, body)], lambda: id_)
    assert isinstance(claim, Claim)
    return claim


def claims_below(root: Path) -> list[str]:
    return files_below(root, "idempotency")


# claims


def test_every_attempt_works_on_the_id_of_the_first(keys: IdempotencyKeys) -> None:
    """Which alone is new."""
    first, *others = [claimed(keys, f"id-{n}") for n in range(3)]
    assert (first.id, first.is_new) == ("id-0", True)
    assert [(claim.id, claim.is_new) for claim in others] == [("id-0", False)] * 2


def test_attempts_of_one_batch_agree_too(keys: IdempotencyKeys) -> None:
    """The same key several times among others."""
    ids = iter("abcdef")
    claims = keys.claim([an_attempt(key) for key in ("x", "y", "x", "x")], lambda: next(ids))
    assert [(claim.id, claim.is_new) for claim in claims if isinstance(claim, Claim)] == [
        ("a", True),
        ("b", True),
        ("a", False),
        ("a", False),
    ]


@pytest.mark.parametrize(
    "other",
    [an_attempt("other key"), an_attempt(caller="other"), an_attempt(route="POST /v1/tasks"), an_attempt("key ")],
    ids=["key", "caller", "route", "space"],
)
def test_another_key_caller_or_route_is_another_request(keys: IdempotencyKeys, other: Attempt) -> None:
    """Two callers may use the same key and never learn of each other."""
    claimed(keys, "mine")
    (claim,) = keys.claim([other], lambda: "theirs")
    assert isinstance(claim, Claim)
    assert (claim.id, claim.is_new) == ("theirs", True)


@pytest.mark.parametrize(("first", "second"), [(b"", b"{}"), (b"a", b""), (b"a", b"b")])
def test_another_body_under_the_same_key_is_refused(keys: IdempotencyKeys, first: bytes, second: bytes) -> None:
    """By name, and it spoils nothing: neither the others of its batch nor the key's own request."""
    claimed(keys, "id", body=first)
    refused, other = keys.claim([an_attempt(body=second), an_attempt("other")], lambda: "other id")
    assert isinstance(refused, InvalidInput)
    assert refused.errors[0].field == "Idempotency-Key"
    assert isinstance(other, Claim)
    assert claimed(keys, "another", body=first).id == "id"


@pytest.mark.parametrize("key", ["", "x" * 256, "é", "a\tb", "a\x7f", "a\x00", "王"])
def test_a_key_that_is_none_is_refused(key: str) -> None:
    """By name."""
    with pytest.raises(InvalidInput, match=r"^Idempotency-Key: must be 1 to 255 printable ASCII characters"):
        an_attempt(key)


@pytest.mark.parametrize("key", ["x", "x" * 255, "../../etc/passwd", " ", '"quoted"', "/", "."])
def test_no_key_can_name_a_path(keys: IdempotencyKeys, tmp_path: Path, key: str) -> None:
    """It lies under a hash."""
    assert claimed(keys, "id", key).id == claimed(keys, "other", key).id == "id"
    assert len(claims_below(tmp_path)) == 2
    assert {name.split("/")[0] for name in files_below(tmp_path, ".")} == {"idempotency"}


def test_a_claim_on_an_exam_takes_no_block_on_disk(keys: IdempotencyKeys, tmp_path: Path, clock: ManualClock) -> None:
    """ext4 keeps up to 59 bytes of a symbolic link in its inode."""
    claim = claimed(keys, new_pk(clock.now()))
    assert len(str((tmp_path / claim.name).readlink())) == 59


def test_a_claim_that_cannot_be_understood_is_named(keys: IdempotencyKeys, tmp_path: Path) -> None:
    """Whoever operates the store must know which one to look at. The others of its batch are well."""
    name = tmp_path / claimed(keys, "id").name
    name.unlink()
    name.symlink_to("nonsense")
    before, damaged, after = keys.claim([an_attempt(key) for key in ("before", "key", "after")], lambda: "other")
    assert isinstance(damaged, StoreDamaged) and name.name in str(damaged)
    assert isinstance(before, Claim) and isinstance(after, Claim)


# how long


@pytest.mark.parametrize(
    ("first_at", "again_after", "is_same"),
    [
        (MIDNIGHT, timedelta(hours=24), True),
        (MIDNIGHT, timedelta(hours=48) - MILLISECOND, True),
        (MIDNIGHT, timedelta(hours=48), False),
        (MIDNIGHT - MILLISECOND, MILLISECOND, True),
        (MIDNIGHT - MILLISECOND, timedelta(hours=24), True),
        (MIDNIGHT - MILLISECOND, timedelta(hours=24) + MILLISECOND, False),
        (MIDNIGHT, timedelta(days=365), False),
    ],
)
@pytest.mark.parametrize("is_cleared", [True, False], ids=["cleared", "not cleared"])
def test_a_claim_holds_until_its_next_day_is_over(
    keys: IdempotencyKeys,
    clock: ManualClock,
    first_at: datetime,
    again_after: timedelta,
    is_same: bool,
    is_cleared: bool,
) -> None:
    """For 24 hours at least, for 48 at most, whether or not anybody has cleared up; and so does what comes after it."""
    clock.set(first_at)
    claimed(keys, "first")
    clock.set(first_at + again_after)
    if is_cleared:
        assert keys.clear(clock.now()) is False
    assert claimed(keys, "second").id == ("first" if is_same else "second")
    assert claimed(keys, "third").id == ("first" if is_same else "second")


def test_days_that_nobody_looks_at_are_removed_whole(keys: IdempotencyKeys, clock: ManualClock, tmp_path: Path) -> None:
    """Folders too; strange names stay."""
    clock.set(MIDNIGHT)
    for n in range(40):
        claimed(keys, "id", f"key {n}")
    (tmp_path / "idempotency/README").touch()
    clock.move(days=1)
    claimed(keys, "id", "tomorrow's")
    clock.move(days=2)
    keys.clear(clock.now())
    assert sorted(path.name for path in (tmp_path / "idempotency").iterdir()) == ["20260309", "README"]
    clock.move(days=1)
    keys.clear(clock.now())
    assert [path.name for path in (tmp_path / "idempotency").iterdir()] == ["README"]


def test_clearing_goes_in_batches(clock: ManualClock) -> None:
    """And says when more is left. Each claim is two links."""
    with quick_folder() as folder:
        keys = opened(WatchedDisk(Path(folder)), clock)
        keys.claim([an_attempt(f"key {n}") for n in range(CLEARED_TOGETHER // 2 + 1)], lambda: "id")
        clock.move(days=3)
        assert keys.clear(clock.now())
        assert len(claims_below(Path(folder))) == 2
        assert not keys.clear(clock.now())
        assert claims_below(Path(folder)) == []


# agreement


@pytest.mark.parametrize("others_first", [True, False], ids=["the other is ahead", "the other is behind"])
def test_clocks_on_either_side_of_midnight_agree(others_first: bool) -> None:
    """One process stops at every step, and the other claims the same key by a clock of another day."""
    before, after = MIDNIGHT - MILLISECOND, MIDNIGHT
    for at in count(1):
        with quick_folder() as folder:
            disk = WatchedDisk(Path(folder))
            stopped = opened(disk, ManualClock(before if others_first else after))
            other = opened(WatchedDisk(Path(folder)), ManualClock(after if others_first else before))
            frozen = FrozenCall(disk, at, lambda: claimed(stopped, "mine"))  # noqa: B023 - over before the next round
            if not frozen.is_frozen:
                break
            theirs = claimed(other, "theirs")
            mine = frozen.thaw()
            assert mine.id == theirs.id
            assert mine.is_new != theirs.is_new
            assert {claimed(keys, "third").id for keys in (stopped, other)} == {mine.id}
    assert at > 5


@pytest.mark.parametrize("hours", [0.9, 1.1, 24, 72])
def test_a_claim_frozen_while_others_go_on_never_makes_a_second_id(hours: float) -> None:
    """However long, and though its day was cleared: it follows the others, or is given up."""
    for at in count(1):
        with quick_folder() as folder:
            disk, clock = WatchedDisk(Path(folder)), ManualClock(MIDNIGHT - MILLISECOND)
            stopped, other = opened(disk, clock), opened(WatchedDisk(Path(folder)), clock)
            frozen = FrozenCall(disk, at, lambda: claimed(stopped, "mine"))  # noqa: B023 - over before the next round
            if not frozen.is_frozen:
                break
            clock.move(hours=hours)
            other.clear(clock.now())
            theirs = claimed(other, "theirs")
            try:
                assert frozen.thaw().id == theirs.id
            except StoreUnavailable:
                assert timedelta(hours=hours) > GIVEN_UP_AFTER
            assert claimed(other, "third").id == theirs.id
    assert at > 5


def test_a_power_cut_that_takes_the_mark_of_a_closed_day_makes_no_second_id(
    keys: IdempotencyKeys, tmp_path: Path, clock: ManualClock
) -> None:
    """The mark was not synced, and the clock is set back across midnight after it."""
    clock.set(MIDNIGHT)
    claim = claimed(keys, "id")
    (mark,) = (name for name in claims_below(tmp_path) if name != claim.name)
    (tmp_path / mark).unlink()
    clock.set(MIDNIGHT - MILLISECOND)
    assert claimed(keys, "other").id == "id"


def test_a_claim_lasts_when_it_is_answered(tmp_path: Path, clock: ManualClock) -> None:
    """With the folders above it; so does that of a process which has not come to syncing it."""
    power = Power(tmp_path)
    for at in count(1):
        disk = WatchedDisk(tmp_path, power)
        writer, reader = opened(disk, clock), opened(WatchedDisk(tmp_path, power), clock)
        key = f"key {at}"
        frozen = FrozenCall(disk, at, lambda: claimed(writer, "id", key))  # noqa: B023 - over before the next round
        if frozen.is_frozen:
            assert power.lasts(claimed(reader, "id", key).name)
        assert power.lasts(frozen.thaw().name)
        if not frozen.is_frozen:
            break
    assert at > 5


def test_what_takes_the_place_of_an_id_given_up_lasts_when_it_is_answered(tmp_path: Path, clock: ManualClock) -> None:
    """To whoever has brought it up, and to whoever finds it not synced yet."""
    power = Power(tmp_path)
    disk = WatchedDisk(tmp_path, power)
    writer, reader = opened(disk, clock), opened(WatchedDisk(tmp_path, power), clock)
    first = claimed(writer, "first")
    frozen = FrozenCall(disk, 2, lambda: writer.claim_anew(first, lambda: "second"))  # after the link, before the sync
    assert not power.lasts(f"{first.name}.1")
    assert power.lasts(reader.claim_anew(first, lambda: "third").name)
    frozen.thaw()
    assert power.lasts(writer.claim_anew(frozen.thaw(), lambda: "third").name)


def test_what_takes_the_place_of_an_id_given_up_is_agreed_on(keys: IdempotencyKeys, clock: ManualClock) -> None:
    """Again and again, and for as long as the claim it follows."""
    clock.set(MIDNIGHT)
    first = claimed(keys, "first")
    clock.move(hours=47)
    second = keys.claim_anew(first, lambda: "second")
    again = keys.claim_anew(claimed(keys, "x"), lambda: "y")
    third = keys.claim_anew(again, lambda: "third")
    assert (second.id, second.is_new, again.id, again.is_new) == ("second", True, "second", False)
    assert (third.id, keys.claim_anew(second, lambda: "z").id) == ("third", "third")
    clock.move(hours=1)
    keys.clear(clock.now())
    assert claimed(keys, "fresh").id == "fresh"


# starts


def test_a_repeat_gets_the_exam_as_it_stands_now(keyed: KeyedProcess) -> None:
    """Which may have ended meanwhile."""
    exam, is_repeat = keyed.start()
    assert not is_repeat
    assert keyed.start() == Sitting(exam, is_repeat=True)
    (ended,) = keyed.process.register.record_results([a_result(exam.pk, exam.started_at)])
    assert keyed.start() == Sitting(ended, is_repeat=True)  # type: ignore[arg-type]  # it is no error
    assert [each.pk for each in keyed.exams()] == [exam.pk]


def test_a_repeat_after_the_deadline_gets_an_absent_exam(tmp_path: Path) -> None:
    """No reader is told that an overdue exam is running."""
    clock = present()
    keyed = open_keyed(WatchedDisk(tmp_path), clock)
    exam, _ = keyed.start()
    clock.set(exam.deadline_at)
    assert keyed.start().exam.status is Status.ABSENT


def test_starts_of_one_batch_keep_their_places(keyed: KeyedProcess) -> None:
    """Repeats, the same key at once, another body: each is answered with its own."""
    old = keyed.start("old").exam
    answers = keyed.starts.start(
        [keyed_start("a"), keyed_start("old"), keyed_start("b"), keyed_start("a"), keyed_start("old", 60)]
    )
    a, repeat, b, a_again, refused = answers
    assert isinstance(a, Sitting)
    assert isinstance(b, Sitting)
    assert (a.is_repeat, b.is_repeat, a_again) == (False, False, Sitting(a.exam, is_repeat=True))
    assert repeat == Sitting(old, is_repeat=True)
    assert isinstance(refused, InvalidInput)
    assert {exam.pk for exam in keyed.exams()} == {old.pk, a.exam.pk, b.exam.pk}


def test_a_damaged_exam_fails_its_own_key_only(keyed: KeyedProcess, tmp_path: Path) -> None:
    """The others of its batch are answered."""
    exam, _ = keyed.start("damaged")
    (tmp_path / event_path(exam.pk, 1)).write_bytes(b"not an event")
    damaged, sound = keyed.starts.start([keyed_start("damaged"), keyed_start("sound")])
    assert isinstance(damaged, StoreDamaged)
    assert isinstance(sound, Sitting)


def test_keyed_starts_of_a_batch_share_their_syncs(tmp_path: Path) -> None:
    """Fifty cost a sync for each of their files, a few for folders, and no more."""
    disk = WatchedDisk(tmp_path)
    keyed = open_keyed(disk, present())
    keyed.start_all([(f"before {n}", 120) for n in range(50)])  # so that all folders exist
    calls: list[Callable[..., object]] = []
    disk.watch = calls.append
    keyed.start_all([(f"key {n}", 120) for n in range(50)])
    assert calls.count(os.fsync) <= 50 + 5


def test_a_start_without_a_key_costs_no_claim(keyed: KeyedProcess, tmp_path: Path) -> None:
    """Nothing is written for it."""
    keyed.process.register.start([keyed_start().start])
    assert claims_below(tmp_path) == []


def test_a_start_that_was_given_up_is_made_anew_under_its_key(tmp_path: Path) -> None:
    """Its process died between marker and event, and the sweep voided it: the next attempt starts a fresh exam."""
    clock = present()
    disk = WatchedDisk(tmp_path)
    died, keyed = open_keyed(disk, clock), open_keyed(WatchedDisk(tmp_path), clock)
    disk.watch = Death(2, os.link)  # the marker is linked first
    with pytest.raises(ProcessEnded):
        died.start()
    clock.move(seconds=120)
    keyed.process.register.sweep()
    first, second = keyed.start(), keyed.start()
    assert (first.is_repeat, first.exam.status, first.exam.started_at) == (False, Status.STARTED, clock.now())
    assert second == Sitting(first.exam, is_repeat=True)
    clock.move(seconds=STALE_AFTER.total_seconds())
    check_aftermath(tmp_path, clock.now() + DAY, {first.exam.pk: None})


def test_an_exam_completed_later_starts_when_it_was_first_asked_for(tmp_path: Path) -> None:
    """The pk says so: every attempt makes the same exam."""
    clock = present()
    keyed = open_keyed(WatchedDisk(tmp_path), clock)
    asked_at = clock.now()
    (claim,) = keyed.keys.claim([keyed_start().attempt], lambda: new_pk(asked_at))
    assert isinstance(claim, Claim)
    clock.move(seconds=30)
    exam, is_repeat = keyed.start()
    assert (exam.pk, is_repeat) == (claim.id, False)
    assert exam.started_at == started_at(exam.pk) == asked_at
    assert exam.deadline_at == asked_at + timedelta(seconds=120)
