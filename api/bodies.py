"""Request bodies and query strings, strictly: what is not allowed is refused by name, nothing is coerced."""

import re
from collections.abc import Callable
from typing import Generic, TypeVar

import falcon
import msgspec
from falcon.asgi import Request

from shared.errors import FieldError, InvalidInput

LIMIT = 64 * 1024
DRAIN = 1024 * 1024  # read and dropped after a refusal, so that the client gets to see the answer

T = TypeVar("T")

_WHERE = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)


class JsonBody(Generic[T]):
    """Reads a body as the msgspec Struct `of`."""

    def __init__(self, of: type[T]) -> None:
        self._decoder = msgspec.json.Decoder(of)
        self._allowed = ", ".join(field.encode_name for field in msgspec.structs.fields(of))  # type: ignore[arg-type]

    async def read(self, req: Request, empty: Callable[[], T] | None = None) -> T:
        """Raises InvalidInput, or Falcon's 400, 413 or 415. An empty body is `empty()`, where that is given."""
        raw = await _read(req)
        if not raw and empty is not None:
            return empty()
        media_type = (req.content_type or "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise falcon.HTTPUnsupportedMediaType(description="send the body as Content-Type: application/json")
        try:
            return self._decoder.decode(raw)
        except msgspec.ValidationError as error:
            raise InvalidInput(self._field_error(str(error))) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise falcon.HTTPBadRequest(description=f"the body is not JSON: {error}") from error
        except RecursionError as error:
            raise falcon.HTTPBadRequest(description="the body is nested too deeply") from error

    def _field_error(self, message: str) -> FieldError:
        if match := _UNKNOWN.match(message):
            return FieldError(match[1][:100], f"there is no such field; allowed are: {self._allowed}")
        if match := _MISSING.match(message):
            return FieldError(match[1], "this field is required")
        match = _WHERE.fullmatch(message)
        what, path = (match["what"], match["path"]) if match else (message, None)
        return FieldError(path or "body", what[:1].lower() + what[1:])


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
    """The query parameters. Raises InvalidInput for one that is unknown or given twice."""
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
