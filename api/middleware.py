"""What happens around every request: an id, a log line, the caller's key, and an orderly end."""

import re
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

import falcon
import structlog
from falcon.asgi import Request, Response

from api.keys import KeyFile
from api.operations import operation_of
from shared.clock import Clock
from shared.errors import NotAuthorised, Unavailable

STOP_WAITING = "stop_waiting"  # in the state that server and application share (ASGI's lifespan)
IS_CROWDED = "is_crowded"  # in that of a request: this process has more connections than it may
PATH_LOGGED = 200  # characters; the longest real one has 59

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

_log = structlog.get_logger("invigil.request")


class RequestLog:
    """Gives each request an id, the client's own where it sends a usable X-Request-Id, and logs its answer."""

    async def process_request(self, req: Request, resp: Response) -> None:
        given = req.get_header("X-Request-Id") or ""
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        req.context.began = time.monotonic()
        resp.set_header("X-Request-Id", request_id)
        structlog.contextvars.bind_contextvars(request_id=request_id)
        if req.scope.get("state", {}).get(IS_CROWDED):
            resp.set_header("Connection", "close")
            raise Unavailable("this process has more connections than it may")

    async def process_response(self, req: Request, resp: Response, _resource: object, _succeeded: bool) -> None:
        took_ms = round((time.monotonic() - req.context.began) * 1000, 1)
        status = int(str(resp.status)[:3])
        _log.info("request", method=req.method, path=req.path[:PATH_LOGGED], status=status, took_ms=took_ms)


class Authentication:
    """Lets a request pass whose key has the scope that its operation names, and notes the key in `req.context.caller`.
    A body where none is taken is refused.

    A method that is no operation gets Falcon's 405.
    """

    def __init__(self, keys: KeyFile, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock

    async def process_resource(self, req: Request, _resp: Response, resource: object, _params: object) -> None:
        operation = operation_of(resource, req.method)
        if operation is None or operation.scope is None:
            return
        key = self._keys.authenticate(req.get_header("Authorization"), self._clock.now())
        if not key.allows(operation.scope):
            raise NotAuthorised(f"this API key lacks the scope {operation.scope}")
        req.context.caller = key
        if operation.body is None and (req.content_length or req.get_header("Transfer-Encoding")):
            raise falcon.HTTPBadRequest(description="this call takes no body")


class OrderlyEnd:
    """Waits for work under way when the server shuts down; by then no request is open.

    `stop_waiting` has requests answered that only wait. The server calls it when it is told to stop (api/server.py).
    """

    def __init__(self, stop_waiting: Callable[[], None], closers: Sequence[Callable[[], None]]) -> None:
        self._stop_waiting = stop_waiting
        self._closers = closers

    async def process_startup(self, scope: dict[str, Any], _event: object) -> None:
        scope.setdefault("state", {})[STOP_WAITING] = self._stop_waiting

    async def process_shutdown(self, _scope: object, _event: object) -> None:
        for close in self._closers:
            close()
