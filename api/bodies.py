"""Request bodies and query strings, strictly: what is not allowed is refused by name, nothing is coerced."""

import asyncio
import json
import re
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
ERRORS_NAMED = 20  # query parameters; an answer must not grow with the request

T = TypeVar("T")

_AT = re.compile(r".* - at `\$\.(.*)`", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)


class HTTPRequestTimeout(falcon.HTTPError):
    """The one error of HTTP that is needed here and that Falcon has no class for."""


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

        await super().__call__(scope, receive_whole, send)


class JsonBody(Generic[T]):
    """Reads a body as the msgspec Struct `of`. Each field's `description` completes "must be"."""

    def __init__(self, of: type[T], arrive_within_s: float = ARRIVE_WITHIN_S) -> None:
        self._arrive_within_s = arrive_within_s
        self._decoder = msgspec.json.Decoder(of)
        properties = msgspec.json.schema(of)["$defs"][of.__name__]["properties"]
        self._allowed = {name: schema["description"] for name, schema in properties.items()}
        self._quoted = [f'"{name}"'.encode() for name in self._allowed]

    async def read(self, req: Request, empty: Callable[[], T] | None = None) -> T:
        """Raises InvalidInput, or Falcon's 400, 413 or 415. No body is `empty()`, where that is given."""
        try:
            async with asyncio.timeout(self._arrive_within_s):
                raw = await _read(req)
        except TimeoutError as error:
            raise HTTPRequestTimeout(
                408, description=f"the body did not arrive within {self._arrive_within_s} s"
            ) from error
        if not raw:
            if empty is not None:
                return empty()
            raise falcon.HTTPBadRequest(description="this call needs a body, sent as Content-Type: application/json")
        media_type = (req.content_type or "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise falcon.HTTPUnsupportedMediaType(description="send the body as Content-Type: application/json")
        try:
            body = self._decoder.decode(raw)
        except msgspec.ValidationError as error:
            raise InvalidInput(self._field_error(str(error))) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise falcon.HTTPBadRequest(description=f"the body is not JSON in UTF-8: {error}") from error
        except RecursionError as error:
            raise falcon.HTTPBadRequest(description="the body is nested too deeply") from error
        if b"\\" in raw or any(raw.count(name) > 1 for name in self._quoted):
            _repetitions.decode(raw.decode())  # a field may stand there twice; msgspec takes the last
        return body

    def _field_error(self, message: str) -> FieldError:
        if match := _UNKNOWN.match(message):
            return FieldError(match[1][:100], f"there is no such field; allowed are: {', '.join(self._allowed)}")
        if match := _MISSING.match(message):
            return FieldError(match[1], f"this field is required: {self._allowed[match[1]]}")
        if match := _AT.fullmatch(message):
            return FieldError(match[1], f"must be {self._allowed[match[1]]}")
        return FieldError("body", "must be a JSON object")


def _refuse_repeated(pairs: list[tuple[str, object]]) -> None:
    names = [name for name, _ in pairs]
    repeated = [FieldError(name, "give this field once") for name in dict.fromkeys(names) if names.count(name) > 1]
    if repeated:
        raise InvalidInput(*repeated)


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
        raise InvalidInput(*errors[:ERRORS_NAMED])
    return {name: value for name, value in req.params.items() if isinstance(value, str)}
