"""What cannot be sent is refused before anything is, and each refusal names every option or the argument at fault."""

import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from shared.errors import InvalidInput
from shared.tasks.composition import chain, group
from shared.tasks.payloads import PAYLOAD_BYTES
from tests.support import task_bodies as tasks
from tests.support.task_bodies import Point, nested
from tests.support.task_system import TaskSystem, own_task_system, refusal

NOW = datetime.now(UTC)
NAIVE = NOW.replace(tzinfo=None)
ELSEWHERE = ("nowhere", "", "Default", 5, b"default", "x" * 999)
NUMBER = "must be a number of seconds from 0 to 316224000"
LIMIT = "must be a number of seconds from 0.001 to 604800"
INSTANT = "must be an instant with a time zone, such as 2026-11-20T10:45:00Z"
ID = "must be 1 to 100 of the characters A-Z a-z 0-9 . _ ~ : -, and neither . nor .."
DEADLINE = "must not be a UUID, a dot and a number: such ids are for the deadlines of exams"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TaskSystem]:
    """Without a worker: what is sent stays where it can be counted."""
    with own_task_system(tmp_path_factory.mktemp("tasks")) as system:
        yield system


def said(call: Callable[[], object]) -> list[tuple[str, str]]:
    """Field and message of each complaint."""
    error = refusal(call)
    assert isinstance(error, InvalidInput)
    return [(each.field, each.message) for each in error.errors]


class Text(str):
    """Would arrive as what it is not."""

    __slots__ = ()


def short(value: object) -> str | None:
    """For the name of a case, the same in every process."""
    return ascii(value)[:40] if isinstance(value, str) else getattr(value, "name", type(value).__name__)


SECONDS = [-1, -0.001, math.nan, math.inf, -math.inf, 316224001, True, "5", timedelta(seconds=5), b"5", [5]]
INSTANTS = [NAIVE, "2026-11-20T10:45:00Z", NOW.date(), NOW.timestamp(), True]
BAD_OPTIONS: list[tuple[str, Any, str]] = [
    *[("countdown", value, NUMBER) for value in (*SECONDS, NOW)],
    *[("eta", value, INSTANT) for value in INSTANTS],
    ("eta", NOW + timedelta(days=3661), "must be at most 3660 days ahead"),
    ("eta", datetime.max.replace(tzinfo=timezone(timedelta(hours=-14))), "must be between the years 1 and 9999"),
    ("eta", datetime.min.replace(tzinfo=timezone(timedelta(hours=14))), "must be between the years 1 and 9999"),
    *[("expires", value, NUMBER) for value in SECONDS],
    ("expires", NAIVE, INSTANT),
    ("expires", datetime.max.replace(tzinfo=timezone(timedelta(hours=-14))), "must be between the years 1 and 9999"),
    *[
        ("queue", value, "must be one of default, slow")
        for value in ("nowhere", "", "Default", 5, b"default", "x" * 999)
    ],
    *[("priority", value, "must be a whole number from 0 to 9") for value in (-1, 10, 5.0, True, "5", math.nan)],
    *[("retries", value, "must be a whole number from 0 to 1000") for value in (-1, 1001, 1.0, True, "1", math.inf)],
    *[("soft_time_limit", value, LIMIT) for value in (0, -1, 604801, math.nan, True, "5", timedelta(seconds=5))],
    *[("time_limit", value, LIMIT) for value in (0, 0.0001, -1, 604801, math.inf, True, "5")],
    *[("task_id", value, ID) for value in ("", "a b", "ä", "a/b", "a\n", "x" * 101, "\ud800", 5, b"id", "a\0")],
    *[("task_id", value, ID) for value in (".", "..")],
    *[("task_id", f"01a1f89a-97b6-7c9e-8bff-51e5c4aec644.{number}", DEADLINE) for number in (0, 1, 256)],
]


@pytest.mark.parametrize(("option", "value", "what"), BAD_OPTIONS, ids=short)
def test_a_bad_option_is_named_and_nothing_is_sent(system: TaskSystem, option: str, value: Any, what: str) -> None:
    """With a sentence that says what is allowed."""
    assert said(lambda: tasks.add.apply_async((1,), **{option: value})) == [(option, what)]
    assert system.is_empty()


def test_every_bad_option_is_named_at_once(system: TaskSystem) -> None:
    """Whoever corrects them need not try nine times."""
    bad: dict[str, Any] = {
        "countdown": 1,
        "eta": NOW,
        "expires": -1,
        "queue": "nowhere",
        "priority": 10,
        "retries": -1,
        "soft_time_limit": 0,
        "time_limit": 0,
        "task_id": "",
    }
    assert {field for field, _ in said(lambda: tasks.add.apply_async((1,), **bad))} == set(bad) - {"countdown"}
    assert system.is_empty()


def test_names_of_arguments_are_text(system: TaskSystem) -> None:
    """Any other is no name of an argument."""
    (complaint,) = said(lambda: tasks.add.apply_async((1,), {2: 1}))  # type: ignore[dict-item]
    assert complaint == ("kwargs.2", "there is no such argument; there are: x, y")
    assert system.is_empty()


def test_countdown_and_eta_exclude_each_other(system: TaskSystem) -> None:
    """Even if they mean the same."""
    complaint = ("eta", "give countdown or eta, not both")
    assert said(lambda: tasks.add.apply_async((1,), countdown=0, eta=NOW)) == [complaint]
    assert system.is_empty()


@pytest.mark.parametrize(
    ("task", "limits"),
    [
        (tasks.add, {"soft_time_limit": 2, "time_limit": 2}),
        (tasks.add, {"soft_time_limit": 3, "time_limit": 2}),
        (tasks.clean_up, {"soft_time_limit": 20}),
        (tasks.clean_up, {"time_limit": 0.2}),
    ],
)
def test_a_soft_limit_must_be_shorter_than_the_hard_one(
    system: TaskSystem, task: Any, limits: dict[str, float]
) -> None:
    """Whichever of them the call gives, and the declaration."""
    args = (1,) if task is tasks.add else ("path",)
    ((field, message),) = said(lambda: task.apply_async(args, **limits))
    assert (field, message[:35]) == ("soft_time_limit", "must be shorter than the time_limit")
    assert system.is_empty()


BAD_ARGUMENTS: list[tuple[Any, tuple[Any, ...], dict[str, Any], str, str]] = [
    (tasks.add, (), {}, "kwargs.x", "this argument is required"),
    (tasks.add, (1, 2, 3), {}, "args", "are too many"),
    (tasks.add, (1,), {"x": 1}, "kwargs.x", "is given among the args already"),
    (tasks.add, (1,), {"z" * 999: 1}, f"kwargs.{'z' * 100}", "there is no such argument"),
    (tasks.add, (1,), {"z": 1}, "kwargs.z", "there is no such argument; there are: x, y"),
    (tasks.later, (NOW, Point(1, 2), "x"), {}, "args", "are too many"),
    (tasks.add, (True,), {}, "args[0]", "Expected `int`, got `bool`"),
    (tasks.add, ("1",), {}, "args[0]", "Expected `int`, got `str`"),
    (tasks.add, (1.5,), {}, "args[0]", "Expected `int`, got `float`"),
    (tasks.add, (None,), {}, "args[0]", "Expected `int`, got `null`"),
    (tasks.add, (1,), {"y": "2"}, "kwargs.y", "Expected `int`, got `str`"),
    (tasks.add, (2**64,), {}, "args[0]", "must fit into 64 bits"),
    (tasks.later, ("soon", Point(1, 2)), {}, "args[0]", "Invalid RFC3339"),
    (tasks.later, (NOW, {"x": 1}), {}, "args[1]", "missing required field `y`"),
    (tasks.later, (NOW, {"x": 1, "y": "2"}), {}, "args[1].y", "Expected `float`, got `str`"),
    (tasks.later, (NOW, Point(1, 2)), {"note": "x" * 11}, "kwargs.note", "length <= 10"),
    (tasks.echo, (math.nan,), {}, "args[0]", "a number must be finite"),
    (tasks.echo, ([1, {"a": -math.inf}],), {}, "args[0][1].a", "a number must be finite"),
    (tasks.echo, ("\ud800",), {}, "args[0]", "without lone surrogates"),
    (tasks.echo, ({"\udc00": 1},), {}, "args[0]", "without lone surrogates"),
    (tasks.echo, ({1: 2},), {}, "args[0]", "keys must be text, not int"),
    (tasks.echo, (nested(101),), {}, "args" + "[0]" * 100, "nested 100 deep"),
    (tasks.echo, (nested(100_000),), {}, "args[0]", "cannot be sent"),
    (tasks.echo, (2**64,), {}, "args[0]", "must fit into 64 bits"),
    (tasks.echo, (-(2**63) - 1,), {}, "args[0]", "must fit into 64 bits"),
    (tasks.echo, (Text("x"),), {}, "args[0]", "cannot be sent"),
    (tasks.echo, (object(),), {}, "args[0]", "cannot be sent"),
    (tasks.echo, (lambda: None,), {}, "args[0]", "cannot be sent"),
    (tasks.echo, (1 + 2j,), {}, "args[0]", "cannot be sent"),
    (tasks.length, ("x" * (PAYLOAD_BYTES + 1),), {}, "args", f"at most {PAYLOAD_BYTES} are sent"),
    (tasks.echo, (["\ud800", "x" * 100_000],), {}, "args[0][0]", "without lone surrogates"),
]


@pytest.mark.parametrize("args", ["x", b"x", {"x": 1}, {1}, 5, None, (each for each in [1])], ids=short)
def test_positional_arguments_come_as_a_list(system: TaskSystem, args: Any) -> None:
    """Above all not as the letters of a text."""
    assert said(lambda: tasks.echo.apply_async(args)) == [("args", "must be a list or a tuple")]
    assert system.is_empty()


@pytest.mark.parametrize("kwargs", ["xy", [("y", 1)], 5], ids=short)
def test_named_arguments_come_as_an_object(system: TaskSystem, kwargs: Any) -> None:
    """Names and values."""
    assert said(lambda: tasks.add.apply_async((1,), kwargs)) == [("kwargs", "must map names to values")]
    assert system.is_empty()


@pytest.mark.parametrize(("task", "args", "kwargs", "field", "what"), BAD_ARGUMENTS, ids=short)
@pytest.mark.parametrize("how", ["apply_async", "delay", "chain", "group"])
def test_a_bad_argument_is_named_and_nothing_is_sent(
    system: TaskSystem, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any], field: str, what: str, how: str
) -> None:
    """By itself, or among good ones that would be sent before it."""
    ways: dict[str, Callable[[], object]] = {
        "apply_async": lambda: task.apply_async(args, kwargs),
        "delay": lambda: task.delay(*args, **kwargs),
        "chain": lambda: chain(task.s(*args, **kwargs), tasks.echo.s()).delay(),
        "group": lambda: group(tasks.add.s(1), task.s(*args, **kwargs)).delay(),
    }
    complaints = said(ways[how])
    assert any(name == field and what in message for name, message in complaints), complaints
    assert system.is_empty()
    assert not list(system.folder.glob("store/payloads/*/*"))


def test_a_declared_task_is_no_function(system: TaskSystem) -> None:
    """Calling it says where its body is."""
    with pytest.raises(TypeError, match="add is declared here; its body is in worker/actors/: send it with delay"):
        tasks.add(1)
