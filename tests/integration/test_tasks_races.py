"""Two things at once, in both orders: revoking against begin, end and retry; waiting for an end against that end."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shared.broker.record import pack_id
from shared.broker.states import Reason, State, TaskState
from shared.errors import TaskRevoked
from shared.redis_keys import RedisKeys
from shared.tasks.composition import chain
from shared.tasks.endings import Endings, Hear
from shared.tasks.result import LOOK_EVERY_S, AsyncResult, GroupResult
from shared.tasks.sender import TaskSender
from tests.conftest import ROUNDS
from tests.support import task_bodies as tasks
from tests.support.parts import ROOT
from tests.support.task_system import WITHIN_S, TaskSystem, once, own_task_system, working_system
from tests.support.waiting import eventually

pytestmark = pytest.mark.xdist_group("tasks_races")

Result = AsyncResult[Any]
LATE_S = 0.5  # on busy cores


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TaskSystem]:
    with working_system(tmp_path_factory.mktemp("tasks")) as system:
        yield system


# Revoking against begin


@pytest.mark.parametrize("terminate", [False, True])
@pytest.mark.parametrize("task", [tasks.note, tasks.add_in_child], ids=lambda task: task.name)
def test_a_revoke_before_the_begin_keeps_a_task_from_running(tmp_path: Path, task: Any, terminate: bool) -> None:
    """Sent, revoked, and only then comes a worker."""
    with own_task_system(tmp_path) as system:
        args: tuple[Any, ...] = (system.path("noted"), "x") if task is tasks.note else (1,)
        revoked, other = task.apply_async(args), tasks.add.delay(1)
        assert revoked.revoke(terminate) == "revoked"
        with system.worker():
            assert other.get(WITHIN_S) == 1
        assert (revoked.state, revoked.look().reason) == (State.REVOKED, Reason.CANCELLED)
        assert not system.lines("noted")


@pytest.mark.rounds
@pytest.mark.parametrize("terminate", [False, True])
@pytest.mark.parametrize("task", [tasks.add, tasks.add_in_child], ids=lambda task: task.name)
def test_a_revoke_amidst_begin_and_end_is_answered_truly(system: TaskSystem, task: Any, terminate: bool) -> None:
    """`revoked`: never ran. `terminated`: is REVOKED. `running`: ends as it likes. `too_late`: had ended."""
    answers: dict[str, set[tuple[State, Reason | None]]] = {}
    for number in range(ROUNDS * 5):
        result = task.delay(number)
        threading.Event().wait(number % 20 / 10_000)
        answer = result.revoke(terminate)
        eventually(result.ready)
        state = result.look()
        answers.setdefault(answer, set()).add((state.state, state.reason))
        if answer == "revoked":
            assert state.started_at is None
    allowed: dict[str, set[tuple[State, Reason | None]]] = {
        "revoked": {(State.REVOKED, Reason.CANCELLED)},
        "terminated": {(State.REVOKED, Reason.TERMINATED)},
        "running": {(State.SUCCESS, None)} | ({(State.REVOKED, Reason.TERMINATED)} if terminate else set()),
        "too_late": {(State.SUCCESS, None)},
    }
    assert all(states <= allowed[answer] for answer, states in answers.items()), answers
    assert "terminated" not in answers or (terminate and task is tasks.add_in_child)


# Terminating against the end


@pytest.mark.rounds
def test_a_child_that_is_terminated_never_ends_otherwise(system: TaskSystem) -> None:
    """The body is let go at the moment at which it is terminated: whoever wins, `terminated` is the truth."""
    for number in range(ROUNDS):
        result = tasks.wait_in_child.delay(system.path(f"end-{number}"))
        once(result, State.STARTED)
        eventually(partial(system.lines, f"end-{number}.begun"))
        system.write(f"end-{number}")
        threading.Event().wait(number % 10 / 1_000)
        answer = result.revoke(terminate=True)
        outcome = result.get(WITHIN_S, propagate=False)
        if answer == "terminated":
            assert isinstance(outcome, TaskRevoked)
            assert (result.state, result.look().reason) == (State.REVOKED, Reason.TERMINATED)
        else:
            assert (answer, outcome, result.state) == ("too_late", "go", State.SUCCESS)


@pytest.mark.rounds
def test_nothing_follows_a_child_that_is_terminated(system: TaskSystem) -> None:
    """In a chain the next one is sent before the end is told: either it is too late to terminate, or none is sent."""
    for number in range(ROUNDS):
        path, followed = system.path(f"first-{number}"), system.path(f"followed-{number}")
        result = chain(tasks.wait_in_child.s(path), tasks.note.si(followed, "x")).delay()
        first = result.parents[0]
        eventually(partial(system.lines, f"first-{number}.begun"))
        system.write(f"first-{number}")
        threading.Event().wait(number % 10 / 1_000)
        answer = first.revoke(terminate=True)
        eventually(first.ready)
        if first.state is State.SUCCESS:
            assert answer in ("running", "too_late")
            assert result.get(WITHIN_S) is None
        else:
            assert (answer, first.state) == ("terminated", State.REVOKED)
            assert tasks.add.delay(1, 1).get(WITHIN_S) == 2
            assert not system.lines(f"followed-{number}")


def test_a_thread_that_is_terminated_may_have_the_last_word(system: TaskSystem) -> None:
    """The answer is `running`; the state says how it ended, and stays."""
    for number in range(ROUNDS):
        result = tasks.wait_for.delay(system.path(f"thread-{number}"))
        once(result, State.STARTED)
        system.write(f"thread-{number}")
        answer = result.revoke(terminate=True)
        outcome = result.get(WITHIN_S, propagate=False)
        if isinstance(outcome, TaskRevoked):
            assert (answer, result.look().reason) == ("running", Reason.TERMINATED)
        else:
            assert answer in ("running", "too_late")
            assert outcome in ("go", "aborted")
        assert AsyncResult[Any](result.id).look() == result.look()


def test_what_is_terminated_twice_is_terminated_once(system: TaskSystem) -> None:
    """Any number of callers get the same answer."""
    result = tasks.wait_in_child.delay(system.path("twice"))
    once(result, State.STARTED)
    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(lambda _: result.revoke(terminate=True), range(8)))
    assert answers <= {"terminated", "revoked"}
    assert once(result, State.REVOKED).reason is Reason.TERMINATED
    assert result.revoke(terminate=True) == "revoked"


def test_a_revoke_before_terminate_does_not_weaken_it(system: TaskSystem) -> None:
    """First asked to end after this run, then killed."""
    result = tasks.stuck.apply_async(("deaf",), time_limit=60)
    once(result, State.STARTED)
    assert (result.revoke(), result.revoke(terminate=True)) == ("running", "terminated")
    assert once(result, State.REVOKED).reason is Reason.TERMINATED


# Revoking against a retry


def test_a_revoke_during_a_run_stops_its_retry(system: TaskSystem) -> None:
    """The run goes on and wishes to be tried again: it is REVOKED instead, the error of the run known."""
    result = tasks.fail_slowly.delay(system.path("slowly"))
    once(result, State.STARTED)
    assert result.revoke() == "running"
    system.write("slowly")
    assert once(result, State.REVOKED).reason is Reason.CANCELLED
    assert (result.retries, result.look().deliveries) == (0, 1)


def test_a_revoke_during_the_pause_stops_the_retry(system: TaskSystem) -> None:
    """At once, not when it would have been due."""
    result = tasks.retry_until.delay(system.path("pausing"), 2, 600.0)
    once(result, State.RETRY)
    assert result.revoke() == "revoked"
    assert once(result, State.REVOKED).reason is Reason.CANCELLED
    assert result.time_taken is None


@pytest.mark.rounds
def test_a_revoke_at_any_moment_of_a_retry_is_kept(system: TaskSystem) -> None:
    """Never tried again after it, and never half: REVOKED, or ended before."""
    for number in range(ROUNDS * 2):
        name = f"moment-{number}"
        result = tasks.retry_until.apply_async((system.path(name), 1_000, 0.005), retries=1_000)
        eventually(partial(system.lines, name))
        threading.Event().wait(number % 10 / 2_000)
        assert result.revoke() in ("revoked", "running")
        assert isinstance(result.get(WITHIN_S, propagate=False), TaskRevoked)
        runs = len(system.lines(name))
        assert result.look().deliveries <= runs
        assert tasks.add.delay(1, 1).get(WITHIN_S) == 2
        assert len(system.lines(name)) == runs


# Revoking against expiry


def test_a_revoke_before_the_expiry_is_a_cancel(system: TaskSystem) -> None:
    """And stays one when the time is over."""
    result = tasks.add.apply_async((1,), countdown=600, expires=0.05)
    if result.revoke() == "revoked" and result.look().reason is Reason.CANCELLED:
        threading.Event().wait(0.1)
        assert result.look().reason is Reason.CANCELLED


def test_a_revoke_after_the_expiry_changes_nothing(system: TaskSystem) -> None:
    """It says `revoked`, as that is what it is."""
    result = tasks.add.apply_async((1,), expires=0)
    once(result, State.REVOKED)
    assert result.revoke() == "revoked"
    assert AsyncResult[Any](result.id).look().reason is Reason.EXPIRED


# Waiting against the end


class EndsAmidst(Endings):
    """Tells of ends; in the moment that is chosen it has the task end first."""

    def __init__(self, system: TaskSystem, moment: str, end: Callable[[], None]) -> None:
        super().__init__(system.callers.redis, RedisKeys(system.callers.settings.namespace))
        self._moment = moment
        self._end = end

    @contextmanager
    def heard_by(self, task_id: str, hear: Hear) -> Iterator[None]:
        if self._moment == "before the subscription":
            self._end()

        def hear_late(over: TaskState | None) -> None:
            if over is None and self._moment == "between subscription and look":
                self._end()
            hear(over)

        with super().heard_by(task_id, hear_late):
            if self._moment == "after the look":
                threading.Timer(0.1, self._end).start()
            yield


@pytest.mark.parametrize("moment", ["before the subscription", "between subscription and look", "after the look"])
def test_an_end_is_not_missed_whenever_it_comes(system: TaskSystem, moment: str) -> None:
    """Nor found only by looking again, which takes five seconds."""
    name = f"moment-{moment}"
    waiting = tasks.wait_for.delay(system.path(name))
    once(waiting, State.STARTED)

    def end() -> None:
        system.write(name)
        eventually(AsyncResult[Any](waiting.id).ready)

    callers = system.callers
    endings = EndsAmidst(system, moment, end)
    sender = TaskSender(callers.broker, callers.sender.routes, endings, callers.clock)
    asked_at = time.monotonic()
    assert AsyncResult[Any](waiting.id, sender).get(WITHIN_S) == "go"
    assert time.monotonic() - asked_at < LOOK_EVERY_S / 2
    endings.close()


def test_a_task_that_has_ended_long_ago_needs_no_wait(system: TaskSystem) -> None:
    """Not even a time to wait."""
    result = tasks.add.delay(1)
    once(result, State.SUCCESS)
    assert AsyncResult[Any](result.id).get(0) == 1


@pytest.mark.parametrize("timeout", [0, 0.01, 0.3])
def test_waiting_ends_on_time(system: TaskSystem, timeout: float) -> None:
    """TimeoutError says what is waited for; a moment late at most, never early."""
    result = tasks.add.apply_async((1,), countdown=600)
    asked_at = time.monotonic()
    with pytest.raises(TimeoutError, match=f"{result.id} has not ended within {timeout} s: PENDING"):
        result.get(timeout)
    assert timeout <= time.monotonic() - asked_at < timeout + LATE_S
    result.revoke()


def test_many_who_wait_share_a_connection_and_are_told_at_once(tmp_path: Path) -> None:
    """Two hundred threads, of which each waits for a task of its own; and two of them for the same."""
    with own_task_system(tmp_path) as system, ThreadPoolExecutor(201) as pool:
        results = [tasks.add.apply_async((1,), countdown=600) for _ in range(200)]
        waiting = [pool.submit(result.get, WITHIN_S) for result in [*results, results[0]]]
        client = system.redis.client()
        eventually(lambda: len(client.pubsub_channels()) == 201, what="the subscriptions")  # one is its own
        assert len([each for each in client.client_list() if int(each["sub"])]) == 1
        told_at = time.monotonic()
        assert GroupResult(results).revoke() == ["revoked"] * 200
        for each in waiting:
            assert isinstance(each.exception(WITHIN_S), TaskRevoked)
        assert time.monotonic() - told_at < LOOK_EVERY_S / 2
        eventually(lambda: len(client.pubsub_channels()) == 1, what="the end of the subscriptions")


def test_a_wait_that_was_given_up_leaves_no_subscription(system: TaskSystem) -> None:
    """However short it was."""
    result = tasks.add.apply_async((1,), countdown=600)
    for number in range(50):
        with pytest.raises(TimeoutError):
            result.get(number % 5 / 2_000)
    channel = RedisKeys(system.callers.settings.namespace).key("ending", pack_id(result.id))
    eventually(lambda: channel not in system.redis.client().pubsub_channels())
    result.revoke()


def test_a_forked_process_may_wait(system: TaskSystem) -> None:
    """Though its parent has waited before: it gets a connection of its own."""
    waiting, ended = tasks.wait_for.delay(system.path("forked")), tasks.sleep.delay(0.2)
    program = (
        "import os, sys; from shared.services import connect; from shared.tasks.result import AsyncResult;"
        "connect(); AsyncResult(sys.argv[1]).get(20); os.fork() or print(AsyncResult(sys.argv[2]).get(20))"
    )
    command = [sys.executable, "-W", "ignore", "-c", program, ended.id, waiting.id]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        client = system.redis.client()
        channel = RedisKeys(system.callers.settings.namespace).key("ending", pack_id(waiting.id))
        eventually(lambda: channel in client.pubsub_channels(), WITHIN_S)
        system.write("forked", "from here")
        told_at = time.monotonic()
        assert process.communicate(timeout=WITHIN_S)[0] == "from here\n"
        assert time.monotonic() - told_at < LOOK_EVERY_S / 2


def test_another_process_may_wait(system: TaskSystem) -> None:
    """It needs the id, and where Redis is."""
    result = tasks.wait_for.delay(system.path("elsewhere"))
    program = (
        "import sys; from shared.services import connect; from shared.tasks.result import AsyncResult;"
        "connect(); print(AsyncResult(sys.argv[1]).get(20))"
    )
    command = [sys.executable, "-c", program, result.id]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        client = system.redis.client()
        channel = RedisKeys(system.callers.settings.namespace).key("ending", pack_id(result.id))
        eventually(lambda: channel in client.pubsub_channels(), WITHIN_S)
        system.write("elsewhere", "from here")
        assert process.communicate(timeout=WITHIN_S)[0] == "from here\n"
