"""That each task has one body, which takes and returns what is declared: else the worker does not start."""

from collections.abc import Callable
from datetime import datetime
from types import ModuleType
from typing import Annotated, Any

import pytest
from msgspec import Meta

from shared.errors import DeclarationError
from shared.services import Services
from shared.tasks.task import task
from worker.bodies import Body, bodies_in, body_of, check, made_for
from worker.bound_task import BoundTask


@task()
def copy(source: str, at: datetime, *, times: Annotated[int, Meta(ge=1)] = 1) -> None:
    """With all that a declaration may have."""


@task()
def rest() -> None:
    """Without arguments."""


@task(together=10)
def gather(pk: str) -> None:
    """Taken together with others."""


def a_module(**values: object) -> ModuleType:
    """One in which these were written."""
    module = ModuleType("actors_of_a_test")
    for name, value in values.items():
        if callable(value):
            value.__module__ = module.__name__
        setattr(module, name, value)
    return module


def copies() -> Callable[..., None]:
    @body_of(copy)
    def body(source: str, at: datetime, *, times: int = 1) -> None: ...

    return body


def rests() -> Callable[..., None]:
    @body_of(rest)
    def body() -> None: ...

    return body


def test_bodies_are_found_by_their_tasks() -> None:
    """In whichever module, whatever their names; what is no body, or was imported, is passed over."""
    other = rests()
    found = bodies_in([a_module(one=copies(), number=5, a=a_module), a_module(_two=other)], [copy, rest])
    assert {name: body.task for name, body in found.items()} == {"copy": copy, "rest": rest}
    imported = a_module(one=copies(), two=rests())
    imported.check = check  # type: ignore[attr-defined]
    imported.other = other  # type: ignore[attr-defined]
    other.__module__ = "elsewhere"
    assert set(bodies_in([imported], [copy, rest])) == {"copy", "rest"}


def test_a_task_without_a_body_stops_the_boot() -> None:
    with pytest.raises(DeclarationError, match="the task rest has no body"):
        bodies_in([a_module(one=copies())], [copy, rest])


def test_a_task_with_two_bodies_stops_the_boot() -> None:
    """Also where they are in two modules."""
    with pytest.raises(DeclarationError, match="the task copy has two bodies"):
        bodies_in([a_module(one=copies(), two=copies())], [copy])
    with pytest.raises(DeclarationError, match="the task copy has two bodies"):
        bodies_in([a_module(one=copies()), a_module(one=copies())], [copy])


def test_a_body_without_a_declaration_stops_the_boot() -> None:
    """Or of another task of the same name."""
    with pytest.raises(DeclarationError, match="there is a body of rest, which is not in the catalog"):
        bodies_in([a_module(one=copies(), two=rests())], [copy])

    @task()
    def rest() -> None:
        """Another."""

    with pytest.raises(DeclarationError, match="there is a body of rest, which is not in the catalog"):
        bodies_in([a_module(two=rests())], [rest])


def another_name(origin: str, at: datetime, *, times: int = 1) -> None: ...


def another_order(at: datetime, source: str, *, times: int = 1) -> None: ...


def another_default(source: str, at: datetime, *, times: int = 2) -> None: ...


def no_default(source: str, at: datetime, *, times: int) -> None: ...


def one_default_more(source: str, at: datetime = datetime.min, *, times: int = 1) -> None: ...  # noqa: DTZ901


def another_type(source: bytes, at: datetime, *, times: int = 1) -> None: ...


def a_wider_type(source: str, at: datetime | None, *, times: int = 1) -> None: ...


def no_type(source, at: datetime, *, times: int = 1) -> None: ...  # type: ignore[no-untyped-def]


def another_kind(source: str, at: datetime, times: int = 1) -> None: ...


def one_less(source: str, at: datetime) -> None: ...


def one_more(source: str, at: datetime, *, times: int = 1, note: str = "") -> None: ...


def any_number(*args: Any, **kwargs: Any) -> None: ...


def another_result(source: str, at: datetime, *, times: int = 1) -> int: ...  # type: ignore[empty-body]


def no_result(source: str, at: datetime, *, times: int = 1): ...  # type: ignore[no-untyped-def]


def bound_though_not_declared_so(self: BoundTask, source: str, at: datetime, *, times: int = 1) -> None: ...


OTHERS = [
    *(another_name, another_order, another_default, no_default, one_default_more, another_type, a_wider_type, no_type),
    *(another_kind, one_less, one_more, any_number, another_result, no_result, bound_though_not_declared_so),
]


@pytest.mark.parametrize("body", OTHERS)
def test_a_body_that_differs_from_its_declaration_stops_the_boot(body: Callable[..., Any]) -> None:
    """The error shows both."""
    with pytest.raises(
        DeclarationError, match=r"^the body of copy is \(.*\) -?>? ?.*and is declared as \(source: str"
    ) as caught:
        body_of(copy)(body)
    assert "times: " in str(caught.value)


@pytest.mark.parametrize("body", OTHERS)
def test_a_body_that_is_made_is_looked_at_when_it_has_been_made(body: Callable[..., Any]) -> None:
    """Which is at the boot of each worker of its queue."""

    @made_for(copy)
    def make(_services: Services) -> Callable[..., Any]:
        return body

    found = bodies_in([a_module(make=make)], [copy])
    with pytest.raises(DeclarationError, match="the body of copy is"):
        found["copy"].make(None)  # type: ignore[arg-type]


def test_a_body_that_is_a_coroutine_stops_the_boot() -> None:
    """It would be made and never run."""

    async def body() -> None: ...

    with pytest.raises(DeclarationError, match="the body of rest is a coroutine"):
        body_of(rest)(body)


def test_a_body_that_is_a_generator_stops_the_boot() -> None:
    """Nobody would run it."""

    def body() -> None:  # type: ignore[misc]
        yield

    async def awaited() -> None:  # type: ignore[misc]
        yield

    with pytest.raises(DeclarationError, match="the body of rest is a generator"):
        body_of(rest)(body)
    with pytest.raises(DeclarationError, match="the body of rest is a coroutine"):
        body_of(rest)(awaited)


def test_a_body_need_not_repeat_the_limits_of_a_type() -> None:
    def same(source: str, at: datetime, *, times: int = 1) -> None: ...

    def exactly_the_same(source: str, at: datetime, *, times: Annotated[int, Meta(ge=1)] = 1) -> None: ...

    for body in (same, exactly_the_same):
        assert body_of(copy)(body) is body


def bound(self: BoundTask, source: str, at: datetime, *, times: int = 1) -> None: ...


def bound_without_a_type(self, source: str, at: datetime, *, times: int = 1) -> None: ...  # type: ignore[no-untyped-def]


@pytest.mark.parametrize("body", [bound, bound_without_a_type])
def test_a_bound_body_takes_self_first(body: Callable[..., Any]) -> None:
    check(copy, body, bind=True)
    with pytest.raises(DeclarationError, match="the body of copy is"):
        check(copy, body, bind=False)


def only_by_name(*, self: BoundTask) -> None: ...


def any_of_them(*args: BoundTask) -> None: ...


def nothing_at_all() -> None: ...


@pytest.mark.parametrize("body", [only_by_name, any_of_them, nothing_at_all])
def test_a_bound_body_without_self_stops_the_boot(body: Callable[..., Any]) -> None:
    with pytest.raises(DeclarationError, match="the body of rest does not take self, which it is given first"):
        check(rest, body, bind=True)


def test_a_bound_body_whose_self_is_an_argument_stops_the_boot() -> None:
    def body(source: str, at: datetime, *, times: int = 1) -> None: ...

    with pytest.raises(DeclarationError, match="the body of copy is"):
        check(copy, body, bind=True)


def test_a_body_that_takes_several_together_takes_a_list() -> None:
    def body(pks: list[str]) -> None: ...

    def two(pks: list[str], more: str) -> None: ...

    def with_self(self: BoundTask, pks: list[str]) -> None: ...

    check(gather, body, bind=False)
    for function, bind in ((two, False), (nothing_at_all, False), (with_self, True)):
        with pytest.raises(DeclarationError, match="the body of gather must take one argument, a list, and no self"):
            check(gather, function, bind=bind)


def test_a_body_is_made_from_the_services_of_its_process() -> None:
    given: list[object] = []

    def body() -> None: ...

    @made_for(rest)
    def make(services: Services) -> Callable[[], None]:
        given.append(services)
        return body

    (found,) = bodies_in([a_module(make=make)], [rest]).values()
    assert (found.make("the services"), given) == (body, ["the services"])  # type: ignore[arg-type]
    assert isinstance(found, Body)
    assert not found.bind
