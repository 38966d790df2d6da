"""Every option of apply_async in every state of a task: what AsyncResult says, and what its methods do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from shared.broker.states import Reason, State
from shared.errors import InvigilError, TaskConflict, TaskFailed, TaskIdTaken, TaskIgnored, TaskNotFound, TaskRevoked
from shared.tasks.result import AsyncResult
from shared.tasks.task import Task
from tests.support import task_bodies as tasks
from tests.support.task_system import TaskSystem, once, working_system
from tests.support.waiting import eventually

pytestmark = pytest.mark.xdist_group("tasks_states")

IDLE = "idle"  # a queue without a worker
LATER_S = 600.0
SOON_S = 0.03

Result = AsyncResult[Any]
Options = dict[str, Any]
Bring = Callable[[TaskSystem, Options], Result]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TaskSystem]:
    with working_system(tmp_path_factory.mktemp("tasks"), ROUTES=f"nothing={IDLE}") as system:
        yield system


def later() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=LATER_S)


OPTIONS: dict[str, Callable[[], Options]] = {
    "none": dict,
    "countdown": lambda: {"countdown": SOON_S},
    "eta": lambda: {"eta": datetime.now(UTC) + timedelta(seconds=SOON_S)},
    "eta that is past": lambda: {"eta": datetime(2020, 1, 1, tzinfo=UTC)},
    "expires in seconds": lambda: {"expires": LATER_S},
    "expires at an instant": lambda: {"expires": later()},
    "countdown and expires": lambda: {"countdown": SOON_S, "expires": LATER_S},
    "queue": lambda: {"queue": "slow"},
    "priority": lambda: {"priority": 9},
    "lowest priority": lambda: {"priority": 0},
    "retries": lambda: {"retries": 7},
    "soft_time_limit": lambda: {"soft_time_limit": LATER_S},
    "time_limit": lambda: {"time_limit": LATER_S},
    "task_id": lambda: {"task_id": f"my~task:{uuid4()}"},
}


@dataclass(frozen=True)
class Row:
    """A state, how a task gets there, and what is known of it then. `error`: what `get` raises."""

    bring: Bring
    state: State
    reason: Reason | None = None
    result: Any = None
    error: tuple[type[InvigilError], str] | None = None
    retries: int = 0
    revoke: str = "too_late"
    terminate: str = "too_late"
    afterwards: tuple[State, Reason | None] | None = None
    has_run: bool = True


def sent(task: Task[..., Any], args: tuple[Any, ...], options: Options, **more: Any) -> Result:
    return task.apply_async(args, **(options | more))


def due(_system: TaskSystem, options: Options) -> Result:
    options = {name: value for name, value in options.items() if name != "eta"}
    return sent(tasks.add, (1,), options, countdown=LATER_S)


def ready(_system: TaskSystem, options: Options) -> Result:
    options = {name: value for name, value in options.items() if name not in ("countdown", "eta")}
    return sent(tasks.add, (1,), options, queue=IDLE)


def started(task: Task[..., Any]) -> Bring:
    def bring(system: TaskSystem, options: Options) -> Result:
        result = sent(task, (system.path(f"gate-{uuid4()}"),), options)
        once(result, State.STARTED)
        return result

    return bring


def waiting_for_retry(system: TaskSystem, options: Options) -> Result:
    result = sent(tasks.retry_until, (system.path(f"tries-{uuid4()}"), 2, LATER_S), options)
    once(result, State.RETRY)
    return result


def ended(task: Task[..., Any], state: State, *args: Any) -> Bring:
    def bring(_system: TaskSystem, options: Options) -> Result:
        result = sent(task, args, options)
        once(result, state)
        return result

    return bring


def cancelled(system: TaskSystem, options: Options) -> Result:
    result = due(system, options)
    assert result.revoke() == "revoked"
    return result


def expired(_system: TaskSystem, options: Options) -> Result:
    result = sent(tasks.add, (1,), options, expires=0)
    once(result, State.REVOKED)
    return result


def terminated(system: TaskSystem, options: Options) -> Result:
    result = started(tasks.wait_in_child)(system, options)
    assert result.revoke(terminate=True) == "terminated"
    once(result, State.REVOKED)
    return result


CANCELLED = (State.REVOKED, Reason.CANCELLED)
TERMINATED = (State.REVOKED, Reason.TERMINATED)
IS_REVOKED: Options = {"state": State.REVOKED, "revoke": "revoked", "terminate": "revoked"}
PENDING: Options = {"state": State.PENDING, "revoke": "revoked", "terminate": "revoked", "afterwards": CANCELLED}
STATES = {
    "pending, due later": Row(due, **PENDING, has_run=False),
    "pending, ready": Row(ready, **PENDING, has_run=False),
    "running in a thread": Row(
        started(tasks.wait_for), State.STARTED, revoke="running", terminate="running", afterwards=TERMINATED
    ),
    "running in a child": Row(
        started(tasks.wait_in_child), State.STARTED, revoke="running", terminate="terminated", afterwards=TERMINATED
    ),
    "waiting for a retry": Row(
        waiting_for_retry, State.RETRY, retries=1, revoke="revoked", terminate="revoked", afterwards=CANCELLED
    ),
    "success": Row(ended(tasks.add, State.SUCCESS, 3, 4), State.SUCCESS, result=7),
    "failure": Row(ended(tasks.fail, State.FAILURE, "no"), State.FAILURE, error=(TaskFailed, "ValueError: no")),
    "ignored": Row(ended(tasks.ignore, State.IGNORED), State.IGNORED, error=(TaskIgnored, "ignored by its body")),
    "cancelled": Row(cancelled, reason=Reason.CANCELLED, error=(TaskRevoked, "cancelled"), has_run=False, **IS_REVOKED),
    "expired": Row(expired, reason=Reason.EXPIRED, error=(TaskRevoked, "expired"), has_run=False, **IS_REVOKED),
    "terminated": Row(terminated, reason=Reason.TERMINATED, error=(TaskRevoked, "terminated"), **IS_REVOKED),
}


@contextmanager
def brought(system: TaskSystem, row: Row, options: Options) -> Iterator[Result]:
    """A task in this state, which holds no thread afterwards."""
    result = row.bring(system, options)
    try:
        yield result
    finally:
        if row.state is State.STARTED:
            result.revoke(terminate=True)
            eventually(result.ready)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", STATES)
def test_what_is_said_of_a_task(system: TaskSystem, name: str, option: str) -> None:
    """State, result, error and counts as the state says; instants, queue and priority as the call says."""
    row, options = STATES[name], OPTIONS[option]()
    with brought(system, row, options) as result:
        check_state(result, row)
        check_result(result, row)
        check_options(result, row, options)
        assert AsyncResult[Any](result.id).look() == result.look()


def check_state(result: Result, row: Row) -> None:
    state = result.look()
    is_over = row.state in (State.SUCCESS, State.FAILURE, State.IGNORED, State.REVOKED)
    assert (result.state, result.status, state.reason) == (row.state, row.state, row.reason)
    assert (result.ready(), result.successful(), result.failed()) == (
        is_over,
        row.state is State.SUCCESS,
        row.state is State.FAILURE,
    )
    assert result.retries == row.retries
    assert state.deliveries == (1 if row.has_run else 0)
    assert (state.started_at is not None) is row.has_run
    assert (state.ended_at is not None) is is_over
    assert (result.time_taken is not None) is (is_over and row.has_run)
    assert result.time_taken is None or timedelta() <= result.time_taken < timedelta(seconds=30)


def check_result(result: Result, row: Row) -> None:
    if row.error is not None:
        kind, said = row.error
        for error in (result.result, result.info, result.get(1, propagate=False)):
            assert isinstance(error, kind)
            assert said in str(error)
        with pytest.raises(kind, match=said):
            result.get(1)
    elif row.state is State.SUCCESS:
        assert (result.result, result.info, result.get(1)) == (row.result,) * 3
    else:
        assert (result.result, result.info) == (None, None)
        for propagate in (True, False):
            with pytest.raises(TimeoutError, match=str(row.state)):
                result.get(0.01, propagate)
    has_error = row.state in (State.FAILURE, State.RETRY)
    assert (result.traceback is not None) is has_error
    assert not has_error or "ValueError" in str(result.traceback)


def check_options(result: Result, row: Row, options: Options) -> None:
    state = result.look()
    assert state.queue == (IDLE if row.bring is ready else options.get("queue", "default"))
    assert state.priority == options.get("priority", 5)
    assert (result.id, result.task_id) == (options.get("task_id", result.id),) * 2
    assert result.expires == state.expires_at
    if row.bring is not expired:
        assert (result.expires is not None) is ("expires" in options)
        if "expires" in options:
            assert result.expires is not None
            assert abs(result.expires - later()) < timedelta(seconds=30)
    is_put_off = row.bring is not ready and ("countdown" in options or options.get("eta", later()) < later())
    if row.bring in (due, cancelled):
        assert state.due_at is not None
        assert abs(state.due_at - later()) < timedelta(seconds=30)
    elif not is_put_off and row.state is not State.RETRY:
        assert state.due_at is None
    if state.due_at is not None and state.started_at is not None and row.state is not State.RETRY:
        assert state.started_at >= state.due_at


@pytest.mark.parametrize("verb", ["revoke", "terminate"])
@pytest.mark.parametrize("name", STATES)
def test_revoking(system: TaskSystem, name: str, verb: str) -> None:
    """The answer says what becomes of the task; what has ended stays as it is."""
    row = STATES[name]
    with brought(system, row, {}) as result:
        before = result.look()
        assert result.revoke(terminate=verb == "terminate") == getattr(row, verb)
        if row.state is State.STARTED and verb == "revoke":
            assert result.get(10) == "aborted"  # it goes on, and may ask
        elif row.afterwards is not None:
            state = once(result, State.REVOKED)
            assert (state.state, state.reason) == row.afterwards
        else:
            assert AsyncResult[Any](result.id).look() == before


@pytest.mark.parametrize("name", STATES)
def test_forgetting(system: TaskSystem, name: str) -> None:
    """What has ended is unknown from then on, and its id is free; what has not is refused, and goes on."""
    row = STATES[name]
    with brought(system, row, {}) as result:
        if result.ready():
            result.forget()
            with pytest.raises(TaskNotFound):
                result.look()
            assert tasks.add.apply_async((1,), task_id=result.id).get(10) == 1
        else:
            with pytest.raises(TaskConflict, match=row.state):
                result.forget()
            assert result.state is row.state


@pytest.mark.parametrize("name", STATES)
def test_a_taken_id_is_refused(system: TaskSystem, name: str) -> None:
    """Naming the state of the task that has it, which is left as it was."""
    row = STATES[name]
    with brought(system, row, {}) as result:
        before = result.look()
        with pytest.raises(TaskIdTaken, match=row.state) as refused:
            tasks.add.apply_async((1,), task_id=result.id)
        assert refused.value.state == row.state
        assert AsyncResult[Any](result.id).look() == before


UNKNOWN: dict[str, Callable[[Result], object]] = {
    "state": lambda result: result.state,
    "status": lambda result: result.status,
    "result": lambda result: result.result,
    "retries": lambda result: result.retries,
    "time_taken": lambda result: result.time_taken,
    "expires": lambda result: result.expires,
    "traceback": lambda result: result.traceback,
    "info": lambda result: result.info,
    "ready": lambda result: result.ready(),
    "successful": lambda result: result.successful(),
    "failed": lambda result: result.failed(),
    "get": lambda result: result.get(5),
    "get without propagation": lambda result: result.get(5, propagate=False),
    "revoke": lambda result: result.revoke(),
    "terminate": lambda result: result.revoke(terminate=True),
    "forget": lambda result: result.forget(),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_an_unknown_id_is_an_error(system: TaskSystem, what: str) -> None:
    """Of every method, at once; the id itself can be read, and compares."""
    result = AsyncResult[Any](str(uuid4()))
    with pytest.raises(TaskNotFound):
        UNKNOWN[what](result)
    assert result == AsyncResult[Any](result.id)
    assert result.task_id == result.id


def test_what_expires_before_it_is_due_is_accepted_and_never_runs(system: TaskSystem) -> None:
    """REVOKED as soon as it has expired, not only when it would have been due."""
    result = tasks.add.apply_async((1,), countdown=LATER_S, expires=0.05)
    assert once(result, State.REVOKED, within_s=5).reason is Reason.EXPIRED


@pytest.mark.parametrize("expires", [0, datetime(2020, 1, 1, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)])
def test_what_has_expired_already_is_accepted_and_never_runs(system: TaskSystem, expires: float | datetime) -> None:
    """However long ago."""
    result = tasks.add.apply_async((1,), expires=expires)
    assert once(result, State.REVOKED).reason is Reason.EXPIRED


def test_a_retry_that_would_begin_after_its_expiry_is_revoked(system: TaskSystem) -> None:
    """An expiry holds for each run."""
    result = tasks.retry_until.apply_async((system.path("expiring"), 2, 1.0), expires=0.7)
    once(result, State.RETRY)
    assert once(result, State.REVOKED).reason is Reason.EXPIRED
    assert system.lines("expiring") == ["0"]
