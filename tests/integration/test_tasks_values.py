"""Values on their way: what arrives, and what becomes of results that cannot be kept."""

from collections import OrderedDict
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from enum import IntEnum
from typing import Any

import pytest

from shared.broker.states import State
from shared.errors import TaskIdTaken
from shared.tasks.composition import chain, group
from shared.tasks.listing import TaskLists, TaskQuery
from shared.tasks.result import AsyncResult
from tests.support import task_bodies as tasks
from tests.support.task_bodies import Point, nested
from tests.support.task_system import TaskSystem, once, refusal, working_system
from tests.support.waiting import eventually

LARGE = "x" * 100_000  # too large for Redis
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TaskSystem]:
    with working_system(tmp_path_factory.mktemp("tasks")) as system:
        yield system


class Number(IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        (Number.ONE, 1),
        (OrderedDict(a=1), {"a": 1}),
        ((1, 2), [1, 2]),
        ({1}, [1]),
        (Decimal("1.5"), "1.5"),
        (Point(1, 2), {"x": 1.0, "y": 2.0}),
        (datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01T00:00:00Z"),
        (2**64 - 1, 2**64 - 1),
        (-(2**63), -(2**63)),
        ("\0ä€😀", "\0ä€😀"),
        (nested(97), nested(97)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_has_no_word_for_travels_as_what_it_says(system: TaskSystem, value: Any, arrives: Any) -> None:
    """The body is given plain values, by themselves and in a list."""
    assert tasks.echo.delay(value).get(10) == arrives
    if value != nested(97):
        assert tasks.echo.delay([value]).get(10) == [arrives]


def test_declared_types_arrive_as_declared(system: TaskSystem) -> None:
    """An instant and a struct, whether they were given as such or as JSON has them."""
    for at, point in [(NOW, Point(1, 2)), (NOW.isoformat(), {"x": 1, "y": 2})]:
        told = tasks.later.delay(at, point, note="hi").get(10)  # type: ignore[arg-type]
        assert told == f"datetime Point {NOW.isoformat()} 3.0 hi"


@pytest.mark.parametrize("task", [tasks.give, tasks.give_in_child], ids=lambda task: task.name)
@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("object", "a object cannot be sent"),
        ("set", "a set cannot be sent"),
        ("bytes", "a bytes cannot be sent"),
        ("instant", "a datetime cannot be sent"),
        ("struct", "a Point cannot be sent"),
        ("NaN", "a number must be finite"),
        ("surrogate", "without lone surrogates"),
        ("keys", "keys must be text"),
        ("large integer", "must fit into 64 bits"),
        ("too deep", "nested 100 deep"),
        ("too large", "at most 67108864 are sent"),
    ],
)
def test_a_result_that_cannot_be_kept_is_a_failure(system: TaskSystem, task: Any, what: str, why: str) -> None:
    """Saying so, the same in a thread and in a child process, and it is not tried again."""
    result = task.delay(what)
    error = refusal(lambda: result.get(20))
    assert "InvalidInput: result" in str(error)
    assert why in str(error)
    assert (result.state, result.retries, system.payloads(result.id)) == ("FAILURE", 0, [])


@pytest.mark.parametrize("task", [tasks.give, tasks.give_in_child], ids=lambda task: task.name)
@pytest.mark.parametrize("what", ["set", "too large"])
def test_nothing_follows_from_a_result_that_cannot_be_kept(system: TaskSystem, task: Any, what: str) -> None:
    """Neither the next of a chain nor what a group calls back."""
    followed = system.path(f"{task.name} {what}")
    chained = chain(task.s(what), tasks.note.si(followed, "next")).delay()
    grouped = group(task.s(what), tasks.add.s(1)).then(tasks.note.si(followed, "called back")).delay()
    for result in (chained.parents[0], grouped[0]):
        assert once(result, State.FAILURE).error is not None
    assert grouped[1].get(10) == 1
    assert tasks.add.delay(1).get(10) == 1
    assert system.lines(followed) == []


def test_large_arguments_of_a_task_that_is_refused_are_not_kept(system: TaskSystem) -> None:
    """Its id is taken."""
    tasks.add.apply_async((1,), task_id="taken").get(10)
    with pytest.raises(TaskIdTaken):
        tasks.length.apply_async((LARGE,), task_id="taken")
    assert system.payloads("taken") == []


def test_large_arguments_of_a_task_that_is_revoked_instead_of_tried_again_are_not_kept(system: TaskSystem) -> None:
    """They were kept while it ran."""
    result = tasks.fail_with.delay(system.path("revoked"), LARGE)
    eventually(lambda: system.lines("revoked.begun"))
    assert len(system.payloads(result.id)) == 1
    assert result.revoke() == "running"
    system.write("revoked")
    once(result, State.REVOKED)
    eventually(lambda: system.payloads(result.id) == [])


def test_a_task_that_is_due_after_all_time_can_be_looked_at(system: TaskSystem) -> None:
    """By itself and in a list: it is due at the end of time. Only a sender of Dramatiq's messages can do that."""
    message, _ = system.callers.sender.message(tasks.add, (1,), {})
    system.callers.broker.enqueue(message, delay=10**16)
    try:
        assert AsyncResult[int](message.message_id).look().due_at == datetime.max.replace(
            microsecond=999_000, tzinfo=UTC
        )
        listed = TaskLists(system.callers.broker.engine).tasks(["default"], TaskQuery(1000)).states
        assert message.message_id in [state.id for state in listed]
    finally:
        AsyncResult[int](message.message_id).revoke()


@pytest.mark.parametrize("task", [tasks.give, tasks.give_in_child], ids=lambda task: task.name)
def test_a_nested_result_arrives_as_it_was(system: TaskSystem, task: Any) -> None:
    """Tuples as lists."""
    assert task.delay("nested").get(10) == {"a": [1, 2.5, None, True, "ä", {"b": []}]}
    assert task.delay("tuple").get(10) == [1, [2, 3]]


@pytest.mark.parametrize(
    "arguments",
    [
        ("1", None, None),
        (True, None, None),
        (1, "2", None),
        (None, 1, None),
        (1, 2, 3),
    ],
)
def test_bad_progress_is_an_error_of_the_body(system: TaskSystem, arguments: tuple[Any, ...]) -> None:
    """Named; what it said before stays."""
    error = refusal(lambda: tasks.progress.delay(*arguments).get(10))
    assert str(error).startswith("InvalidInput: progress: Expected")


def test_a_note_is_cut_to_a_thousand_characters(system: TaskSystem) -> None:
    """And may be anything."""
    result = tasks.progress.delay(1, None, "ä" * 5_000)
    result.get(10)
    progress = result.look().progress
    assert progress is not None
    assert progress.note == "ä" * 1_000
