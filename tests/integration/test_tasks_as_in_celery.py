"""What Celery's documentation says of tasks, case by case: where ours do the same, and where docs/celery.md says that
they do not.

A case that differs names the page's row for it, by what stands there on the left.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest

from shared.broker.states import Reason, State
from shared.errors import (
    InvalidInput,
    TaskFailed,
    TaskIdTaken,
    TaskIgnored,
    TaskNotFound,
    TaskRevoked,
)
from shared.tasks.composition import chain, group
from shared.tasks.result import AsyncResult, GroupResult
from tests.support import task_bodies as tasks
from tests.support.parts import ROOT
from tests.support.task_system import TaskSystem, once, own_task_system, working_system
from tests.support.waiting import eventually

pytestmark = pytest.mark.xdist_group("tasks_as_in_celery")

W = 20.0  # seconds to wait for what is quick


class Case(NamedTuple):
    """`differs`: the row of docs/celery.md that says how, or nothing where it is the same."""

    says: str
    shows: Callable[[TaskSystem], None]
    differs: str


CASES: list[Case] = []


def case(says: str, differs: str = "") -> Callable[[Callable[[TaskSystem], None]], Callable[[TaskSystem], None]]:
    def note(shows: Callable[[TaskSystem], None]) -> Callable[[TaskSystem], None]:
        CASES.append(Case(says, shows, differs))
        return shows

    return note


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TaskSystem]:
    with working_system(tmp_path_factory.mktemp("tasks"), ROUTES="no*=slow,add_in_*=slow") as system:
        yield system


def ending(result: AsyncResult[Any]) -> Any:
    """Its result, or what `get` would raise."""
    return result.get(W, propagate=False)


# Calling tasks


@case("delay is a shortcut for apply_async without options")
def _(_: TaskSystem) -> None:
    assert tasks.add.delay(2, y=3).get(W) == tasks.add.apply_async((2,), {"y": 3}).get(W) == 5


@case("apply_async takes positional and keyword arguments as two parameters")
def _(_: TaskSystem) -> None:
    assert tasks.add.apply_async(args=[1], kwargs={"y": 2}).get(W) == 3


@case("calling a task executes it in this process", differs="`add(2, 2)`")
def _(_: TaskSystem) -> None:
    with pytest.raises(TypeError):
        tasks.add(2, 2)


@case("countdown: the task is executed that many seconds from now, or some time after, never before")
def _(_: TaskSystem) -> None:
    sent_at = datetime.now(UTC)
    result = tasks.add.apply_async((1,), countdown=0.2)
    result.get(W)
    started_at = result.look().started_at
    assert started_at is not None
    assert started_at - sent_at >= timedelta(seconds=0.199)


@case("eta: an exact date and time, with its zone, at or after which the task is executed")
def _(_: TaskSystem) -> None:
    eta = datetime.now(UTC) + timedelta(seconds=0.2)
    result = tasks.add.apply_async((1,), eta=eta)
    result.get(W)
    started_at = result.look().started_at
    assert started_at is not None
    assert started_at >= eta


@case("an eta in the past is due at once")
def _(_: TaskSystem) -> None:
    assert tasks.add.apply_async((1,), eta=datetime(2000, 1, 1, tzinfo=UTC)).get(W) == 1


@case("an eta may be naive", differs="`add.apply_async((2, 2), eta=tomorrow)`")
def _(_: TaskSystem) -> None:
    with pytest.raises(InvalidInput, match="eta: must be an instant with a time zone"):
        tasks.add.apply_async((1,), eta=datetime.now(UTC).replace(tzinfo=None))


@case("tasks with an eta are fetched by a worker and held in its memory", differs="countdown=10")
def _(system: TaskSystem) -> None:
    result = tasks.add.apply_async((1,), countdown=600)
    tasks.add.delay(1).get(W)
    stats = system.callers.broker.engine.stats(["default"])["default"]
    assert (stats.leased, result.look().deliveries) == (0, 0)
    assert stats.due >= 1
    result.revoke()


@case("expires: seconds after sending, or a date; a worker that receives an expired task marks it as REVOKED")
def _(_: TaskSystem) -> None:
    for expires in (0, 0.0, datetime.now(UTC)):
        result = tasks.add.apply_async((1,), expires=expires)
        assert isinstance(ending(result), TaskRevoked)
        assert (result.state, result.look().reason) == (State.REVOKED, Reason.EXPIRED)


@case("a task that has begun before it expires runs to its end")
def _(_: TaskSystem) -> None:
    assert tasks.sleep.apply_async((0.5,), expires=0.4).get(W) == 0.5


@case("task_id sets the id, in place of a new UUID")
def _(_: TaskSystem) -> None:
    result = tasks.add.apply_async((1,), task_id="my_own_task_id")
    assert (result.id, result.get(W), AsyncResult[int]("my_own_task_id").get(W)) == ("my_own_task_id", 1, 1)


@case("an id may be used again while its task is there", differs='task_id="mine"')
def _(_: TaskSystem) -> None:
    result = tasks.add.apply_async((1,), countdown=600, task_id="taken")
    with pytest.raises(TaskIdTaken, match="PENDING"):
        tasks.add.apply_async((1,), task_id="taken")
    result.revoke()


@case("queue: a call may name the queue, whatever the task's own")
def _(_: TaskSystem) -> None:
    result = tasks.add.apply_async((1,), queue="slow")
    result.get(W)
    assert result.look().queue == "slow"


@case("a queue that is named for the first time is made", differs='queue="slow"')
def _(_: TaskSystem) -> None:
    with pytest.raises(InvalidInput, match="queue: must be one of default, slow"):
        tasks.add.apply_async((1,), queue="new")


@case("task_routes: patterns of names choose the queue, and a call's own queue goes before them")
def _(_: TaskSystem) -> None:
    routed, chosen = tasks.add_in_child.delay(1), tasks.add_in_child.apply_async((1,), queue="default")
    assert (routed.get(W), chosen.get(W)) == (1, 1)
    assert (routed.look().queue, chosen.look().queue) == ("slow", "default")


@case("priority on Redis: 0 goes first, 9 last", differs="priority=0")
def _(system: TaskSystem) -> None:
    with own_task_system(system.folder / "priorities") as other:
        for priority in (0, 9, 5):
            tasks.note.apply_async((other.path("order"), str(priority)), priority=priority)
        with other.worker(threads=1):
            assert eventually(lambda: len(other.lines("order")) == 3)
        assert other.lines("order") == ["9", "5", "0"]


@case("apply_async(retries=n) says how often it has been retried", differs="retries=1")
def _(_: TaskSystem) -> None:
    result = tasks.fail_again.apply_async(("no",), retries=1)
    assert isinstance(ending(result), TaskFailed)
    assert result.retries == 1


@case("time_limit and soft_time_limit may be given with a call")
def _(_: TaskSystem) -> None:
    assert ending(tasks.sleep.apply_async((60,), time_limit=0.1)).type == "TimeLimitExceeded"
    assert ending(tasks.sleep.apply_async((60,), soft_time_limit=0.1)).type == "SoftTimeLimitExceeded"


@case("arguments are not checked until the body is called", differs="`pydantic=True`")
def _(_: TaskSystem) -> None:
    with pytest.raises(InvalidInput, match=r"args\[0\]: Expected `int`, got `str`"):
        tasks.add.delay("2")  # type: ignore[arg-type]


# Results


@case("get waits until the task is ready and returns its result")
def _(_: TaskSystem) -> None:
    assert tasks.sleep.delay(0.1).get() == 0.1


@case("get(timeout) raises TimeoutError if the result does not arrive in time")
def _(_: TaskSystem) -> None:
    with pytest.raises(TimeoutError):
        tasks.sleep.delay(0.5).get(timeout=0.05)


@case("get raises the exception of the task again", differs="`except ValueError:`")
def _(_: TaskSystem) -> None:
    with pytest.raises(TaskFailed) as failed:
        tasks.fail.delay("no").get(W)
    assert (failed.value.type, failed.value.message) == ("ValueError", "no")
    assert "raise ValueError" in str(failed.value.traceback)


@case("get(propagate=False) returns the exception")
def _(_: TaskSystem) -> None:
    assert isinstance(tasks.fail.delay().get(W, propagate=False), TaskFailed)


@case("result is the return value, or the exception instance if the task raised")
def _(_: TaskSystem) -> None:
    good, bad = tasks.add.delay(1), tasks.fail.delay("no")
    ending(good), ending(bad)
    assert (good.result, str(bad.result)) == (1, "ValueError: no")


@case("ready is false while the task runs, is pending, or waits for a retry")
def _(system: TaskSystem) -> None:
    running, pending = tasks.wait_for.delay(system.path("ready")), tasks.add.apply_async((1,), countdown=600)
    waiting = tasks.retry_until.delay(system.path("waiting"), 2, 600.0)
    once(running, State.STARTED), once(waiting, State.RETRY)
    assert not (running.ready() or pending.ready() or waiting.ready())
    system.write("ready")
    pending.revoke(), waiting.revoke()
    assert running.get(W) == "go"


@case("successful and failed tell how it ended; traceback is that of a failed task")
def _(_: TaskSystem) -> None:
    good, bad = tasks.add.delay(1), tasks.fail.delay()
    ending(good), ending(bad)
    assert (good.successful(), good.failed(), good.traceback) == (True, False, None)
    assert (bad.successful(), bad.failed()) == (False, True)
    assert str(bad.traceback).startswith("Traceback (most recent call last)")


@case("state and status are the same")
def _(_: TaskSystem) -> None:
    result = tasks.add.delay(1)
    ending(result)
    assert result.state == result.status == "SUCCESS"


@case("STARTED is told only with track_started", differs="track_started=True")
def _(system: TaskSystem) -> None:
    result = tasks.wait_for.delay(system.path("started"))
    once(result, State.STARTED)
    system.write("started")
    assert result.get(W) == "go"


@case("an id that is not known is PENDING", differs='`AsyncResult("unknown").state`')
def _(_: TaskSystem) -> None:
    with pytest.raises(TaskNotFound):
        _state = AsyncResult[Any]("unknown").state


@case("forget removes the result, after which the state is PENDING", differs="`result.forget()`")
def _(_: TaskSystem) -> None:
    result = tasks.add.delay(1)
    result.get(W)
    result.forget()
    with pytest.raises(TaskNotFound):
        _state = result.state


@case("get in a task raises RuntimeError", differs="`result.get()` inside a task")
def _(_: TaskSystem) -> None:
    assert tasks.wait_within.delay(1).get(W) == 2


# Revoking


@case("a revoked task is skipped by the worker")
def _(system: TaskSystem) -> None:
    result = tasks.note.apply_async((system.path("revoked"), "x"), countdown=0.1)
    result.revoke()
    assert isinstance(ending(result), TaskRevoked)
    tasks.add.apply_async((1,), countdown=0.15).get(W)
    assert not system.lines("revoked")


@case("revoke returns nothing", differs="`result.revoke()`")
def _(_: TaskSystem) -> None:
    result = tasks.add.delay(1)
    result.get(W)
    assert result.revoke() == "too_late"


@case("revoke does not end a task that runs already")
def _(system: TaskSystem) -> None:
    result = tasks.sleep.apply_async((0.3,), time_limit=60)
    once(result, State.STARTED)
    result.revoke()
    assert result.get(W) == 0.3


@case("revoke(terminate=True) ends the process that runs it; its state is REVOKED")
def _(system: TaskSystem) -> None:
    result = tasks.wait_in_child.delay(system.path("terminated"))
    once(result, State.STARTED)
    result.revoke(terminate=True)
    assert isinstance(ending(result), TaskRevoked)
    assert result.state == "REVOKED"


@case("terminate may end another task that the process has begun meanwhile", differs="`result.revoke(terminate=True)`")
def _(_: TaskSystem) -> None:
    result, other = tasks.add_in_child.delay(1), tasks.sleep.apply_async((0.2,), time_limit=60)
    result.get(W)
    assert result.revoke(terminate=True) == "too_late"
    assert other.get(W) == 0.2


# Limits


@case("the soft limit raises an exception in the task, which can clean up before the hard limit")
def _(system: TaskSystem) -> None:
    assert tasks.clean_up.delay(system.path("clean")).get(W) == "cleaned up"


@case("the hard limit cannot be caught: the process is ended")
def _(_: TaskSystem) -> None:
    assert ending(tasks.stuck.delay("deaf")).type == "TimeLimitExceeded"


@case("autoretry_for=(Exception,) covers SoftTimeLimitExceeded", differs="autoretry_for=(OSError,)")
def _(system: TaskSystem) -> None:
    result = tasks.sleep_long.delay(system.path("soft"))
    assert ending(result).type == "SoftTimeLimitExceeded"
    assert result.retries == 0


# Retrying


@case("retry ends the run, and the task is sent again with the same id and arguments")
def _(system: TaskSystem) -> None:
    result = tasks.retry_until.delay(system.path("again"), 3)
    assert (result.get(W), result.retries, system.lines("again")) == (2, 2, ["0", "1", "2"])


@case("while it waits for a retry the state is RETRY, and the exception that caused it is known")
def _(system: TaskSystem) -> None:
    result = tasks.retry_until.delay(system.path("why"), 2, 600.0)
    error = once(result, State.RETRY).error
    assert error is not None
    assert error.type == "ValueError"
    result.revoke()


@case("a task is retried at most three times by default, then exc is raised")
def _(system: TaskSystem) -> None:
    result = tasks.retry_until.delay(system.path("thrice"), 99)
    assert str(ending(result)) == "ValueError: not yet"
    assert result.retries == 3


@case("without exc it is MaxRetriesExceededError")
def _(_: TaskSystem) -> None:
    assert ending(tasks.retry.delay(None, None)).type == "MaxRetriesExceeded"


@case("retry(max_retries=n) overrides the task's own number")
def _(_: TaskSystem) -> None:
    result = tasks.retry.delay(4, None)
    ending(result)
    assert result.retries == 4


@case("autoretry_for: exceptions that are retried by themselves, no others")
def _(_: TaskSystem) -> None:
    listed, other = tasks.fail_again.delay("no"), tasks.fail.delay("no")
    ending(listed), ending(other)
    assert (listed.retries, other.retries) == (2, 0)


@case("Ignore is not retried, even if every Exception is listed")
def _(system: TaskSystem) -> None:
    result = tasks.end.delay("ignore", system.path("ignored"))
    assert isinstance(ending(result), TaskIgnored)
    assert (result.state, result.retries) == ("IGNORED", 0)


@case("Reject leaves no state, and the broker may have a dead letter queue", differs="`raise Reject(requeue=False)`")
def _(_: TaskSystem) -> None:
    result = tasks.reject.delay()
    assert ending(result).type == "Reject"
    assert result.state == "FAILURE"


@case("bind=True gives the body self, with self.request.id and self.request.retries")
def _(_: TaskSystem) -> None:
    result = tasks.request.delay("retry")
    told = result.get(W)
    assert (told["id"], told["retries"]) == (result.id, 1)


@case("update_state(meta=...) is seen as info while the task runs", differs="`self.update_state(")
def _(system: TaskSystem) -> None:
    result = tasks.tell.delay(2, system.path("told"))
    eventually(lambda: result.info is not None and result.info.current == 2)
    assert (result.state, result.info.note) == ("STARTED", "step 2")
    system.write("told")
    assert result.get(W)[0] == result.info[0] == result.id


# Composing


@case("in a chain the result comes first among the arguments", differs="`chain(add.s(2, 2), add.s(4))()`")
def _(system: TaskSystem) -> None:
    path = system.path("last")
    chain(tasks.echo.s("the result"), tasks.note.s(path)).delay().get(W)
    assert system.lines("last") == ["the result"]


@case("signatures can be joined with |")
def _(_: TaskSystem) -> None:
    assert (tasks.add.s(2, 2) | tasks.add.s(4) | tasks.add.s(8)).delay().get(W) == 16


@case("an immutable signature is not given the result before it")
def _(_: TaskSystem) -> None:
    assert chain(tasks.add.s(2, 2), tasks.add.si(10, 10)).delay().get(W) == 20


@case("a signature takes execution options with set")
def _(_: TaskSystem) -> None:
    result = tasks.add.s(1).set(queue="slow", priority=3).delay()
    result.get(W)
    assert (result.look().queue, result.look().priority) == ("slow", 3)


@case("a chain stops at the first error, which is that of the chain")
def _(_: TaskSystem) -> None:
    result = chain(tasks.echo.s("no"), tasks.fail.s(), tasks.add.si(1)).delay()
    assert str(ending(result)) == "ValueError: no"


@case("the parents of a chain's result can be asked", differs="`result.collect()`")
def _(_: TaskSystem) -> None:
    result = chain(tasks.add.s(1), tasks.add.s(2)).delay()
    result.get(W)
    assert [parent.result for parent in result.parents] == [1]


@case("a group runs its tasks in parallel and gives the results in order")
def _(_: TaskSystem) -> None:
    result = group(*[tasks.add.s(number, number) for number in range(10)]).delay()
    assert result.get(W) == [2 * number for number in range(10)]


@case("GroupResult: successful, failed, ready, completed_count")
def _(_: TaskSystem) -> None:
    result = group(tasks.add.s(1), tasks.fail.s()).delay()
    ending(result[0]), ending(result[1])
    told = (result.successful(), result.failed(), result.ready(), result.completed_count())
    assert told == (False, True, True, 1)
    assert GroupResult(result.results).completed_count() == 1


@case("a chord's body is called with the results of its header", differs="`chord([add.s(1), add.s(2)])(tsum.s())`")
def _(system: TaskSystem) -> None:
    group(tasks.add.s(1), tasks.add.s(2)).then(tasks.note.s(system.path("chord"), "called")).delay().get(W)
    assert eventually(lambda: system.lines("chord")) == ["called"]


@case("a chord's body is not called if one of the header fails")
def _(system: TaskSystem) -> None:
    result = group(tasks.add.s(1), tasks.fail.s()).then(tasks.note.s(system.path("failed"), "called")).delay()
    eventually(result.ready)
    assert not system.lines("failed")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.says[:70])
def test_what_celery_documents(system: TaskSystem, case: Case) -> None:
    """The same here; or different, and the page for those who come from Celery has a row on it."""
    case.shows(system)
    page = (ROOT / "docs" / "celery.md").read_text(encoding="utf-8")
    left = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| ")]
    assert not case.differs or any(case.differs in cell for cell in left)
