"""Trying again: which errors are, how often, after which pauses, and what is seen of it meanwhile."""

import logging
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from shared.broker.states import State
from shared.errors import MaxRetriesExceeded, TaskFailed, TaskIgnored
from shared.tasks.result import AsyncResult
from tests.support import task_bodies as tasks
from tests.support.engines import dead_letters, dead_message
from tests.support.task_system import WITHIN_S, TaskSystem, once, refusal, working_system

pytestmark = pytest.mark.xdist_group("tasks_retries")

END = [tasks.end, tasks.end_in_child]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TaskSystem]:
    with working_system(tmp_path_factory.mktemp("tasks")) as system:
        yield system


def test_an_error_that_is_listed_is_tried_again(system: TaskSystem) -> None:
    """As often as is declared; the last error is how the task ends, with its traceback and the number of retries."""
    result = tasks.fail_again.delay("no")
    with pytest.raises(TaskFailed) as failed:
        result.get(WITHIN_S)
    assert (failed.value.type, failed.value.message) == ("ValueError", "no")
    assert "raise ValueError(message)\nValueError: no\n" in str(failed.value.traceback)
    assert (result.retries, result.look().deliveries) == (2, 3)
    assert result.traceback == failed.value.traceback


def test_an_error_that_is_not_listed_is_not(system: TaskSystem) -> None:
    """Failed at the first, though a task may be tried three times."""
    result = tasks.fail.delay()
    assert isinstance(result.get(WITHIN_S, propagate=False), TaskFailed)
    assert (result.retries, result.look().deliveries) == (0, 1)


@pytest.mark.parametrize("retries", [0, 1, 4])
def test_a_call_says_how_often_it_is_tried_again(system: TaskSystem, retries: int) -> None:
    """In place of the declaration, more or less often; 0 is never."""
    result = tasks.fail_again.apply_async(("no",), retries=retries)
    assert isinstance(result.get(WITHIN_S, propagate=False), TaskFailed)
    assert (result.retries, result.look().deliveries) == (retries, retries + 1)


def test_pauses_double_within_their_jitter(system: TaskSystem) -> None:
    """Once to twice the least, then twice that; the longest allowed counts from half of it to all of it."""
    result = tasks.back_off.delay(system.path("pauses"))
    assert isinstance(result.get(WITHIN_S, propagate=False), TaskFailed)
    pauses = [later - earlier for earlier, later in pairwise(map(float, system.lines("pauses")))]
    late_s = 0.5  # on busy cores
    for pause, (least, most) in zip(pauses, [(0.1, 0.2), (0.15, 0.3), (0.15, 0.3)], strict=True):
        assert least <= pause <= most + late_s


def test_while_it_waits_its_last_error_is_seen(system: TaskSystem) -> None:
    """State RETRY, the time at which it is due, the error and how often; `get` goes on waiting."""
    result = tasks.retry_until.delay(system.path("seen"), 2, 600.0)
    state = once(result, State.RETRY)
    assert (state.retries, state.deliveries, result.result, result.ready()) == (1, 1, None, False)
    assert state.due_at is not None
    assert state.error is not None
    assert (state.error.type, state.error.message) == ("ValueError", "not yet")
    assert "ValueError: not yet" in str(result.traceback)
    with pytest.raises(TimeoutError):
        result.get(0.05)
    assert result.revoke() == "revoked"


def test_a_body_may_retry_itself(system: TaskSystem) -> None:
    """It is told how often it has; nothing behind the call of retry is done."""
    result = tasks.retry_until.delay(system.path("tries"), 3)
    assert result.get(WITHIN_S) == 2
    assert system.lines("tries") == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("max_retries", "exc", "retries", "error"),
    [
        (None, None, 1, "MaxRetriesExceeded: retry has been tried 2 times"),
        (None, "mine", 1, "KeyError: 'mine'"),
        (3, None, 3, "MaxRetriesExceeded: retry has been tried 4 times"),
        (0, None, 0, "MaxRetriesExceeded: retry has been tried 1 times"),
        (0, "mine", 0, "KeyError: 'mine'"),
    ],
)
def test_the_last_retry_is_followed_by_an_error(
    system: TaskSystem, max_retries: int | None, exc: str | None, retries: int, error: str
) -> None:
    """The one that the body has given, or MaxRetriesExceeded; the number may be the declaration's or the body's."""
    result = tasks.retry.delay(max_retries, exc)
    assert str(refusal(lambda: result.get(WITHIN_S))) == error
    assert (result.state, result.retries) == (State.FAILURE, retries)


def test_the_retries_of_a_call_count_for_self_retry_too(system: TaskSystem) -> None:
    """Unless the body says otherwise."""
    result = tasks.retry.apply_async((None, None), retries=0)
    assert MaxRetriesExceeded.__name__ in str(refusal(lambda: result.get(WITHIN_S)))
    assert result.retries == 0


def test_the_retries_that_a_body_allows_itself_count_for_that_call_alone(system: TaskSystem) -> None:
    """The next one is the declaration's again, and so is what the body is told."""
    result = tasks.retry_more.delay(system.path("more"))
    assert str(refusal(lambda: result.get(WITHIN_S))) == "MaxRetriesExceeded: retry_more has been tried 2 times"
    assert system.lines("more") == ["0 1", "1 1"]


@pytest.mark.parametrize("task", [tasks.retry_oddly, tasks.retry_oddly_in_child], ids=lambda task: task.name)
@pytest.mark.parametrize("how", tasks.ODD_RETRIES)
def test_a_retry_with_what_cannot_be_is_an_error_of_the_body(system: TaskSystem, task: Any, how: str) -> None:
    """Named; it is not tried again, and can be looked at."""
    result = task.delay(how)
    (name,) = tasks.ODD_RETRIES[how]
    assert str(refusal(lambda: result.get(WITHIN_S))).startswith(f"InvalidInput: {name}: must be a ")
    assert result.retries == 0


@pytest.mark.parametrize("how", ["ignore", "ignore oddly"])
@pytest.mark.parametrize("task", END, ids=lambda task: task.name)
def test_an_ignored_run_is_not_tried_again(system: TaskSystem, task: Any, how: str) -> None:
    """Though every Exception is listed, and whatever it says."""
    result = task.delay(how, system.path(f"{task.name}-{how}"))
    assert isinstance(result.get(WITHIN_S, propagate=False), TaskIgnored)
    assert (result.state, result.retries, result.look().deliveries) == (State.IGNORED, 0, 1)
    assert (result.ready(), result.successful(), result.failed(), result.traceback) == (True, False, False, None)


@pytest.mark.parametrize("task", END, ids=lambda task: task.name)
def test_a_rejected_task_is_a_dead_letter_at_once(system: TaskSystem, task: Any) -> None:
    """FAILURE, not tried again though every Exception is listed, and its message is kept."""
    result = task.delay("reject", system.path(f"{task.name}-reject"))
    assert str(refusal(lambda: result.get(WITHIN_S))).startswith("Reject: cannot be done")
    assert (result.state, result.retries) == (State.FAILURE, 0)
    message = dead_message(system.callers.broker.engine, result.id, "default")
    assert message is not None
    assert message.args == ("reject", system.path(f"{task.name}-reject"))


def test_a_dead_letter_can_be_forgotten(system: TaskSystem) -> None:
    """Its message goes with it."""
    result = tasks.reject.delay()
    once(result, State.FAILURE)
    result.forget()
    assert result.id not in [state.id for state in dead_letters(system.callers.broker.engine, "default")]


@pytest.mark.parametrize("task", END, ids=lambda task: task.name)
@pytest.mark.parametrize(
    ("how", "type_", "message", "is_retried"),
    [
        ("odd", "tests.support.task_bodies._OddError", "(it cannot be put into words)", True),
        ("leaving", "tests.support.task_bodies._LeavingError", "(it cannot be put into words)", True),
        ("badly named", "tests.support.task_bodies.Bad\\ud800", "", True),
        ("surrogate", "ValueError", "\\ud800", True),
        ("long", "ValueError", "x" * 4_000, True),
        ("exit", "SystemExit", "7", False),
        ("interrupt", "KeyboardInterrupt", "", False),
    ],
)
def test_whatever_a_body_raises_is_told(
    system: TaskSystem,
    caplog: pytest.LogCaptureFixture,
    task: Any,
    how: str,
    type_: str,
    message: str,
    is_retried: bool,
) -> None:
    """In words that can be stored; SystemExit and KeyboardInterrupt are no Exception, and hurt no worker."""
    caplog.set_level(logging.CRITICAL, "dramatiq")  # its log would quote what cannot be encoded
    name = f"{task.name}-{how}"
    result = task.delay(how, system.path(name))
    error = result.get(WITHIN_S, propagate=False)
    assert isinstance(error, TaskFailed)
    assert (error.type, error.message) == (type_, message)
    assert len(str(error.traceback)) <= 16_000
    assert system.lines(name) == ["run"] * (3 if is_retried else 1)
    assert tasks.add.delay(1, 2).get(WITHIN_S) == 3


@pytest.mark.parametrize("how", ["", "retry"])
def test_a_body_knows_how_it_was_sent(system: TaskSystem, how: str) -> None:
    """Id, counts, times, queue and priority, in each of its runs."""
    result = tasks.request.apply_async(
        (how,), countdown=0.01, expires=60, retries=5, task_id=f"request{how}", queue="default", priority=2
    )
    told = result.get(WITHIN_S)
    assert told.pop("eta") < told.pop("expires")
    assert told == {
        "id": f"request{how}",
        "task": "request",
        "queue": "default",
        "priority": 2,
        "retries": 1 if how else 0,
        "max_retries": 5,
        "deliveries": 2 if how else 1,
    }


def test_a_declaration_says_where_and_how_urgently(system: TaskSystem) -> None:
    """Unless the call does; without times, it is told none."""
    told = tasks.request.delay().get(WITHIN_S)
    assert (told["queue"], told["priority"], told["eta"], told["expires"]) == ("slow", 8, None, None)
    assert tasks.request.apply_async(priority=5).get(WITHIN_S)["priority"] == 5


@pytest.mark.parametrize("task", [tasks.send_on, tasks.send_on_in_child], ids=lambda task: task.name)
def test_a_body_may_send_tasks(system: TaskSystem, task: Any) -> None:
    """From a child process too."""
    assert AsyncResult[int](task.delay(1).get(WITHIN_S)).get(WITHIN_S) == 2
