"""The arguments of tasks: what is refused before it is sent and how it is named, and what arrives."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import msgspec
import pytest
from msgspec import Meta

from shared.errors import InvalidInput
from shared.tasks.arguments import Arguments
from tests.support.clock import NOON


class Point(msgspec.Struct):
    x: float
    y: float = 0.0


class Line(msgspec.Struct):
    points: list[Point]


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class OfCallers:
    """Nothing that JSON knows."""


def plain(number: int, text: str, flag: bool = False, *, ratio: float = 0.5, some: list[int] | None = None) -> None: ...


def limited(
    name: Annotated[str, Meta(min_length=1, max_length=5, pattern="^[a-z]*$")],
    count: Annotated[int, Meta(ge=0, lt=10)] = 0,
    items: Annotated[list[int], Meta(max_length=2)] | None = None,
) -> None: ...


def rich(
    at: datetime,
    point: Point,
    *,
    line: Line | None = None,
    colour: Colour = Colour.RED,
    counts: Mapping[str, int] | None = None,
    by_number: dict[int, str] | None = None,
    pair: tuple[int, str] | None = None,
    mode: Literal["fast", "slow"] = "fast",
) -> None: ...


def nothing() -> None: ...


def anything(value: Any) -> None: ...


class Bad(NamedTuple):
    """A call that is refused, and each field that is named with a part of what is said of it."""

    declaration: Any
    args: Any
    kwargs: Any
    said: dict[str, str]


POINT = {"x": 1}
ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)
BAD = {
    "a wrong type": Bad(plain, ["1", "a"], {}, {"args[0]": "Expected `int`, got `str`"}),
    "a wrong type by name": Bad(plain, [1], {"text": 2}, {"kwargs.text": "Expected `str`, got `int`"}),
    "null": Bad(plain, [None, "a"], {}, {"args[0]": "Expected `int`, got `null`"}),
    "a flag for a number": Bad(plain, [True, "a"], {}, {"args[0]": "got `bool`"}),
    "a fraction for a whole number": Bad(plain, [1.5, "a"], {}, {"args[0]": "got `float`"}),
    "a number as text": Bad(plain, [1, "a"], {"ratio": "0.5"}, {"kwargs.ratio": "got `str`"}),
    "an item": Bad(plain, [1, "a"], {"some": [1, "2"]}, {"kwargs.some[1]": "Expected `int`, got `str`"}),
    "too many": Bad(plain, [1, "a", True, 0.5], {}, {"args": "the arguments are: number, text, flag, ratio, some"}),
    "too many of none": Bad(nothing, [1], {}, {"args": "the arguments are: none"}),
    "too few": Bad(plain, [], {"flag": True}, {"kwargs.number": "is required", "kwargs.text": "is required"}),
    "no such name": Bad(plain, [1, "a"], {"zeal": 1}, {"kwargs.zeal": "there is no such argument"}),
    "a name that is too long to repeat": Bad(plain, [1, "a"], {"z" * 500: 1}, {f"kwargs.{'z' * 100}": "no such"}),
    "a name that is no text": Bad(plain, [1, "a"], {5: 1}, {"kwargs.5": "there is no such argument"}),
    "given twice": Bad(plain, [1, "a"], {"number": 1}, {"kwargs.number": "among the args already"}),
    "all at once": Bad(
        plain,
        [1, "a", True, 0.5],
        {"number": 1, "zeal": 1},
        {"args": "too many", "kwargs.number": "already", "kwargs.zeal": "no such"},
    ),
    "args that are text": Bad(plain, "ab", {}, {"args": "a list or a tuple"}),
    "args that are a number": Bad(plain, 5, {}, {"args": "a list or a tuple"}),
    "args that are named": Bad(plain, {"number": 1, "text": "a"}, {}, {"args": "a list or a tuple"}),
    "kwargs that are a list": Bad(plain, [1, "a"], ["flag"], {"kwargs": "map names to values"}),
    "too short": Bad(limited, [""], {}, {"args[0]": "length >= 1"}),
    "too long": Bad(limited, ["abcdef"], {}, {"args[0]": "length <= 5"}),
    "another pattern": Bad(limited, ["ABC"], {}, {"args[0]": "matching regex"}),
    "too little": Bad(limited, ["a", -1], {}, {"args[1]": ">= 0"}),
    "too much": Bad(limited, ["a"], {"count": 10}, {"kwargs.count": "<= 9"}),
    "too many items": Bad(limited, ["a"], {"items": [1, 2, 3]}, {"kwargs.items": "length <= 2"}),
    "no instant": Bad(rich, ["noon", POINT], {}, {"args[0]": "Invalid RFC3339 encoded datetime"}),
    "an instant as a number": Bad(rich, [0, POINT], {}, {"args[0]": "Expected `datetime`, got `int`"}),
    "no object": Bad(rich, [NOON, 5], {}, {"args[1]": "Expected `object`, got `int`"}),
    "a field that is missing": Bad(rich, [NOON, {"y": 1}], {}, {"args[1]": "missing required field `x`"}),
    "a field of a wrong type": Bad(rich, [NOON, {"x": "1"}], {}, {"args[1].x": "Expected `float`, got `str`"}),
    "a field far inside": Bad(
        rich, [NOON, POINT], {"line": {"points": [{"x": 1}, {"x": None}]}}, {"kwargs.line.points[1].x": "got `null`"}
    ),
    "no such colour": Bad(rich, [NOON, POINT], {"colour": "green"}, {"kwargs.colour": "Invalid enum value 'green'"}),
    "no such mode": Bad(rich, [NOON, POINT], {"mode": "idle"}, {"kwargs.mode": "Invalid enum value 'idle'"}),
    "a value of a mapping": Bad(rich, [NOON, POINT], {"counts": {"a": "1"}}, {"kwargs.counts[]": "Expected `int`"}),
    "a key of a mapping": Bad(rich, [NOON, POINT], {"counts": {1: 1}}, {"kwargs.counts": "Expected `str`, got `int`"}),
    "a pair of one": Bad(rich, [NOON, POINT], {"pair": [1]}, {"kwargs.pair": "of length 2, got 1"}),
    "a pair the wrong way round": Bad(rich, [NOON, POINT], {"pair": ["a", 1]}, {"kwargs.pair[0]": "Expected `int`"}),
    "what JSON has not": Bad(anything, [OfCallers()], {}, {"args[0]": "cannot be sent"}),
    "what JSON has not, inside": Bad(anything, [], {"value": [{"a": OfCallers()}]}, {"kwargs.value": "cannot be sent"}),
    "a value that holds itself": Bad(anything, [ENDLESS], {}, {"args[0]": "cannot be sent"}),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_call_that_does_not_fit_is_refused_and_each_mistake_named(bad: Bad) -> None:
    with pytest.raises(InvalidInput) as caught:
        Arguments(bad.declaration).check(bad.args, bad.kwargs)
    told = {error.field: error.message for error in caught.value.errors}
    assert told.keys() == bad.said.keys()
    for field, part in bad.said.items():
        assert part in told[field]


GOOD: dict[str, tuple[Any, Sequence[Any], dict[str, Any], list[Any], dict[str, Any]]] = {
    "as declared": (plain, [1, "a", True], {"ratio": 2.5, "some": [1]}, [1, "a", True], {"ratio": 2.5, "some": [1]}),
    "by name": (plain, [], {"text": "a", "number": 1}, [], {"number": 1, "text": "a"}),
    "defaults are the body's to give": (plain, (1, "a"), {}, [1, "a"], {}),
    "null where it is allowed": (plain, [1, "a"], {"some": None}, [1, "a"], {"some": None}),
    "a whole number for a fraction": (plain, [1, "a"], {"ratio": 2}, [1, "a"], {"ratio": 2.0}),
    "no arguments": (nothing, [], {}, [], {}),
    "just within limits": (limited, ["abcde", 9], {"items": [1, 2]}, ["abcde", 9], {"items": [1, 2]}),
    "types of ours": (rich, [NOON, Point(1, 2)], {"colour": Colour.BLUE}, [NOON, Point(1, 2)], {"colour": Colour.BLUE}),
    "as a caller over REST writes them": (
        rich,
        ["2026-11-20T13:00:00+01:00", {"x": 1}],
        {"colour": "blue", "mode": "slow", "counts": {"a": 1}, "pair": [1, "a"], "line": {"points": [{"x": 1}]}},
        [NOON, Point(1)],
        {"colour": Colour.BLUE, "mode": "slow", "counts": {"a": 1}, "pair": (1, "a"), "line": Line([Point(1)])},
    ),
    "one inside the other": (
        rich,
        [NOON, Point(1)],
        {"line": Line([Point(1)])},
        [NOON, Point(1)],
        {"line": Line([Point(1)])},
    ),
    "as plain as JSON where nothing is declared": (
        anything,
        [[date(2026, 11, 20), timedelta(seconds=90), Decimal("1.50"), UUID(int=1), {1}, (2,), Point(1), b"a"]],
        {},
        [["2026-11-20", "PT90S", "1.50", "00000000-0000-0000-0000-000000000001", [1], [2], {"x": 1, "y": 0.0}, "YQ=="]],
        {},
    ),
}


@pytest.mark.parametrize(("declaration", "args", "kwargs", "read_args", "read_kwargs"), GOOD.values(), ids=GOOD.keys())
def test_the_body_is_given_what_was_declared(
    declaration: Any, args: Sequence[Any], kwargs: dict[str, Any], read_args: list[Any], read_kwargs: dict[str, Any]
) -> None:
    """After the arguments have travelled as what JSON knows; also if they come back from there as lists."""
    arguments = Arguments(declaration)
    sent_args, sent_kwargs = arguments.check(args, kwargs)
    travelled_args, travelled_kwargs = msgspec.json.decode(msgspec.json.encode((sent_args, sent_kwargs)))
    assert arguments.read(travelled_args, travelled_kwargs) == (read_args, read_kwargs)


def test_an_instant_arrives_in_its_own_time_zone() -> None:
    at = datetime.fromisoformat("2026-11-20T13:00:00+01:00")
    arguments = Arguments(rich)
    (read, _), _ = arguments.read(*arguments.check([at, Point(1)], {}))
    assert (read, read.utcoffset()) == (at.astimezone(UTC), at.utcoffset())


def test_what_has_been_sent_is_checked_again_when_it_is_read() -> None:
    """It may have been sent by an older program, for another declaration."""
    with pytest.raises(InvalidInput, match=r"args\[0\]"):
        Arguments(plain).read(["x", "a"], {})
    with pytest.raises(InvalidInput, match=r"kwargs\.gone"):
        Arguments(plain).read([1, "a"], {"gone": 1})


def step(before: int, factor: float, *, note: str = "") -> None: ...


def test_a_task_of_a_chain_lacks_one_argument_until_the_one_before_has_ended() -> None:
    """Its last positional one."""
    arguments = Arguments(step)
    assert arguments.check([], {"factor": 2.0}, is_partial=True) == ((), {"factor": 2.0})
    assert arguments.check([1], {"note": "x"}, is_partial=True) == ((1,), {"note": "x"})


PARTIAL: dict[str, tuple[list[Any], dict[str, Any], str, str]] = {
    "another is missing too": ([], {}, "kwargs.factor", "is required"),
    "no place is left": ([1, 2.0], {}, "args", "are too many"),
    "its place is taken by name": ([], {"before": 1, "factor": 2.0}, "kwargs.before", "already"),
    "another has a wrong type": (["x"], {}, "args[0]", "Expected `int`, got `str`"),
    "another by name has a wrong type": ([], {"factor": "x"}, "kwargs.factor", "Expected `float`, got `str`"),
}


@pytest.mark.parametrize(("args", "kwargs", "field", "said"), PARTIAL.values(), ids=PARTIAL.keys())
def test_a_task_of_a_chain_that_cannot_run_is_refused_before_anything_is_sent(
    args: list[Any], kwargs: dict[str, Any], field: str, said: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        Arguments(step).check(args, kwargs, is_partial=True)
    (told,) = caught.value.errors
    assert told.field == field
    assert said in told.message


def of_any_number(*numbers: int) -> None: ...


def of_any_name(**names: int) -> None: ...


def by_place_only(number: int, /) -> None: ...


def without_a_type(number) -> None: ...  # type: ignore[no-untyped-def]


def of_either(value: Point | Line) -> None: ...


@pytest.mark.parametrize("declaration", [of_any_number, of_any_name, by_place_only, without_a_type, of_either])
def test_a_declaration_that_cannot_be_checked_is_refused_where_it_is_made(declaration: Any) -> None:
    """Not when the first task is sent."""
    with pytest.raises(TypeError):
        Arguments(declaration)
