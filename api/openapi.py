"""The API's document (OpenAPI 3.1), made from what the calls declare and from the types that read and answer them."""

import inspect
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import falcon
import msgspec

from api.bodies import HTTPRequestTimeout, Query, without_null
from api.operations import Answer, Operation, operations_of, path_parameters
from api.problems import CONTENT_TYPE, kind_of
from shared.errors import InvalidInput, NotAuthenticated, NotAuthorised, StoreUnavailable, Unavailable

ABOUT = """Timed exams that end exactly when they should, and background tasks beside them.

Send an API key as `Authorization: Bearer <key>`; each call names the scope that the key needs, and `admin` has all.
Errors are problem details (RFC 9457). An unknown address is answered 404, a method that an address does not take 405
with an `Allow` header, any call 503 while there are too many connections, all of them problems. A body where none is
documented is refused. No field of an answer is left out: it is null where there is nothing.
"""
TAGS = {
    "exams": "One candidate's timed sitting: exactly one outcome, at the latest at its deadline.",
    "messages": "Answered at once, printed by a worker later.",
    "tasks": "Units of background work: sent, waited for, listed, revoked, done again; and what runs them.",
    "health": "For orchestrators and load balancers.",
    "docs": "This document.",
}

HEADERS: dict[str, dict[str, Any]] = {
    "Cache-Control": {"description": "How long it may be kept.", "required": True, "schema": {"type": "string"}},
    "ETag": {"description": "Changes with the content.", "required": True, "schema": {"type": "string"}},
    "Idempotent-Replayed": {
        "description": "Another request with this Idempotency-Key had done it already.",
        "required": False,
        "schema": {"const": "true"},
    },
    "Location": {
        "description": "Where what was made can be read.",
        "required": True,
        "schema": {"type": "string", "format": "uri-reference"},
    },
    "Retry-After": {
        "description": "Seconds after which to try again.",
        "required": True,
        "schema": {"type": "integer", "minimum": 0},
    },
    "WWW-Authenticate": {"description": "How to authenticate.", "required": True, "schema": {"const": "Bearer"}},
    "X-Request-Id": {
        "description": "The id under which the logs have this request: the client's own where it sent a usable one.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
    },
}
_HEADERS_OF: dict[type[Exception], tuple[str, ...]] = {
    NotAuthenticated: ("WWW-Authenticate",),
    Unavailable: ("Retry-After",),
}
_IN_BRACES = re.compile(r"{(\w+)}")
_WORDS = re.compile(r"\w+")
_PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def document(routes: Mapping[str, object]) -> dict[str, Any]:
    """Of every resource by its path. Raises AttributeError for a responder that declares no operation."""
    schemas = _Schemas()
    paths = {
        path: {
            method.lower(): _operation(path, method, operation, path_parameters(resource, method), schemas)
            for method, operation in operations_of(resource).items()
        }
        for path, resource in routes.items()
    }
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "Invigil",
            "version": tomllib.loads(_PYPROJECT.read_text())["project"]["version"],
            "description": ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": description} for name, description in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "headers": HEADERS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key."}},
        },
    }


class _Schemas:
    """Schemas of types; those with a name go into `components`."""

    def __init__(self) -> None:
        self.components: dict[str, Any] = {}

    def of(self, type_: Any) -> dict[str, Any]:
        (schema,), named = msgspec.json.schema_components([type_], ref_template="#/components/schemas/{name}")
        for name, component in named.items():
            if self.components.setdefault(name, component) != component:
                raise ValueError(f"two types of the API are called {name}")
        return schema


def _operation(
    path: str, method: str, operation: Operation, in_path: Mapping[str, Any], schemas: _Schemas
) -> dict[str, Any]:
    if set(in_path) != set(_IN_BRACES.findall(path)):
        raise ValueError(f"{method} {path} takes other parameters: {', '.join(in_path)}")
    described: dict[str, Any] = {
        "operationId": "_".join([method.lower(), *_WORDS.findall(path.removeprefix("/v1"))]),
        "summary": operation.summary,
        "tags": [operation.tag],
        "security": [] if operation.scope is None else [{"key": [operation.scope]}],
        "parameters": [
            *(_parameter("path", name, schemas.of(type_), is_required=True) for name, type_ in in_path.items()),
            *(_parameter("header", name, schemas.of(type_)) for name, type_ in operation.headers.items()),
            *(_query_parameter(field, schemas) for field in _fields(operation.query)),
        ],
        "responses": _responses(operation, schemas),
    }
    if operation.scope is not None:
        described["description"] = f"Needs a key with the scope `{operation.scope}`."
    if operation.body is not None:
        described["requestBody"] = {
            "required": operation.body.empty is None,
            "content": {"application/json": {"schema": schemas.of(operation.body.of)}},
        }
    return described


def _fields(query: Query[Any] | None) -> tuple[msgspec.structs.FieldInfo, ...]:
    return () if query is None else msgspec.structs.fields(query.of)


def _query_parameter(field: msgspec.structs.FieldInfo, schemas: _Schemas) -> dict[str, Any]:
    schema = without_null(schemas.of(field.type))
    if field.default not in (None, msgspec.NODEFAULT):
        schema |= {"default": field.default}
    return _parameter("query", field.encode_name, schema, is_required=field.required)


def _parameter(where: str, name: str, schema: dict[str, Any], *, is_required: bool = False) -> dict[str, Any]:
    description = str(schema.get("description", ""))
    return {"name": name, "in": where, "required": is_required, "description": description, "schema": schema}


def _responses(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    responses = {str(status): _answered(answer, schemas) for status, answer in operation.answers.items()}
    refusals: dict[int, list[type[Exception]]] = {}
    for error in dict.fromkeys((*_expected(operation), *operation.errors)):
        refusals.setdefault(kind_of(error).status, []).append(error)
    for status, errors in sorted(refusals.items()):
        refused = _refused(errors, schemas)
        responses.setdefault(str(status), refused)["content"] |= refused["content"]
    return responses


def _answered(answer: Answer, schemas: _Schemas) -> dict[str, Any]:
    described = {"description": answer.description, "headers": _headers("X-Request-Id", *answer.headers)}
    if answer.media_type is not None:
        schema = {"type": "string"} if answer.body is None else schemas.of(answer.body)
        described["content"] = {answer.media_type: {"schema": schema}}
    return described


def _expected(operation: Operation) -> Iterator[type[Exception]]:
    """What any call of its kind may be answered."""
    if operation.scope is not None:
        yield from (NotAuthenticated, NotAuthorised, StoreUnavailable)  # the keys are in a file
        yield from (falcon.HTTPBadRequest, InvalidInput)  # its query string, also where it takes none
        yield Unavailable
    if operation.body is not None:
        yield from (HTTPRequestTimeout, falcon.HTTPContentTooLarge, falcon.HTTPUnsupportedMediaType)


def _refused(errors: Sequence[type[Exception]], schemas: _Schemas) -> dict[str, Any]:
    kinds = {kind_of(error): error for error in errors}
    bodies = [schemas.of(body) for body in dict.fromkeys(kind.body for kind in kinds)]
    headers = [name for error, names in _HEADERS_OF.items() if issubclass(errors[0], error) for name in names]
    return {
        "description": "; ".join(
            f"`{kind.slug}`" if issubclass(error, falcon.HTTPError) else f"`{kind.slug}`: {inspect.getdoc(error)}"
            for kind, error in kinds.items()
        ),
        "headers": _headers("X-Request-Id", *headers),
        "content": {CONTENT_TYPE: {"schema": bodies[0] if len(bodies) == 1 else {"anyOf": bodies}}},
    }


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
