"""What a call is: declared on the method that answers it, read by the check of keys and by the API's document."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar, get_type_hints

import falcon

from api.bodies import JsonBody, Query
from api.keys import Scope

Responder = TypeVar("Responder", bound=Callable[..., Any])


class Answer(NamedTuple):
    """`body` is the msgspec type of its JSON, None where it is of another `media_type` or empty. `headers`: its own."""

    description: str
    body: Any = None
    headers: tuple[str, ...] = ()
    media_type: str | None = "application/json"


@dataclass(frozen=True)
class Operation:
    """Decorates a responder. `scope` is what a key needs, None where no key is needed; `errors` are special to it.

    The parameters in the path are those that the responder takes by name, of the types that it says.
    """

    summary: str
    tag: str
    scope: Scope | None
    answers: Mapping[int, Answer]
    query: Query[Any] | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)  # of the request: name and type; none is required
    body: JsonBody[Any] | None = None
    errors: tuple[type[Exception], ...] = ()

    def __call__(self, responder: Responder) -> Responder:
        responder.operation = self  # type: ignore[attr-defined]
        return responder


def operation_of(resource: object, method: str) -> Operation | None:
    """What `resource` declares for an HTTP method; None where it does not answer that method."""
    responder = getattr(resource, f"on_{method.lower()}", None)
    return None if responder is None else responder.operation


def operations_of(resource: object) -> dict[str, Operation]:
    """By HTTP method. Raises AttributeError for a responder that declares nothing."""
    declared = {method: operation_of(resource, method) for method in falcon.HTTP_METHODS}
    return {method: found for method, found in declared.items() if found is not None}


def path_parameters(resource: object, method: str) -> dict[str, Any]:
    """Names and types of what the responder takes beside the request and the response."""
    hints = get_type_hints(getattr(resource, f"on_{method.lower()}"), include_extras=True)
    return {name: type_ for name, type_ in hints.items() if name.lstrip("_") not in ("req", "resp", "return")}
