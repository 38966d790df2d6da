"""What happens around every request: an id, a log line, the caller's key, and an orderly end."""

import re
import secrets
import time
from collections.abc import Callable
from typing import Any

import structlog
from falcon.asgi import Request, Response

from api.keys import KeyFile
from shared.clock import Clock
from shared.errors import NotAuthorised

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

    async def process_response(self, req: Request, resp: Response, _resource: object, _succeeded: bool) -> None:
        took_ms = round((time.monotonic() - req.context.began) * 1000, 1)
        status = int(str(resp.status)[:3])
        _log.info("request", method=req.method, path=req.path[:PATH_LOGGED], status=status, took_ms=took_ms)


class Authentication:
    """Lets a request pass whose key has the scope that the resource names for the method.

    Every resource has `scopes`: one per method, or None where no key is needed.
    """

    def __init__(self, keys: KeyFile, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock

    async def process_resource(self, req: Request, _resp: Response, resource: Any, _params: object) -> None:
        if resource.scopes is None:
            return
        key = self._keys.authenticate(req.get_header("Authorization"), self._clock.now())
        scope = resource.scopes.get(req.method)
        if scope is not None and not key.allows(scope):
            raise NotAuthorised(f"this API key lacks the scope {scope}")


class OrderlyEnd:
    """Waits for work under way when the server shuts down; by then no request is open."""

    def __init__(self, *closers: Callable[[], None]) -> None:
        self._closers = closers

    async def process_shutdown(self, _scope: object, _event: object) -> None:
        for close in self._closers:
            close()
