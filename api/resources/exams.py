"""Exams over REST: start, result, read, list."""

from datetime import timedelta
from typing import Annotated, Literal

import falcon
import msgspec
from falcon.asgi import Request, Response

from api.batches import Batches
from api.bodies import JsonBody, query
from api.exam_json import EventList, ExamBody, ExamList, event_json, exam_json
from api.fields import Line, Pk
from api.idempotency import KEY_HEADER, REPLAYED, attempt_of, mark
from api.listing import EXAMS_QUERY, cursor, wanted
from api.operations import Answer, Operation
from api.threads import Threads
from shared.clock import MILLISECOND, Clock
from shared.errors import ExamConflict, ExamNotFound, StoreUnavailable
from shared.exams.keyed_starts import KeyedStart, Sitting
from shared.exams.model import Exam, Status
from shared.exams.pk import is_pk
from shared.exams.register import ExamRegister, Result, Start

SHORTEST, LONGEST = timedelta(seconds=1), timedelta(days=7)

Duration = Annotated[
    float,
    msgspec.Meta(
        ge=SHORTEST.total_seconds(),
        le=LONGEST.total_seconds(),
        description=f"a number of seconds from 1 to {int(LONGEST.total_seconds())}",
        examples=[120],
    ),
]


class StartBody(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Who sits down to what, and for how long: by default as long as INVIGIL_EXAM_SECONDS says."""

    candidate: Line | None = None
    title: Line | None = None
    duration_s: Duration | None = None


class ResultBody(msgspec.Struct, forbid_unknown_fields=True):
    """How the exam ended."""

    status: Annotated[Literal["pass", "fail"], msgspec.Meta(description='"pass" or "fail"')]


class ExamCollection:
    """`POST /v1/exams` and `GET /v1/exams`."""

    _body = JsonBody(StartBody, empty=StartBody)

    def __init__(
        self,
        starts: Batches[Start, Exam],
        keyed_starts: Batches[KeyedStart, Sitting],
        register: ExamRegister,
        threads: Threads,
        clock: Clock,
        default_duration: timedelta,
    ) -> None:
        self._starts = starts
        self._keyed_starts = keyed_starts
        self._register = register
        self._threads = threads
        self._clock = clock
        self._default_duration = default_duration

    @Operation(
        "Start an exam",
        tag="exams",
        scope="exams:write",
        headers=KEY_HEADER,
        body=_body,
        answers={201: Answer("It runs, and is on disk.", ExamBody, headers=("Location", REPLAYED))},
        errors=(StoreUnavailable,),
    )
    async def on_post(self, req: Request, resp: Response) -> None:
        query(req, ())
        body = await self._body.read(req)
        start = _start(body, self._default_duration)
        if attempt := attempt_of(req, body):
            exam, is_repeat = await self._keyed_starts.do(KeyedStart(start, attempt))
            mark(resp, is_repeat=is_repeat)
        else:
            exam = await self._starts.do(start)
        resp.status = falcon.HTTP_201
        resp.location = f"/v1/exams/{exam.pk}"
        resp.data = msgspec.json.encode(exam_json(exam, self._clock.now()))

    @Operation(
        "List exams, newest first",
        tag="exams",
        scope="exams:read",
        query=EXAMS_QUERY,
        answers={200: Answer("A page, which may be short.", ExamList)},
        errors=(StoreUnavailable,),
    )
    async def on_get(self, req: Request, resp: Response) -> None:
        page = await self._threads.run(self._register.page, wanted(EXAMS_QUERY.read(req)))
        now = self._clock.now()
        items = [exam_json(exam, now) for exam in page.exams]
        resp.data = msgspec.json.encode(ExamList(items, cursor(page)))


class ExamItem:
    """`GET /v1/exams/{pk}`."""

    def __init__(self, register: ExamRegister, threads: Threads, clock: Clock) -> None:
        self._register = register
        self._threads = threads
        self._clock = clock

    @Operation(
        "Read an exam",
        tag="exams",
        scope="exams:read",
        answers={200: Answer("As it stands; an overdue one is ended first.", ExamBody)},
        errors=(ExamNotFound, StoreUnavailable),
    )
    async def on_get(self, req: Request, resp: Response, pk: Pk) -> None:
        query(req, ())
        exam = await self._threads.run(self._register.read, _checked(pk))
        resp.data = msgspec.json.encode(exam_json(exam, self._clock.now()))


class ExamEvents:
    """`GET /v1/exams/{pk}/events`."""

    def __init__(self, register: ExamRegister, threads: Threads) -> None:
        self._register = register
        self._threads = threads

    @Operation(
        "Read what happened to an exam",
        tag="exams",
        scope="exams:read",
        answers={200: Answer("All its events, in order.", EventList)},
        errors=(ExamNotFound, StoreUnavailable),
    )
    async def on_get(self, req: Request, resp: Response, pk: Pk) -> None:
        query(req, ())
        events = await self._threads.run(self._register.events, _checked(pk))
        items = [event_json(number, event) for number, event in enumerate(events, 1)]
        resp.data = msgspec.json.encode(EventList(items, None))


class ExamResult:
    """`PUT /v1/exams/{pk}/result`."""

    _body = JsonBody(ResultBody)

    def __init__(self, results: Batches[Result, Exam], clock: Clock) -> None:
        self._results = results
        self._clock = clock

    @Operation(
        "Give an exam its result",
        tag="exams",
        scope="exams:write",
        body=_body,
        answers={200: Answer("The result is final; the same again is fine.", ExamBody)},
        errors=(ExamNotFound, ExamConflict, StoreUnavailable),
    )
    async def on_put(self, req: Request, resp: Response, pk: Pk) -> None:
        query(req, ())
        _checked(pk)
        body = await self._body.read(req)
        received_at = self._clock.now()  # the whole request has been read
        result = Result(pk=pk, status=Status(body.status), received_at=received_at)
        exam = await self._results.do(result)
        resp.data = msgspec.json.encode(exam_json(exam, self._clock.now()))


def _start(body: StartBody, default_duration: timedelta) -> Start:
    duration = default_duration if body.duration_s is None else round(body.duration_s * 1000) * MILLISECOND
    return Start(candidate=body.candidate, title=body.title, duration=duration)


def _checked(pk: Pk) -> Pk:
    if not is_pk(pk):
        raise ExamNotFound("a pk is a UUID of version 7, written in 36 characters, small letters; this is none")
    return pk
