"""Limits, end to end: they end their own task and nothing else, whatever its body does."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from shared.broker.states import Reason, State
from shared.errors import TaskFailed
from tests.support import task_bodies as tasks
from tests.support.slots import is_gone
from tests.support.task_system import WITHIN_S, TaskSystem, once, working_system
from tests.support.waiting import eventually

pytestmark = pytest.mark.xdist_group("tasks_limits")

SOON_S = 1.0  # on busy cores; about 0.05 on idle ones


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TaskSystem]:
    with working_system(tmp_path_factory.mktemp("tasks")) as system:
        yield system


def failure(result: Any) -> TaskFailed:
    """How it failed."""
    error = result.get(WITHIN_S, propagate=False)
    assert isinstance(error, TaskFailed)
    return error


@pytest.mark.parametrize("how", ["sleep", "spin", "c", "deaf"])
def test_a_hard_limit_ends_whatever_a_body_does(system: TaskSystem, how: str) -> None:
    """A sleep, a loop, a call in C that keeps the GIL, a body that blocks signals and swallows exceptions; on time."""
    result = tasks.stuck.delay(how)
    error = failure(result)
    assert (error.type, error.message) == ("TimeLimitExceeded", "still running after its hard limit of 0.3 s")
    assert (result.state, result.retries, result.look().deliveries) == (State.FAILURE, 0, 1)
    assert result.time_taken is not None
    assert 0.3 <= result.time_taken.total_seconds() < 0.3 + SOON_S


def test_neighbours_do_not_notice_a_limit(system: TaskSystem) -> None:
    """In threads and in children of the same worker."""
    neighbours: list[Any] = [
        tasks.wait_for.delay(system.path("neighbour")),
        tasks.wait_in_child.delay(system.path("neighbour")),
    ]
    for neighbour in neighbours:
        once(neighbour, State.STARTED)
    for how in ("spin", "c"):
        failure(tasks.stuck.delay(how))
        assert tasks.add_in_child.delay(1, 1).get(WITHIN_S) == 2
    system.write("neighbour", "undisturbed")
    assert [neighbour.get(WITHIN_S) for neighbour in neighbours] == ["undisturbed"] * 2
    assert [neighbour.look().deliveries for neighbour in neighbours] == [1, 1]


def test_a_soft_limit_interrupts_a_sleep_on_time_and_the_body_cleans_up(system: TaskSystem) -> None:
    """What it then returns is the result."""
    result = tasks.clean_up.delay(system.path("cleaned"))
    assert result.get(WITHIN_S) == "cleaned up"
    assert system.lines("cleaned") == ["cleaned up"]
    assert result.time_taken is not None
    assert 0.2 <= result.time_taken.total_seconds() < 0.2 + SOON_S


def test_a_soft_limit_that_is_not_caught_is_a_failure_and_not_retried(system: TaskSystem) -> None:
    """Though every Exception is listed: a limit has to be listed itself."""
    result = tasks.sleep_long.delay(system.path("softly"))
    error = failure(result)
    assert (error.type, error.message) == ("SoftTimeLimitExceeded", "still running after its soft limit of 0.2 s")
    assert "time.sleep(60)" in str(error.traceback)
    assert (result.retries, system.lines("softly")) == (0, ["run"])


def test_the_hard_limit_ends_a_body_that_goes_on_after_the_soft_one(system: TaskSystem) -> None:
    """At its own time."""
    result = tasks.go_on.delay()
    assert failure(result).type == "TimeLimitExceeded"
    assert result.time_taken is not None
    assert result.time_taken.total_seconds() >= 0.4


@pytest.mark.parametrize(
    ("task", "runs"), [(tasks.stuck_once, 1), (tasks.stuck_again, 2)], ids=["not listed", "listed"]
)
def test_a_hard_limit_is_retried_only_if_it_is_declared(system: TaskSystem, task: Any, runs: int) -> None:
    """By its name; Exception does not cover it."""
    result = task.delay(system.path(task.name))
    assert failure(result).type == "TimeLimitExceeded"
    assert (result.retries, system.lines(task.name)) == (runs - 1, ["run"] * runs)


@pytest.mark.parametrize(
    ("limits", "type_"),
    [
        ({"time_limit": 0.2}, "TimeLimitExceeded"),
        ({"soft_time_limit": 0.2}, "SoftTimeLimitExceeded"),
        ({"soft_time_limit": 0.2, "time_limit": 20}, "SoftTimeLimitExceeded"),
    ],
)
def test_a_call_may_limit_a_task_that_has_no_limits(system: TaskSystem, limits: dict[str, Any], type_: str) -> None:
    """It runs in a child process then, which is killed; without them it runs in a thread, to its end."""
    error = failure(tasks.sleep.apply_async((60,), **limits))
    assert error.type == type_
    assert error.message.endswith("limit of 0.2 s")
    assert tasks.sleep.apply_async((0.01,), **limits).get(WITHIN_S) == 0.01
    assert tasks.sleep.delay(0.3).get(WITHIN_S) == 0.3


def test_a_call_may_shorten_and_stretch_declared_limits(system: TaskSystem) -> None:
    """Each by itself."""
    error = failure(tasks.stuck.apply_async(("spin",), time_limit=0.1))
    assert error.message == "still running after its hard limit of 0.1 s"
    slow = tasks.clean_up.apply_async((system.path("stretched"),), soft_time_limit=0.6)
    assert slow.get(WITHIN_S) == "cleaned up"
    assert slow.time_taken is not None
    assert slow.time_taken.total_seconds() >= 0.6


def test_a_crash_fails_its_own_task(system: TaskSystem) -> None:
    """WorkerLost, saying how, and not tried again."""
    result = tasks.crash.delay()
    error = failure(result)
    assert (error.type, error.message) == ("WorkerLost", "the process that ran it was killed by SIGSEGV")
    assert (result.retries, result.look().deliveries) == (0, 1)


def test_a_crash_is_retried_if_it_is_declared(system: TaskSystem) -> None:
    """In a new child."""
    result = tasks.crash_once.delay(system.path("crashed"))
    assert result.get(WITHIN_S) == "survived"
    assert result.retries == 1


def test_a_terminated_body_is_gone_when_its_task_has_ended(system: TaskSystem) -> None:
    """With its process. A run in a thread is asked to stop, and stops at its next step."""
    in_child, in_thread = tasks.wait_in_child.delay(system.path("in child")), tasks.wait_for.delay(system.path("no"))
    for result in (in_child, in_thread):
        once(result, State.STARTED)
    (pid,) = map(int, eventually(lambda: system.lines("in child.begun")))
    assert (in_child.revoke(terminate=True), in_thread.revoke(terminate=True)) == ("terminated", "running")
    assert once(in_child, State.REVOKED).reason is Reason.TERMINATED
    assert is_gone(pid)
    assert once(in_thread, State.REVOKED).reason is Reason.TERMINATED
    assert tasks.add_in_child.delay(1, 1).get(WITHIN_S) == 2


@pytest.mark.parametrize("task", [tasks.tell, tasks.tell_in_child], ids=lambda task: task.name)
def test_progress_is_seen_soon_and_stays(system: TaskSystem, task: Any) -> None:
    """While the body runs and after its end, from a thread and from a child process."""
    result = task.delay(3, system.path(f"told-{task.name}"))
    begun_at = time.monotonic()
    eventually(lambda: result.info is not None and result.info.current == 3)
    assert time.monotonic() - begun_at < 0.5 + SOON_S
    assert (result.info.total, result.info.note, result.state) == (3, "step 3", State.STARTED)
    system.write(f"told-{task.name}")
    assert result.get(WITHIN_S)[0] == result.id
    progress = result.look().progress
    assert progress is not None
    assert (progress.current, progress.note) == (3, "step 3")
