"""Large arguments and results as files: what is kept is there until it is removed, and nothing else is reached."""

import errno
import os
import threading
from collections.abc import Sequence
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest

from shared.broker.deliveries import Delivery, Held, HeldMessage
from shared.broker.room import Room
from shared.broker.runs import Runs
from shared.broker.states import State
from shared.clock import SystemClock
from shared.errors import InvalidInput, PayloadMissing, StoreUnavailable
from shared.tasks.payloads import (
    ASKED_TOGETHER,
    CLEARED_TOGETHER,
    ORPHANED_AFTER,
    PAYLOAD_BYTES,
    Payloads,
    decode,
    encode,
)
from tests.support.disk import Fault, FrozenCall, Power, ProcessEnded, WatchedDisk, quick_folder
from tests.support.engines import QUEUE, EngineOnRedis
from tests.support.exam_files import files_below
from tests.support.redis_server import PrivateRedis
from tests.support.small_disk import small_disk

UUID = "01a1f89a-97b6-7c9e-8bff-51e5c4aec644"
PACKED = b'{"a":1}'
WITHIN_S = 30


@pytest.fixture
def payloads(tmp_path: Path) -> Payloads:
    return opened(WatchedDisk(tmp_path))


def opened(disk: WatchedDisk) -> Payloads:
    payloads = Payloads(disk)
    payloads.prepare()
    return payloads


def none_known(task_ids: Sequence[str]) -> list[bool]:
    return [False] * len(task_ids)


def make_old(root: Path, *references: str) -> None:
    """Gives them the stamp of files that nobody has come back to for too long."""
    written_at = (SystemClock().now() - ORPHANED_AFTER - timedelta(seconds=1)).timestamp()
    for name in files_below(root, "payloads"):
        if name.rpartition("/")[2] in references:
            os.utime(root / name, (written_at, written_at))


# encoding


@pytest.mark.parametrize(
    "value", [None, True, 0, -(2**63), 2**64 - 1, 1.5, "Zoë 王 \x00", [], [1, ["a", None]], {"": {"k": [False]}}]
)
def test_a_value_arrives_as_it_was(value: object) -> None:
    """Whatever JSON can say."""
    assert decode(encode("args", value)) == value


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (b"bytes", "args"),
        ([1, {2, 3}], r"args\[1\]"),
        ({"x": float("nan")}, "args.x"),
        ({1: 2}, "args"),
        (2**64, "args"),
        ("\ud800", "args"),
    ],
)
def test_what_would_arrive_as_something_else_is_refused_by_name(value: object, field: str) -> None:
    """Bytes would arrive as text, NaN as null, the keys of an object as text."""
    with pytest.raises(InvalidInput, match=f"^{field}: "):
        encode("args", value)


def test_a_value_may_take_64_mib_and_no_byte_more() -> None:
    """Said with the size it has and the size allowed."""
    assert len(encode("result", "x" * (PAYLOAD_BYTES - 2))) == PAYLOAD_BYTES
    with pytest.raises(InvalidInput, match=f"^result: takes {PAYLOAD_BYTES + 1} bytes; at most {PAYLOAD_BYTES} "):
        encode("result", "x" * (PAYLOAD_BYTES - 1))


# keeping


@pytest.mark.parametrize("task_id", [UUID, f"{UUID}.1", "a", "...", "~a:b_c.d-e", "x" * 100])
def test_what_is_kept_is_loaded_until_it_is_removed(payloads: Payloads, tmp_path: Path, task_id: str) -> None:
    """By its reference, as often as wanted; removing what is gone is no error."""
    reference = payloads.keep(task_id, "args", PACKED)
    assert payloads.load(reference) == payloads.load(reference) == PACKED
    assert [Path(name).name for name in files_below(tmp_path, "payloads")] == [reference]
    payloads.remove(reference)
    payloads.remove(reference)
    with pytest.raises(PayloadMissing):
        payloads.load(reference)
    assert files_below(tmp_path, "payloads") == []


@pytest.mark.parametrize("task_id", ["", ".", "..", "x" * 101, "a/b", "../../etc/passwd", "a\x00", "a\n", "é", "a b"])
def test_an_id_that_could_be_another_path_is_refused(payloads: Payloads, tmp_path: Path, task_id: str) -> None:
    """Before anything is written."""
    with pytest.raises(InvalidInput, match=r"^task_id: "):
        payloads.keep(task_id, "args", PACKED)
    assert files_below(tmp_path, ".") == []


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "a",
        "a.args",
        "a.args.0123",
        "../../x.args.0123456789abcdef",
        "a.keys.0123456789abcdef",
        "a.args.0123456789abcdef\n",
    ],
)
def test_no_reference_reaches_another_file(payloads: Payloads, tmp_path: Path, reference: str) -> None:
    """A reference comes from a message: one that is none leads nowhere, and removes nothing."""
    (tmp_path / "x.args.0123456789abcdef").write_bytes(b"secret")
    for call in (payloads.load, payloads.open, payloads.remove):
        with pytest.raises(PayloadMissing):
            call(reference)
    assert files_below(tmp_path, ".") == ["x.args.0123456789abcdef"]


def test_keeping_again_leaves_what_was_kept_before(payloads: Payloads) -> None:
    """A run given up for lost comes back and keeps its result: the one that counts stays what it was."""
    first, second = payloads.keep("task", "result", b"1"), payloads.keep("task", "result", b"2")
    assert (payloads.load(first), payloads.load(second)) == (b"1", b"2")
    payloads.remove(first)
    assert payloads.load(second) == b"2"


def test_all_of_a_task_is_found_and_nothing_of_another(payloads: Payloads) -> None:
    """For who removes a task that has no worker, and knows only its id."""
    mine = {payloads.keep("a", "args", PACKED), payloads.keep("a", "result", PACKED)}
    for other in ("A", "a.args", "a.1", "aa"):
        payloads.keep(other, "args", PACKED)
    assert set(payloads.references("a")) == mine
    assert payloads.references("never kept") == []


def test_50_mib_pass(payloads: Payloads) -> None:
    """Whole, and part by part to who sends them on, even if they are removed meanwhile."""
    packed = encode("result", "0123456789" * (5 * 1024 * 1024))
    reference = payloads.keep("task", "result", packed)
    assert payloads.load(reference) == packed
    with payloads.open(reference) as file:
        payloads.remove(reference)
        assert file.size == len(packed)
        assert b"".join(iter(lambda: file.read(1024 * 1024), b"")) == packed
    with pytest.raises(PayloadMissing):
        payloads.open(reference)


def test_what_is_kept_survives_a_power_cut(tmp_path: Path) -> None:
    """Its bytes, its name and the folders above it were synced before the reference was given."""
    power = Power(tmp_path)
    payloads = opened(WatchedDisk(tmp_path, power))
    payloads.keep("task", "args", PACKED)
    (name,) = files_below(tmp_path, "payloads")
    assert power.lasts(name)


def test_a_failing_system_call_leaves_nothing_half_kept() -> None:
    """Whichever it is: StoreUnavailable, and what is left behind, if anything, is cleared later."""
    for at in count(1):
        with quick_folder() as folder:
            root = Path(folder)
            disk = WatchedDisk(root)
            payloads = opened(disk)
            disk.watch = failing = Fault(at, errno.ENOSPC, None, lasting=False)
            try:
                payloads.keep("task", "args", PACKED)
            except StoreUnavailable:
                assert failing.failed
            disk.watch = None
            make_old(root, *payloads.references("task"))
            payloads.clear(none_known, SystemClock().now())
            assert files_below(root, ".") == []
            if not failing.failed:
                break
    assert at > 3


def test_an_io_error_from_fsync_ends_the_process(tmp_path: Path) -> None:
    """What could not be written must not be referred to."""
    disk = WatchedDisk(tmp_path)
    payloads = opened(disk)
    payloads.remove(payloads.keep("task", "args", PACKED))
    disk.watch = Fault(1, errno.EIO, frozenset({os.fsync}), lasting=False)
    with pytest.raises(ProcessEnded):
        payloads.keep("task", "args", PACKED)


def test_a_full_disk_refuses_and_is_left_as_it_was(tmp_path: Path) -> None:
    """A large payload on a small disk leaves no part of itself behind; a small one still fits."""
    with small_disk(tmp_path / "disk", size_kib=512) as disk:
        payloads = opened(WatchedDisk(disk.path))
        with pytest.raises(StoreUnavailable, match="No space left"):
            payloads.keep("task", "args", b"x" * 1024 * 1024)
        assert files_below(disk.path, ".") == []
        assert payloads.load(payloads.keep("task", "args", PACKED)) == PACKED


# sharing


def test_what_is_shared_is_one_file_until_both_references_are_removed(payloads: Payloads, tmp_path: Path) -> None:
    """It takes no more room, and neither task takes anything from the other."""
    first = payloads.keep("first", "args", PACKED)
    second = payloads.share_arguments(first, "second")
    assert (payloads.references("first"), payloads.references("second")) == ([first], [second])
    assert len({(tmp_path / name).stat().st_ino for name in files_below(tmp_path, "payloads")}) == 1
    payloads.remove(first)
    assert payloads.load(second) == PACKED
    with pytest.raises(PayloadMissing):
        payloads.share_arguments(first, "third")


def test_what_is_shared_survives_a_power_cut(tmp_path: Path) -> None:
    """Its new name was synced before the reference was given."""
    power = Power(tmp_path)
    payloads = opened(WatchedDisk(tmp_path, power))
    payloads.share_arguments(payloads.keep("first", "args", PACKED), "second")
    assert all(power.lasts(name) for name in files_below(tmp_path, "payloads"))


def test_what_is_shared_is_as_young_as_if_it_were_kept_now(payloads: Payloads, tmp_path: Path) -> None:
    """The clearing finds it while its task is being sent; the file may be days old."""
    first = payloads.keep("first", "args", PACKED)
    make_old(tmp_path, first)
    second = payloads.share_arguments(first, "second")
    payloads.clear(none_known, SystemClock().now())
    assert payloads.load(second) == PACKED


def test_a_failing_system_call_shares_or_refuses() -> None:
    """Whichever it is, the first reference stays good."""
    for at in count(1):
        with quick_folder() as folder:
            disk = WatchedDisk(Path(folder))
            payloads = opened(disk)
            first = payloads.keep("first", "args", PACKED)
            disk.watch = failing = Fault(at, errno.EACCES, None, lasting=False)
            try:
                payloads.share_arguments(first, "second")
            except StoreUnavailable:
                assert failing.failed
            disk.watch = None
            assert payloads.load(first) == PACKED
            if not failing.failed:
                break
    assert at > 3


# clearing


def test_only_what_is_old_and_of_no_known_task_is_cleared(payloads: Payloads, tmp_path: Path) -> None:
    """What has just been kept belongs to a task that is being sent."""
    known, orphan, young = (payloads.keep(task_id, "args", PACKED) for task_id in ("known", "orphan", "young"))
    stranger = tmp_path / "payloads" / "README"
    stranger.touch()
    make_old(tmp_path, known, orphan)
    asked: list[str] = []

    def is_known(task_ids: Sequence[str]) -> list[bool]:
        asked.extend(task_ids)
        return [task_id == "known" for task_id in task_ids]

    assert payloads.clear(is_known, SystemClock().now()) is False
    assert sorted(asked) == ["known", "orphan"]
    assert payloads.load(known) == payloads.load(young) == PACKED
    assert payloads.references("orphan") == []
    assert stranger.exists()


def test_an_id_used_again_while_it_is_cleared_keeps_its_arguments(tmp_path: Path) -> None:
    """The clearing is stopped at every step, and the same id sent anew: only what is old goes."""
    for at in count(1):
        with quick_folder() as folder:
            root = Path(folder)
            disk = WatchedDisk(root)
            clearing, sending = opened(disk), opened(WatchedDisk(root))
            make_old(root, sending.keep("task", "args", b"old"))
            now = SystemClock().now()
            frozen = FrozenCall(disk, at, lambda: clearing.clear(none_known, now))  # noqa: B023 - over before the next round
            if not frozen.is_frozen:
                break
            reference = sending.keep("task", "args", b"new")
            frozen.thaw()
            assert sending.load(reference) == b"new"
    assert at > 3


def test_clearing_goes_in_batches_and_says_when_more_is_left(payloads: Payloads, tmp_path: Path) -> None:
    """Asking for many tasks at once, and never removing many more than a second's work at a time."""
    references = [payloads.keep("task", "result", b"") for _ in range(CLEARED_TOGETHER + 1)]
    make_old(tmp_path, *references)
    sizes: list[int] = []

    def is_known(task_ids: Sequence[str]) -> list[bool]:
        sizes.append(len(task_ids))
        return none_known(task_ids)

    now = SystemClock().now()
    assert (payloads.clear(is_known, now), len(payloads.references("task"))) == (True, 1)
    assert (payloads.clear(is_known, now), len(payloads.references("task"))) == (False, 0)
    assert max(sizes) <= ASKED_TOGETHER


def test_two_clearings_at_once_harm_nothing(payloads: Payloads, tmp_path: Path) -> None:
    """The task that clears may be delivered twice."""
    make_old(tmp_path, *(payloads.keep(f"task-{n}", "args", PACKED) for n in range(200)))
    kept = payloads.keep("task-0", "args", PACKED)
    both = threading.Barrier(2, timeout=WITHIN_S)
    left: list[bool] = []

    def clear() -> None:
        both.wait()
        left.append(Payloads(WatchedDisk(tmp_path)).clear(none_known, SystemClock().now()))

    threads = [threading.Thread(target=clear) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WITHIN_S)
    assert left == [False, False]
    assert [Path(name).name for name in files_below(tmp_path, "payloads")] == [kept]


# tasks


def test_a_run_that_was_lost_leaves_the_arguments_to_the_next(payloads: Payloads, redis_server: PrivateRedis) -> None:
    """A worker that thaws ends nothing; only the end of the task removes what it was given."""
    bench = EngineOnRedis(redis_server)
    stored = payloads.keep("task", "args", encode("args", [["large"], {}]))
    frozen = bench.run(task_id="task", stored=stored)
    bench.end_leases(["task"])
    bench.worker.reap([QUEUE])
    (delivery,) = bench.fetch()
    assert bench.worker.begin([delivery]) == ["run"]
    for run, is_left in ((frozen, True), (delivery, False)):
        end(bench, run, payloads)
        assert (payloads.references("task") == [stored]) is is_left
    assert bench.engine.look_up("task").state is State.SUCCESS


def end(bench: EngineOnRedis, delivery: Delivery, payloads: Payloads) -> None:
    """As the worker's thread does that has run it."""
    held, room = Held(), Room()
    held.add([delivery])
    message = HeldMessage([delivery], takes_list=False)
    Runs(bench.worker, held, room, lambda _message: None, lambda _message: False, payloads).end(message)
