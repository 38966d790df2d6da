"""The API's document, and the page that shows it; both need no key."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import falcon
import msgspec
from falcon.asgi import Request, Response

from api.openapi import document
from api.operations import Answer, Operation

DOCUMENT = "/v1/openapi.json"

_FOLDER = Path(__file__).parents[1] / "docs"
_REVALIDATE = "no-cache"
_FOR_GOOD = "public, max-age=31536000, immutable"  # of files whose names say their version
_CACHED = ("ETag", "Cache-Control")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_UNCHANGED = Answer("It is what the client has.", headers=_CACHED, media_type=None)


class Content(NamedTuple):
    """Bytes that stay the same as long as the process lives."""

    data: bytes
    media_type: str
    cache_control: str
    etag: str

    @classmethod
    def of(cls, data: bytes, media_type: str, cache_control: str = _REVALIDATE) -> "Content":
        return cls(data, media_type, cache_control, hashlib.sha256(data).hexdigest()[:32])

    def answer(self, req: Request, resp: Response) -> None:
        """304 where the client has it already."""
        resp.etag = self.etag
        resp.cache_control = [self.cache_control]
        resp.set_header("X-Content-Type-Options", "nosniff")
        resp.set_header("Referrer-Policy", "no-referrer")
        resp.set_header("Content-Security-Policy", _POLICY)
        resp.content_type = self.media_type
        if any(etag in ("*", self.etag) for etag in req.if_none_match or ()):
            resp.status = falcon.HTTP_304
        else:
            resp.data = self.data


class ApiDocument:
    """`GET /v1/openapi.json`: of all `routes`, and of itself."""

    def __init__(self, routes: Mapping[str, object]) -> None:
        data = msgspec.json.encode(document({**routes, DOCUMENT: self}))
        self._content = Content.of(data, "application/json")

    @Operation(
        "This document",
        tag="docs",
        scope=None,
        answers={200: Answer("OpenAPI 3.1.", dict[str, Any], _CACHED), 304: _UNCHANGED},
    )
    async def on_get(self, req: Request, resp: Response) -> None:
        self._content.answer(req, resp)


class DocsPage:
    """`GET /docs`: the document for people, who can try out each call with a key of theirs."""

    def __init__(self) -> None:
        self._content = Content.of((_FOLDER / "index.html").read_bytes(), "text/html; charset=utf-8")

    @Operation(
        "This document, to read and to try out",
        tag="docs",
        scope=None,
        answers={200: Answer("A page.", headers=_CACHED, media_type="text/html"), 304: _UNCHANGED},
    )
    async def on_get(self, req: Request, resp: Response) -> None:
        self._content.answer(req, resp)


FileName = Literal["start.js", "swagger-ui-5.35.0.js", "swagger-ui-5.35.0.css"]


class DocsFile:
    """`GET /docs/{name}`: what the page consists of, and nothing else that lies in its folder."""

    FILES: ClassVar[dict[FileName, tuple[str, str, str]]] = {
        "start.js": ("start.js", "text/javascript; charset=utf-8", _REVALIDATE),
        "swagger-ui-5.35.0.js": (
            "swagger-ui-5.35.0/swagger-ui-bundle.js",
            "text/javascript; charset=utf-8",
            _FOR_GOOD,
        ),
        "swagger-ui-5.35.0.css": ("swagger-ui-5.35.0/swagger-ui.css", "text/css; charset=utf-8", _FOR_GOOD),
    }

    def __init__(self) -> None:
        self._contents: dict[str, Content] = {
            name: Content.of((_FOLDER / path).read_bytes(), media_type, cache_control)
            for name, (path, media_type, cache_control) in self.FILES.items()
        }

    @Operation(
        "A file of the page",
        tag="docs",
        scope=None,
        answers={200: Answer("Its content.", headers=_CACHED, media_type="text/*"), 304: _UNCHANGED},
        errors=(falcon.HTTPRouteNotFound,),
    )
    async def on_get(self, req: Request, resp: Response, name: FileName) -> None:
        content = self._contents.get(name)
        if content is None:
            raise falcon.HTTPRouteNotFound
        content.answer(req, resp)
