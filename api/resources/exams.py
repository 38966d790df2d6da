"""Exams over REST: start, result, read, list."""

from datetime import timedelta
from typing import Annotated, ClassVar, Literal

import falcon
import msgspec
from falcon.asgi import Request, Response

from api.batches import Batches
from api.bodies import JsonBody, query
from api.exam_json import event_json, exam_json
from api.listing import LIST_PARAMETERS, cursor, list_query
from api.texts import TEXT_LIMIT, text_error
from api.threads import Threads
from shared.clock import MILLISECOND, Clock
from shared.errors import ExamNotFound, FieldError, InvalidInput
from shared.exams.model import Exam, Status
from shared.exams.pk import is_pk
from shared.exams.register import ExamRegister, Result, Start

SHORTEST, LONGEST = timedelta(seconds=1), timedelta(days=7)

TEXT = msgspec.Meta(description=f"a text of 1 to {TEXT_LIMIT} characters, or null")
DURATION = msgspec.Meta(description=f"a number of seconds from 1 to {int(LONGEST.total_seconds())}, or null")


class StartBody(msgspec.Struct, forbid_unknown_fields=True):
    candidate: Annotated[str | None, TEXT] = None
    title: Annotated[str | None, TEXT] = None
    duration_s: Annotated[int | float | None, DURATION] = None


class ResultBody(msgspec.Struct, forbid_unknown_fields=True):
    status: Annotated[Literal["pass", "fail"], msgspec.Meta(description='"pass" or "fail"')]


class ExamCollection:
    """`POST /v1/exams` and `GET /v1/exams`."""

    scopes: ClassVar = {"POST": "exams:write", "GET": "exams:read"}
    _body = JsonBody(StartBody)

    def __init__(
        self,
        starts: Batches[Start, Exam],
        register: ExamRegister,
        threads: Threads,
        clock: Clock,
        default_duration: timedelta,
    ) -> None:
        self._starts = starts
        self._register = register
        self._threads = threads
        self._clock = clock
        self._default_duration = default_duration

    async def on_post(self, req: Request, resp: Response) -> None:
        query(req, ())
        body = await self._body.read(req, empty=StartBody)
        exam = await self._starts.do(_start(body, self._default_duration))
        resp.status = falcon.HTTP_201
        resp.location = f"/v1/exams/{exam.pk}"
        resp.data = msgspec.json.encode(exam_json(exam, self._clock.now()))

    async def on_get(self, req: Request, resp: Response) -> None:
        wanted = list_query(query(req, LIST_PARAMETERS))
        page = await self._threads.run(self._register.page, wanted)
        now = self._clock.now()
        items = [exam_json(exam, now) for exam in page.exams]
        resp.data = msgspec.json.encode({"items": items, "next_cursor": cursor(page)})


class ExamItem:
    """`GET /v1/exams/{pk}`."""

    scopes: ClassVar = {"GET": "exams:read"}

    def __init__(self, register: ExamRegister, threads: Threads, clock: Clock) -> None:
        self._register = register
        self._threads = threads
        self._clock = clock

    async def on_get(self, req: Request, resp: Response, pk: str) -> None:
        query(req, ())
        exam = await self._threads.run(self._register.read, _checked(pk))
        resp.data = msgspec.json.encode(exam_json(exam, self._clock.now()))


class ExamEvents:
    """`GET /v1/exams/{pk}/events`."""

    scopes: ClassVar = {"GET": "exams:read"}

    def __init__(self, register: ExamRegister, threads: Threads) -> None:
        self._register = register
        self._threads = threads

    async def on_get(self, req: Request, resp: Response, pk: str) -> None:
        query(req, ())
        events = await self._threads.run(self._register.events, _checked(pk))
        items = [event_json(number, event) for number, event in enumerate(events, 1)]
        resp.data = msgspec.json.encode({"items": items, "next_cursor": None})


class ExamResult:
    """`PUT /v1/exams/{pk}/result`."""

    scopes: ClassVar = {"PUT": "exams:write"}
    _body = JsonBody(ResultBody)

    def __init__(self, results: Batches[Result, Exam], clock: Clock) -> None:
        self._results = results
        self._clock = clock

    async def on_put(self, req: Request, resp: Response, pk: str) -> None:
        query(req, ())
        _checked(pk)
        body = await self._body.read(req)
        received_at = self._clock.now()  # the whole request has been read
        result = Result(pk=pk, status=Status(body.status), received_at=received_at)
        exam = await self._results.do(result)
        resp.data = msgspec.json.encode(exam_json(exam, self._clock.now()))


def _start(body: StartBody, default_duration: timedelta) -> Start:
    errors = [
        FieldError(name, message)
        for name, value in (("candidate", body.candidate), ("title", body.title))
        if value is not None and (message := text_error(value, TEXT_LIMIT))
    ]
    duration = default_duration
    if body.duration_s is not None:
        # Compared as a number first: a timedelta cannot hold every number that JSON can.
        if not SHORTEST.total_seconds() <= body.duration_s <= LONGEST.total_seconds():
            errors.append(FieldError("duration_s", f"must be {DURATION.description}"))
        else:
            duration = round(body.duration_s * 1000) * MILLISECOND
    if errors:
        raise InvalidInput(*errors)
    return Start(candidate=body.candidate, title=body.title, duration=duration)


def _checked(pk: str) -> str:
    if not is_pk(pk):
        raise ExamNotFound("a pk is a UUID of version 7, written in 36 characters, small letters; this is none")
    return pk
