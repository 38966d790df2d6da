"""A disk without room for large arguments and results: nothing that was answered or done is lost for it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.broker.states import State
from shared.errors import StoreUnavailable, TaskFailed
from tests.support import task_bodies as tasks
from tests.support.small_disk import SmallDisk, small_disk
from tests.support.task_system import WITHIN_S, TaskSystem, once, working_system
from tests.support.waiting import eventually

SIZE = 100_000  # characters, too many for Redis


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "store", size_kib=1024) as disk:
        yield disk


@pytest.fixture
def system(tmp_path: Path, disk: SmallDisk) -> Iterator[TaskSystem]:
    with working_system(tmp_path) as system:
        yield system


@pytest.mark.parametrize("task", [tasks.blob, tasks.blob_in_child], ids=lambda task: task.name)
def test_a_large_result_waits_for_room(system: TaskSystem, disk: SmallDisk, task: Any) -> None:
    """The body has done its work: it is not run again, and its result is there once there is room."""
    disk.fill()
    result = task.delay(SIZE)
    once(result, State.STARTED)
    with pytest.raises(TimeoutError):
        result.get(2)
    assert tasks.add.delay(1, 1).get(WITHIN_S) == 2
    disk.clear()
    assert len(result.get(WITHIN_S)) == SIZE
    assert result.look().deliveries == 1


def test_a_result_that_finds_no_room_before_the_hard_limit_is_out_of_time(system: TaskSystem, disk: SmallDisk) -> None:
    """The limit is for all that the child process does."""
    disk.fill()
    result = tasks.blob_in_child.apply_async((SIZE,), time_limit=1.0)
    with pytest.raises(TaskFailed, match="hard limit"):
        result.get(WITHIN_S)


@pytest.mark.parametrize("options", [{}, {"time_limit": 60}], ids=["thread", "child"])
def test_large_arguments_that_cannot_be_read_are_waited_for(tmp_path: Path, options: dict[str, Any]) -> None:
    """A disk that fails for a moment fails no task."""
    payloads, away = tmp_path / "store" / "payloads", tmp_path / "away"
    with working_system(tmp_path):
        result = tasks.length.apply_async(("x" * SIZE,), countdown=2, **options)
        payloads.rename(away)
        payloads.symlink_to("payloads")  # which leads nowhere, and is no missing file
        once(result, State.STARTED)
        with pytest.raises(TimeoutError):
            result.get(2)
        payloads.unlink()
        away.rename(payloads)
        assert result.get(WITHIN_S) == SIZE
        assert result.look().deliveries == 1


def test_a_child_starts_though_nothing_can_be_written(system: TaskSystem, disk: SmallDisk) -> None:
    """Its worker has proved the store: who needs a new child after a neighbour's end does not fail for the disk."""
    result = tasks.wait_in_child.delay(system.path("terminated"))
    eventually(lambda: system.lines("terminated.begun"))
    disk.make_read_only()
    assert result.revoke(terminate=True) == "terminated"
    once(result, State.REVOKED)
    assert [tasks.add_in_child.delay(number).get(WITHIN_S) for number in range(3)] == [0, 1, 2]


def test_large_arguments_are_refused_while_there_is_no_room(system: TaskSystem, disk: SmallDisk) -> None:
    """Before anything is sent; small ones are."""
    disk.fill()
    with pytest.raises(StoreUnavailable, match="No space left"):
        tasks.length.delay("x" * SIZE)
    assert tasks.length.delay("x").get(WITHIN_S) == 1
    disk.clear()
    assert tasks.length.delay("x" * SIZE).get(WITHIN_S) == SIZE
