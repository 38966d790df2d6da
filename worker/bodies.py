"""The bodies of tasks: where they are found, and that each fits its declaration."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any, NamedTuple, TypeVar, get_type_hints

import worker.actors
from shared.errors import DeclarationError
from shared.services import Services
from shared.tasks.catalog import CATALOG
from shared.tasks.task import Task

Function = TypeVar("Function", bound=Callable[..., Any])

_MARK = "__body_of__"
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Body(NamedTuple):
    """`make` gives the function that does the task, from the services of its process. `bind`: it takes `self` first."""

    task: Task[..., Any]
    make: Callable[[Services], Callable[..., Any]]
    bind: bool


def body_of(task: Task[..., Any], *, bind: bool = False) -> Callable[[Function], Function]:
    """The function is this task's body. With `bind` it is given a BoundTask first, as `self`.

    Raises DeclarationError where it does not take what the task is declared with.
    """

    def mark(function: Function) -> Function:
        check(task, function, bind=bind)
        setattr(function, _MARK, Body(task, lambda _services: function, bind))
        return function

    return mark


def made_for(task: Task[..., Any], *, bind: bool = False) -> Callable[[Function], Function]:
    """The function makes this task's body from Services: one that needs the store, the mail server or a clock.

    The body is checked as by `body_of` when it is made: as a worker boots that has the task at home, elsewhere when one
    is first to run.
    """

    def make(factory: Callable[[Services], Callable[..., Any]], services: Services) -> Callable[..., Any]:
        function = factory(services)
        check(task, function, bind=bind)
        return function

    def mark(factory: Function) -> Function:
        setattr(factory, _MARK, Body(task, lambda services: make(factory, services), bind))
        return factory

    return mark


def bodies_of_catalog() -> Mapping[str, Body]:
    """From the modules of worker/actors/. Raises DeclarationError as `bodies_in`."""
    found = pkgutil.iter_modules(worker.actors.__path__, f"{worker.actors.__name__}.")
    return bodies_in([importlib.import_module(module.name) for module in found], CATALOG.values())


def bodies_in(modules: Iterable[ModuleType], tasks: Iterable[Task[..., Any]]) -> Mapping[str, Body]:
    """The body of each task, by its name.

    Raises DeclarationError for a task that has none or two, and for a body without a task.
    """
    marked = [
        getattr(value, _MARK)
        for module in modules
        for value in vars(module).values()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and hasattr(value, _MARK)
    ]
    found: dict[str, Body] = {}
    for body in marked:
        if body.task.name in found:
            raise DeclarationError(f"the task {body.task.name} has two bodies")
        found[body.task.name] = body
    declared = {task.name: task for task in tasks}
    if missing := [name for name in declared if name not in found]:
        raise DeclarationError(f"the task {missing[0]} has no body")
    if strangers := [name for name, body in found.items() if declared.get(name) is not body.task]:
        raise DeclarationError(f"there is a body of {strangers[0]}, which is not in the catalog")
    return found


def check(task: Task[..., Any], function: Callable[..., Any], *, bind: bool) -> None:
    """Raises DeclarationError unless the function takes and returns what the task is declared with."""
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise DeclarationError(
            f"the body of {task.name} is a coroutine, which nobody would await; asyncio.run is yours"
        )
    if inspect.isgeneratorfunction(function):
        raise DeclarationError(f"the body of {task.name} is a generator, which nobody would run: it must return")
    parameters = list(inspect.signature(function).parameters.values())
    types = get_type_hints(function)  # a body need not repeat the limits that are declared with a type
    if bind:
        if not parameters or parameters[0].kind not in _POSITIONAL:
            raise DeclarationError(f"the body of {task.name} does not take self, which it is given first")
        types.pop(parameters.pop(0).name, None)
    if task.together > 1:  # it is given the list of what each was sent with
        if bind or len(parameters) != 1:
            raise DeclarationError(f"the body of {task.name} must take one argument, a list, and no self")
        return
    given = [(each.name, each.kind, each.default) for each in parameters]
    declared = [(each.name, each.kind, each.default) for each in task.arguments.signature.parameters.values()]
    if given != declared or types != task.arguments.types:
        is_, should_be = inspect.signature(function), task.arguments.signature
        raise DeclarationError(f"the body of {task.name} is {is_} and is declared as {should_be}")
