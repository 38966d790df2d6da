"""Errors as RFC 9457 problem details: the one place where an error of ours becomes an HTTP status."""

import falcon
import msgspec
import structlog
from falcon.asgi import App, Request, Response

from api.exam_json import exam_json
from shared.clock import Clock
from shared.errors import (
    BrokerUnavailable,
    ExamConflict,
    ExamNotFound,
    InvalidInput,
    InvigilError,
    NotAuthenticated,
    NotAuthorised,
    StoreUnavailable,
    Unavailable,
)

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER_S = 1  # the breaker tries Redis again after a second, and a disk is as likely to be back by then

_STATUS: dict[type[InvigilError], tuple[int, str]] = {
    InvalidInput: (422, "invalid-input"),
    ExamNotFound: (404, "exam-not-found"),
    ExamConflict: (409, "exam-conflict"),
    BrokerUnavailable: (503, "broker-unavailable"),
    StoreUnavailable: (503, "store-unavailable"),
    Unavailable: (503, "unavailable"),
    NotAuthenticated: (401, "not-authenticated"),
    NotAuthorised: (403, "not-authorised"),
}

_log = structlog.get_logger(__name__)


class Problems:
    """Falcon's error handlers. An exam in a problem tells the time by `clock`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def register(self, app: "App[Request, Response]") -> None:
        app.set_error_serializer(_serialize)
        app.add_error_handler(InvigilError, self._ours)
        app.add_error_handler(Exception, self._unforeseen)

    async def _ours(self, req: Request, resp: Response, error: InvigilError, _params: object) -> None:
        status, kind = next(_STATUS[cls] for cls in type(error).__mro__ if cls in _STATUS)
        problem = _problem(status, kind, str(error))
        if isinstance(error, InvalidInput):
            problem["errors"] = [{"field": each.field, "message": each.message} for each in error.errors]
        if isinstance(error, ExamNotFound):
            problem["errors"] = [{"field": "pk", "message": str(error)}]
        if isinstance(error, ExamConflict):
            problem["exam"] = exam_json(error.exam, self._clock.now())
        if isinstance(error, NotAuthenticated):
            resp.set_header("WWW-Authenticate", "Bearer")
        if isinstance(error, Unavailable):
            resp.set_header("Retry-After", str(RETRY_AFTER_S))
            _log.warning("unavailable", path=req.path, why=str(error))
        _write(resp, status, problem)

    async def _unforeseen(self, req: Request, resp: Response, error: Exception, _params: object) -> None:
        _log.error("unforeseen_error", path=req.path, exc_info=error)
        _write(resp, 500, _problem(500, "internal-error", "an error of ours; the log has it under this request id"))


def _serialize(_req: Request, resp: Response, error: falcon.HTTPError) -> None:
    """For the errors that Falcon raises itself."""
    status = int(error.status[:3]) if isinstance(error.status, str) else int(error.status)
    kind = type(error).__name__.removeprefix("HTTP")
    slug = "".join(f"-{c.lower()}" if c.isupper() else c for c in kind).lstrip("-")
    detail = error.description or _DETAIL.get(status) or error.title or ""
    _write(resp, status, _problem(status, slug, detail))


_DETAIL = {
    404: "there is nothing at this address",
    405: "this address does not take this method; the Allow header lists those it takes",
}


def _problem(status: int, kind: str, detail: str) -> dict[str, object]:
    title = falcon.util.code_to_http_status(status).partition(" ")[2]
    return {"type": f"urn:invigil:problem:{kind}", "title": title, "status": status, "detail": detail}


def _write(resp: Response, status: int, problem: dict[str, object]) -> None:
    resp.status = status
    resp.content_type = CONTENT_TYPE
    resp.data = msgspec.json.encode(problem)
