"""Workers, child processes and Redis are hurt: each task still ends, once, and whoever waits for it hears of it."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from shared.broker.runs import TRY_AGAIN_S
from shared.broker.states import State
from shared.errors import BrokerUnavailable, TaskFailed, TaskNotFound
from tests.support import task_bodies as tasks
from tests.support.slots import is_gone
from tests.support.task_system import WITHIN_S, TaskSystem, once, own_task_system
from tests.support.waiting import eventually

RECOVERED_WITHIN_S = 30.0  # the lease's 10 s, a look a second, and a machine that is busy
LOOKED_AGAIN_WITHIN_S = 8.0  # five seconds, and a machine that is busy


@pytest.fixture
def system(tmp_path: Path) -> Iterator[TaskSystem]:
    with own_task_system(tmp_path) as system:
        yield system


def running(system: TaskSystem, task: Any, name: str) -> tuple[Any, int]:
    """A task that waits for a file of this name, and the process that runs it."""
    result = task.delay(system.path(name), 120.0)
    once(result, State.STARTED)
    (pid,) = eventually(lambda: system.lines(f"{name}.begun"))
    return result, int(pid)


@pytest.mark.parametrize("task", [tasks.wait_for, tasks.wait_in_child], ids=lambda task: task.name)
def test_a_task_of_a_killed_worker_runs_again_elsewhere(system: TaskSystem, task: Any) -> None:
    """Its child dies with it, its lease runs out, and the body is told that it is the second delivery."""
    with system.worker_process("killed") as worker:
        result, pid = running(system, task, "gate")
        worker.kill()
        eventually(lambda: is_gone(pid))
        assert result.state is State.STARTED
    (system.folder / "gate.begun").unlink()
    with system.worker_process("other"):
        eventually(lambda: system.lines("gate.begun"), RECOVERED_WITHIN_S, "the second run")
        assert result.look().deliveries == 2
        system.write("gate")
        assert result.get(WITHIN_S) == "go"
    assert (result.retries, result.look().deliveries) == (0, 2)


def test_a_task_whose_child_is_killed_fails_alone(system: TaskSystem) -> None:
    """As WorkerLost, at once; the worker goes on."""
    with system.worker_process():
        neighbour, _ = running(system, tasks.wait_in_child, "neighbour")
        result, pid = running(system, tasks.wait_in_child, "killed")
        os.kill(pid, signal.SIGKILL)
        error = result.get(WITHIN_S, propagate=False)
        assert isinstance(error, TaskFailed)
        assert (error.type, result.retries, result.look().deliveries) == ("WorkerLost", 0, 1)
        assert "killed by SIGKILL" in error.message
        system.write("neighbour")
        assert neighbour.get(WITHIN_S) == "go"
        assert tasks.add_in_child.delay(1, 1).get(WITHIN_S) == 2


@pytest.mark.parametrize("task", [tasks.wait_for, tasks.wait_in_child], ids=lambda task: task.name)
def test_a_worker_that_is_told_to_end_lets_its_tasks_end(system: TaskSystem, task: Any) -> None:
    """It takes nothing new meanwhile."""
    with system.worker_process() as worker:
        result, pid = running(system, task, "draining")
        worker.signal(signal.SIGTERM)
        worker.wait_for_log("worker_stops")
        waiting = tasks.add.delay(1)
        system.write("draining")
        assert result.get(WITHIN_S) == "go"
        assert worker.wait() == 0
        assert is_gone(pid)
        assert (result.look().deliveries, waiting.state) == (1, State.PENDING)


def test_what_does_not_end_in_time_goes_to_another_worker(system: TaskSystem) -> None:
    """Its child is killed; that is no failure of the task."""
    with system.worker_process() as worker:
        result, pid = running(system, tasks.wait_in_child, "too slow")
        assert worker.end() == 0
        assert is_gone(pid)
        assert result.state is State.PENDING
    system.write("too slow")
    with system.worker_process("other"):
        assert result.get(WITHIN_S) == "go"
    assert (result.retries, result.look().deliveries) == (0, 2)


def test_a_child_is_stopped_when_its_task_is_somebody_elses(system: TaskSystem) -> None:
    """Its worker was frozen meanwhile: it was terminated, which nobody could tell that worker."""
    with system.worker_process("frozen") as frozen:
        result, pid = running(system, tasks.wait_in_child, "gate")
        frozen.freeze()
        try:
            assert result.revoke(terminate=True) == "terminated"
            with system.worker_process("other"):
                once(result, State.REVOKED, RECOVERED_WITHIN_S)
            assert not is_gone(pid)
        finally:
            frozen.signal(signal.SIGCONT)
        eventually(lambda: is_gone(pid))
        assert tasks.add_in_child.delay(1, 1).get(WITHIN_S) == 2


@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "stopped"])
def test_large_arguments_of_a_revoked_task_go_when_its_worker_is_gone(system: TaskSystem, is_killed: bool) -> None:
    """Whether it returns the task itself or another one takes it back."""
    with system.worker_process("gone") as worker:
        result = tasks.fail_with.delay(system.path("never"), "x" * 100_000)
        eventually(lambda: system.lines("never.begun"))
        assert (result.revoke(), len(system.payloads(result.id))) == ("running", 1)
        if is_killed:
            worker.kill()
        else:
            assert worker.end() == 0
    if is_killed:
        with system.worker_process("other"):
            once(result, State.REVOKED, RECOVERED_WITHIN_S)
    assert result.state is State.REVOKED
    eventually(lambda: system.payloads(result.id) == [])


def test_a_body_that_forks_in_a_thread_is_told_of_once(system: TaskSystem) -> None:
    """The forked process ends with the body: it is no second worker."""
    with system.worker_process() as worker:
        assert tasks.fork.delay().get(WITHIN_S) == "original"
        assert [tasks.add.delay(number).get(WITHIN_S) for number in range(8)] == list(range(8))
        assert worker.end() == 0


def test_a_large_result_is_kept_once_while_redis_is_away(system: TaskSystem) -> None:
    """However often it has to be told."""
    with system.worker():
        result = tasks.blob_after.delay(system.path("large"), 100_000)
        eventually(lambda: system.lines("large.begun"))
        system.redis.kill()
        system.write("large")
        eventually(lambda: system.payloads(result.id))
        assert not Event().wait(4 * TRY_AGAIN_S)
        (kept,) = system.payloads(result.id)
        system.redis.start()
        assert len(result.get(WITHIN_S)) == 100_000
        assert system.payloads(result.id) == [kept]


def test_a_wait_outlives_a_restart_of_redis(system: TaskSystem) -> None:
    """And hears of an end that comes while nothing is connected."""
    with system.worker_process(), ThreadPoolExecutor(3) as pool:
        results = [running(system, tasks.wait_for, name)[0] for name in ("during", "after")]
        waiting = [pool.submit(result.get, 60) for result in results]
        eventually(lambda: len(system.redis.client().pubsub_channels()) == 4, what="the subscriptions")
        system.redis.kill()
        system.write("during")
        assert not [each for each in waiting if each.done()]
        system.redis.start()
        back_at = time.monotonic()
        assert waiting[0].result(60) == "go"
        assert time.monotonic() - back_at < LOOKED_AGAIN_WITHIN_S
        system.write("after")
        assert waiting[1].result(60) == "go"


def test_a_wait_for_what_redis_has_lost_ends(system: TaskSystem) -> None:
    """Nobody will tell of its end: it is found by looking."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(tasks.add.apply_async((1,), countdown=600).get, 60)
        eventually(lambda: len(system.redis.client().pubsub_channels()) == 2, what="the subscription")
        system.redis.client().flushall()
        assert isinstance(waiting.exception(LOOKED_AGAIN_WITHIN_S), TaskNotFound)


def test_a_wait_outlives_a_pause_of_redis(system: TaskSystem) -> None:
    """Longer than it looks again."""
    with system.worker_process(), ThreadPoolExecutor(1) as pool:
        result, _ = running(system, tasks.wait_for, "paused")
        waiting = pool.submit(result.get, 60)
        eventually(lambda: len(system.redis.client().pubsub_channels()) == 3, what="the subscription")
        system.redis.pause()
        with pytest.raises(TimeoutError):
            waiting.result(6)
        system.redis.resume()
        system.write("paused")
        assert waiting.result(LOOKED_AGAIN_WITHIN_S) == "go"


def test_with_redis_away_a_wait_ends_on_time(system: TaskSystem) -> None:
    """That it is away is said at once to who begins to wait, looks, sends or revokes."""
    result = tasks.add.apply_async((1,), countdown=600)
    with ThreadPoolExecutor(1) as pool:
        begun_at = time.monotonic()
        waiting = pool.submit(result.get, 2.0)
        eventually(lambda: len(system.redis.client().pubsub_channels()) == 2, what="the subscription")
        system.redis.kill()
        assert isinstance(waiting.exception(10), TimeoutError)
        assert 2.0 <= time.monotonic() - begun_at < 3.5
    for call in (lambda: result.get(5), result.revoke, result.ready, lambda: tasks.add.delay(1), result.forget):
        asked_at = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            call()
        assert time.monotonic() - asked_at < 1
    system.redis.start()
    assert eventually(lambda: answers(result)) is State.PENDING


def answers(result: Any) -> State | None:
    """None while Redis is held for away."""
    try:
        state: State = result.state
    except BrokerUnavailable:
        return None
    return state
