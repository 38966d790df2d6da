"""Request bodies and query strings, strictly: what is not allowed is refused by name, nothing is coerced."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, TypeVar
from urllib.parse import unquote

import falcon
import msgspec
from falcon.asgi import App, Request, Response

from shared.errors import FieldError, InvalidInput

LIMIT = 64 * 1024
ARRIVE_WITHIN_S = 20  # 64 KiB take a second on a bad line
DRAIN = 1024 * 1024  # read and dropped after a refusal, so that the client gets to see the answer

T = TypeVar("T", bound=msgspec.Struct)

_AT = re.compile(r".* - at `\$\.(\w+).*`", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)


_RECEIVE = "invigil.receive"

NO_OBJECT = FieldError("body", "must be a JSON object")


class HTTPRequestTimeout(falcon.HTTPError):
    """The one error of HTTP that is needed here and that Falcon has no class for."""

    def __init__(self, description: str | None = None) -> None:
        super().__init__(408, description=description)


class WholeRequests(App[Request, Response]):
    """Falcon takes a body that breaks off for a whole one; here it is a 400 that nobody reads, and nothing is done."""

    async def __call__(  # type: ignore[override]  # so does Falcon's own: its base class speaks WSGI
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[Mapping[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        is_more_due = False

        async def receive_whole() -> Mapping[str, Any]:
            nonlocal is_more_due
            event = await receive()
            if is_more_due and event["type"] == "http.disconnect":
                raise falcon.HTTPBadRequest(description="the body broke off")
            is_more_due = event.get("more_body", False)
            return event

        scope[_RECEIVE] = receive_whole
        await super().__call__(scope, receive_whole, send)


async def client_gone(req: Request) -> None:
    """Returns when the client of a request that has been read has gone away, or has been answered."""
    receive: Callable[[], Awaitable[Mapping[str, Any]]] = req.scope[_RECEIVE]
    while (await receive())["type"] != "http.disconnect":
        pass


class Fields(Generic[T]):
    """The fields of the msgspec Struct `of`, looked at one by one, so that all bad ones are named at once.

    Each field's `description` completes "must be".
    """

    def __init__(self, of: type[T], called: str = "field") -> None:
        self._called = called
        self._fields = {field.encode_name: field for field in msgspec.structs.fields(of)}
        properties = msgspec.json.schema(of)["$defs"][of.__name__]["properties"]
        self.schemas = {name: without_null(schema) for name, schema in properties.items()}
        self._allowed = {name: schema["description"] for name, schema in self.schemas.items()}
        if called == "field":  # a parameter that is left out is null; none is written so
            self._allowed |= {
                name: f"{self._allowed[name]}, or null"
                for name, schema in properties.items()
                if schema is not self.schemas[name]
            }

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._fields)

    def errors(self, given: Mapping[str, object]) -> list[FieldError]:
        """What is wrong with each."""
        errors = [self.unknown(name) for name in given if name not in self._fields]
        for name, field in self._fields.items():
            if name in given:
                try:
                    msgspec.convert(given[name], field.type)
                except msgspec.ValidationError:
                    errors.append(self.bad(name))
            elif field.required:
                errors.append(self.missing(name))
        return errors

    def unknown(self, name: str) -> FieldError:
        allowed = ", ".join(self._fields) or "none"
        return FieldError(name[:100], f"there is no such {self._called}; allowed are: {allowed}")

    def missing(self, name: str) -> FieldError:
        return FieldError(name, f"this {self._called} is required: {self._allowed[name]}")

    def bad(self, name: str) -> FieldError:
        return FieldError(name, f"must be {self._allowed[name]}")


def without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a field that may be null, as it is for a value."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    return choices[0] if len(choices) == 1 else schema


class JsonBody(Generic[T]):
    """Reads a body as the msgspec Struct `of`. No body is `empty()`, where that is given."""

    def __init__(
        self, of: type[T], empty: Callable[[], T] | None = None, arrive_within_s: float = ARRIVE_WITHIN_S
    ) -> None:
        self.of = of
        self.empty = empty
        self._arrive_within_s = arrive_within_s
        self._decoder = msgspec.json.Decoder(of)
        self._fields = Fields(of)
        self._holds_objects = any(schema.get("type") == "object" for schema in self._fields.schemas.values())
        self._quoted = [f'"{name}"'.encode() for name in self._fields.names]

    async def read(self, req: Request) -> T:
        """Raises InvalidInput, or Falcon's 400, 413 or 415."""
        try:
            async with asyncio.timeout(self._arrive_within_s):
                raw = await _read(req)
        except TimeoutError as error:
            raise HTTPRequestTimeout(f"the body did not arrive within {self._arrive_within_s} s") from error
        if not raw:
            if self.empty is not None:
                return self.empty()
            raise falcon.HTTPBadRequest(description="this call needs a body, sent as Content-Type: application/json")
        media_type = (req.content_type or "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise falcon.HTTPUnsupportedMediaType(description="send the body as Content-Type: application/json")
        try:
            body = self._decoder.decode(raw)
            if self._holds_objects or b"\\" in raw or any(raw.count(name) > 1 for name in self._quoted):
                _repetitions.decode(raw.decode())  # a field may stand there twice; msgspec takes the last
        except msgspec.ValidationError as error:
            raise InvalidInput(*self._errors(raw, str(error))) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _no_json(error) from error
        except RecursionError as error:
            raise falcon.HTTPBadRequest(description="the body is nested too deeply") from error
        return body

    def _errors(self, raw: bytes, first: str) -> list[FieldError]:
        """All that is wrong; only what was found first where the rest is JSON that Python cannot hold."""
        try:
            given = msgspec.json.decode(raw)
        except (msgspec.ValidationError, RecursionError):
            return [self._first_error(first)]
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _no_json(error) from error
        return self._fields.errors(given) if isinstance(given, dict) else [NO_OBJECT]

    def _first_error(self, message: str) -> FieldError:
        if match := _UNKNOWN.match(message):
            return self._fields.unknown(match[1])
        if match := _MISSING.match(message):
            return self._fields.missing(match[1])
        if match := _AT.fullmatch(message):
            return self._fields.bad(match[1])
        return NO_OBJECT


def _no_json(error: Exception) -> falcon.HTTPBadRequest:
    return falcon.HTTPBadRequest(description=f"the body is not JSON in UTF-8: {error}")


def _refuse_repeated(pairs: list[tuple[str, object]]) -> None:
    times = Counter(name for name, _ in pairs)
    if len(times) < len(pairs):
        repeated = [name for name, count in times.items() if count > 1]
        raise InvalidInput(*(FieldError(name[:100], "give this field once") for name in repeated))


_repetitions = json.JSONDecoder(object_pairs_hook=_refuse_repeated, parse_int=str, parse_float=str)


async def _read(req: Request) -> bytes:
    body = bytearray()
    if (req.content_length or 0) <= LIMIT:
        async for chunk in req.stream:
            body += chunk
            if len(body) > LIMIT:
                break
        else:
            return bytes(body)
    drained = len(body)
    while drained < DRAIN and (chunk := await req.stream.read(LIMIT)):
        drained += len(chunk)
    raise falcon.HTTPContentTooLarge(description=f"a body may hold {LIMIT} bytes")


def query(req: Request, allowed: tuple[str, ...]) -> dict[str, str]:
    """The query parameters. Raises InvalidInput for one that is unknown or given twice, 400 where they are not text."""
    try:
        unquote(req.query_string, errors="strict")
    except UnicodeDecodeError as error:
        raise falcon.HTTPBadRequest(description="the query string is not percent-encoded UTF-8") from error
    errors = [
        FieldError(name[:100], f"there is no such parameter; allowed are: {', '.join(allowed) or 'none'}")
        for name in req.params
        if name not in allowed
    ]
    errors += [
        FieldError(name, "give this parameter once")
        for name, value in req.params.items()
        if name in allowed and isinstance(value, list)
    ]
    if errors:
        raise InvalidInput(*errors)
    return {name: value for name, value in req.params.items() if isinstance(value, str)}


class Query(Generic[T]):
    """Reads a query string as the msgspec Struct `of`, whose fields are texts, what is written as text, or numbers."""

    def __init__(self, of: type[T]) -> None:
        self.of = of
        self._fields = Fields(of, "parameter")
        self._types = {name: schema.get("type") for name, schema in self._fields.schemas.items()}

    def read(self, req: Request) -> T:
        """Raises InvalidInput, or 400 where it is not text."""
        return self.parse(query(req, self._fields.names))

    def parse(self, given: Mapping[str, str]) -> T:
        """Raises InvalidInput naming every parameter that cannot be used."""
        values = {name: _value(text, self._types.get(name)) for name, text in given.items()}
        if errors := self._fields.errors(values):
            raise InvalidInput(*errors)
        return msgspec.convert(values, self.of)

    def bad(self, name: str) -> InvalidInput:
        """For a value that only its use shows to be bad."""
        return InvalidInput(self._fields.bad(name))


_WHOLE = re.compile(r"0|[1-9][0-9]{0,8}")
_DECIMAL = re.compile(r"(0|[1-9][0-9]{0,8})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?")  # as JSON has it


def _value(text: str, type_: object) -> object:
    """A number where one is wanted and the text is one."""
    if type_ == "integer" and _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if type_ == "number" and _DECIMAL.fullmatch(text) else text
