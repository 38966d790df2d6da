"""Errors as RFC 9457 problem details: the one place where an error of ours becomes an HTTP status."""

from typing import Annotated, NamedTuple

import falcon
import msgspec
import structlog
from falcon.asgi import App, Request, Response

from api.exam_json import ExamBody, exam_json
from shared.clock import Clock
from shared.errors import (
    BrokerUnavailable,
    ExamConflict,
    ExamNotFound,
    FieldError,
    InvalidInput,
    InvigilError,
    NotAuthenticated,
    NotAuthorised,
    StoreUnavailable,
    TaskConflict,
    TaskIdTaken,
    TaskNotFound,
    Unavailable,
)

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER_S = 1  # the breaker tries Redis again after a second, and a disk is as likely to be back by then


class Problem(msgspec.Struct, kw_only=True):
    """What went wrong (RFC 9457)."""

    type: Annotated[str, msgspec.Meta(description="which kind of problem", pattern="^urn:invigil:problem:[a-z-]+$")]
    title: str
    status: int
    detail: Annotated[str, msgspec.Meta(description="a sentence about this one")]


class BadFields(Problem, kw_only=True):
    """Names each field, parameter or part of the path that cannot be used, and says what is allowed."""

    errors: list[FieldError]


class ExamProblem(Problem, kw_only=True):
    """Carries the exam as it stands."""

    exam: ExamBody


class Kind(NamedTuple):
    """Which problem an error becomes."""

    status: int
    slug: str
    body: type[Problem] = Problem


_KINDS: dict[type[InvigilError], Kind] = {
    InvalidInput: Kind(422, "invalid-input", BadFields),
    ExamNotFound: Kind(404, "exam-not-found", BadFields),
    ExamConflict: Kind(409, "exam-conflict", ExamProblem),
    TaskNotFound: Kind(404, "task-not-found"),
    TaskIdTaken: Kind(409, "task-id-taken"),
    TaskConflict: Kind(409, "task-conflict"),
    BrokerUnavailable: Kind(503, "broker-unavailable"),
    StoreUnavailable: Kind(503, "store-unavailable"),
    Unavailable: Kind(503, "unavailable"),
    NotAuthenticated: Kind(401, "not-authenticated"),
    NotAuthorised: Kind(403, "not-authorised"),
}


def kind_of(error: type[Exception]) -> Kind:
    """Of an error of ours, or of Falcon's."""
    if issubclass(error, falcon.HTTPError):
        return _falcons(error())  # type: ignore[call-arg]  # all that are raised here know their own status
    return next(_KINDS[cls] for cls in error.__mro__ if cls in _KINDS)


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
        more: dict[str, object] = {}
        if isinstance(error, InvalidInput):
            more["errors"] = error.errors
        if isinstance(error, ExamNotFound):
            more["errors"] = [FieldError("pk", str(error))]
        if isinstance(error, ExamConflict):
            more["exam"] = exam_json(error.exam, self._clock.now())
        if isinstance(error, NotAuthenticated):
            resp.set_header("WWW-Authenticate", "Bearer")
        if isinstance(error, Unavailable):
            resp.set_header("Retry-After", str(RETRY_AFTER_S))
            _log.warning("unavailable", path=req.path, why=str(error))
        _write(resp, kind_of(type(error)), str(error), **more)

    async def _unforeseen(self, req: Request, resp: Response, error: Exception, _params: object) -> None:
        _log.error("unforeseen_error", path=req.path, exc_info=error)
        _write(resp, Kind(500, "internal-error"), "an error of ours; the log has it under this request id")


def _serialize(_req: Request, resp: Response, error: falcon.HTTPError) -> None:
    """For the errors that Falcon raises itself."""
    kind = _falcons(error)
    _write(resp, kind, error.description or _DETAIL.get(kind.status) or error.title or "")


def _falcons(error: falcon.HTTPError) -> Kind:
    name = type(error).__name__.removeprefix("HTTP")
    return Kind(error.status_code, "".join(f"-{c.lower()}" if c.isupper() else c for c in name).lstrip("-"))


_DETAIL = {
    404: "there is nothing at this address",
    405: "this address does not take this method; the Allow header lists those it takes",
}


def title_of(status: int) -> str:
    return str(falcon.util.code_to_http_status(status)).partition(" ")[2]


def _write(resp: Response, kind: Kind, detail: str, **more: object) -> None:
    resp.status = kind.status
    resp.content_type = CONTENT_TYPE
    resp.data = msgspec.json.encode(
        kind.body(
            type=f"urn:invigil:problem:{kind.slug}",
            title=title_of(kind.status),
            status=kind.status,
            detail=detail,
            **more,
        )
    )
