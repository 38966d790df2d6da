"""Tasks over REST: send, read and wait, list, revoke, send again."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

import falcon
import msgspec
from falcon.asgi import Request, Response

from api.batches import Batches
from api.bodies import JsonBody, Query, client_gone, query
from api.cursors import CursorText, cursor_of, cursor_text
from api.downloads import Downloads
from api.idempotency import KEY_HEADER, REPLAYED, attempt_of, mark
from api.listing import DEFAULT_LIMIT, Limit
from api.long_polls import LONGEST_S, LongPolls
from api.operations import Answer, Operation
from api.task_json import TaskBody, TaskId, TaskList, address_of, task_json
from api.threads import Threads
from shared.broker.states import State, TaskState
from shared.errors import (
    BrokerUnavailable,
    FieldError,
    InvalidInput,
    PayloadMissing,
    StoreUnavailable,
    TaskConflict,
    TaskIdTaken,
    TaskNotFound,
)
from shared.idempotency import Attempt
from shared.tasks.call import LONGEST_DELAY, LONGEST_LIMIT, MOST_RETRIES, CallOptions
from shared.tasks.calls import Taken, TaskCall
from shared.tasks.dead_letters import DeadLetters
from shared.tasks.ids import TASK_ID_IS, is_task_id
from shared.tasks.listing import TaskLists, TaskQuery
from shared.tasks.payloads import Payloads
from shared.tasks.routes import Routes
from shared.tasks.sender import TaskSender
from shared.tasks.task import INTERNAL, Task, check_public

_LONGEST = int(LONGEST_DELAY.total_seconds())
_LONGEST_LIMIT = int(LONGEST_LIMIT.total_seconds())

QueueName = Annotated[
    str, msgspec.Meta(min_length=1, max_length=100, description="the name of a queue; GET /v1/queues lists them")
]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100, description="a name of 1 to 100 characters")]
SecondsAhead = Annotated[
    float, msgspec.Meta(ge=0, le=_LONGEST, description=f"a number of seconds from 0 to {_LONGEST}", examples=[60])
]
InstantAhead = Annotated[
    datetime,
    msgspec.Meta(
        tz=True,
        description="an instant with a time zone, such as 2026-11-20T10:45:00Z, at most ten years ahead",
        examples=["2026-11-20T10:45:00Z"],
    ),
]
LimitSeconds = Annotated[
    float,
    msgspec.Meta(ge=0.001, le=_LONGEST_LIMIT, description=f"a number of seconds from 0.001 to {_LONGEST_LIMIT}"),
]


class SendBody(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What to do, and when. `args` and `kwargs` are checked against the task's declaration (`GET /v1/catalog`).

    `countdown` or `eta`: not before; an `eta` that has passed means now. `expires`: revoked unless begun by then.
    """

    task: Annotated[str, msgspec.Meta(min_length=1, max_length=100, description="the name of a public task")]
    args: Annotated[list[Any], msgspec.Meta(description="a list")] | None = None
    kwargs: Annotated[dict[str, Any], msgspec.Meta(description="an object")] | None = None
    countdown: SecondsAhead | None = None
    eta: InstantAhead | None = None
    expires: (
        Annotated[
            SecondsAhead | InstantAhead,
            msgspec.Meta(description=f"a number of seconds from 0 to {_LONGEST}, or an instant with a time zone"),
        ]
        | None
    ) = None
    queue: QueueName | None = None
    priority: Annotated[int, msgspec.Meta(ge=0, le=9, description="a whole number from 0 to 9; 9 first")] | None = None
    retries: (
        Annotated[
            int, msgspec.Meta(ge=0, le=MOST_RETRIES, description=f"a whole number from 0 to {MOST_RETRIES}: at most")
        ]
        | None
    ) = None
    soft_time_limit: LimitSeconds | None = None
    time_limit: LimitSeconds | None = None
    task_id: TaskId | None = None


class TasksQuery(msgspec.Struct, kw_only=True):
    """Which tasks to list: those under way, then those that have ended lately, the last end first."""

    state: Annotated[State, msgspec.Meta(description=f"one of {', '.join(State)}")] | None = None
    queue: QueueName | None = None
    task: Name | None = None
    cursor: CursorText | None = None
    limit: Limit = DEFAULT_LIMIT


class WaitQuery(msgspec.Struct, kw_only=True):
    """How long to wait for the task's end."""

    wait: Annotated[
        float, msgspec.Meta(ge=0, le=LONGEST_S, description=f"a number of seconds from 0 to {LONGEST_S:.0f}")
    ] = 0.0


class RevokeQuery(msgspec.Struct, kw_only=True):
    """Whether a run that has begun is stopped."""

    terminate: Annotated[Literal["true", "false"], msgspec.Meta(description='"true" or "false"')] = "false"


class RevokeOutcome(msgspec.Struct):
    """`running`: this run goes on or is asked to stop, and none follows it; `too_late`: it had ended."""

    outcome: Literal["revoked", "terminated", "running", "too_late"]


class TaskCollection:
    """`POST /v1/tasks` and `GET /v1/tasks`."""

    _body = JsonBody(SendBody)
    _query = Query(TasksQuery)

    def __init__(
        self,
        calls: Batches[TaskCall, Taken],
        keyed_calls: Batches[TaskCall, Taken],
        tasks: Mapping[str, Task[..., Any]],
        lists: TaskLists,
        routes: Routes,
        threads: Threads,
    ) -> None:
        self._calls = calls
        self._keyed_calls = keyed_calls
        self._tasks = tasks
        self._lists = lists
        self._routes = routes
        self._threads = threads

    @Operation(
        "Send a task",
        tag="tasks",
        scope="tasks:write",
        headers=KEY_HEADER,
        body=_body,
        answers={202: Answer("It will be done.", TaskBody, headers=("Location", REPLAYED))},
        errors=(TaskIdTaken, BrokerUnavailable, StoreUnavailable),
    )
    async def on_post(self, req: Request, resp: Response) -> None:
        query(req, ())
        body = await self._body.read(req)
        call = self._call(body, attempt_of(req, body))
        state, is_repeat = await (self._calls if call.attempt is None else self._keyed_calls).do(call)
        mark(resp, is_repeat=is_repeat)
        accept(resp, state)

    @Operation(
        "List tasks: under way, then ended lately, the last end first",
        tag="tasks",
        scope="tasks:read",
        query=_query,
        answers={200: Answer("A page, which may be short.", TaskList)},
        errors=(BrokerUnavailable,),
    )
    async def on_get(self, req: Request, resp: Response) -> None:
        asked = self._query.read(req)
        queues = chosen(self._routes, asked.queue)
        wanted = TaskQuery(asked.limit, asked.state, asked.task, cursor_of(asked.cursor))
        page = await self._threads.run(self._lists.tasks, queues, wanted)
        resp.data = msgspec.json.encode(TaskList([task_json(state) for state in page.states], cursor_text(page)))

    def _call(self, body: SendBody, attempt: Attempt | None) -> TaskCall:
        task = self._tasks.get(body.task)
        if task is None or not task.is_public:
            raise InvalidInput(_no_such_task(self._tasks, task))
        if attempt is not None and body.task_id is not None:
            raise InvalidInput(FieldError("task_id", "leave it out: the Idempotency-Key gives the task its id"))
        options = CallOptions(
            countdown=body.countdown,
            eta=body.eta,
            expires=body.expires,
            queue=body.queue,
            priority=body.priority,
            retries=body.retries,
            soft_time_limit=body.soft_time_limit,
            time_limit=body.time_limit,
            task_id=body.task_id,
        )
        return TaskCall(task, body.args or (), body.kwargs or {}, options, attempt)


class TaskItem:
    """`GET /v1/tasks/{id}`, which may wait for its end, and `DELETE /v1/tasks/{id}`."""

    _wait = Query(WaitQuery)
    _revoke = Query(RevokeQuery)

    def __init__(
        self, long_polls: LongPolls, sender: TaskSender, tasks: Mapping[str, Task[..., Any]], threads: Threads
    ) -> None:
        self._long_polls = long_polls
        self._sender = sender
        self._tasks = tasks
        self._threads = threads

    @Operation(
        "Read a task, or wait for its end",
        tag="tasks",
        scope="tasks:read",
        query=_wait,
        answers={200: Answer("As it has ended, or as it stands once the time to wait is up.", TaskBody)},
        errors=(TaskNotFound, BrokerUnavailable),
    )
    async def on_get(self, req: Request, resp: Response, id: TaskId) -> None:  # noqa: A002 - as the path calls it
        wait_s = self._wait.read(req).wait
        state = await self._long_polls.state(checked(id), wait_s, lambda: client_gone(req))
        resp.data = msgspec.json.encode(task_json(state))

    @Operation(
        "Revoke a task",
        tag="tasks",
        scope="tasks:write",
        query=_revoke,
        answers={200: Answer("What came of that.", RevokeOutcome)},
        errors=(TaskNotFound, TaskConflict, BrokerUnavailable),
    )
    async def on_delete(self, req: Request, resp: Response, id: TaskId) -> None:  # noqa: A002
        terminate = self._revoke.read(req).terminate == "true"
        outcome = await self._threads.run(self._revoked, checked(id), terminate)
        resp.data = msgspec.json.encode({"outcome": outcome})

    def _revoked(self, task_id: str, terminate: bool) -> str:
        check_public(self._tasks, self._sender.engine.look_up(task_id).task)
        return self._sender.revoke(task_id, terminate=terminate)


class TaskResult:
    """`GET /v1/tasks/{id}/result`: also one that is too large for the task itself."""

    def __init__(self, look_ups: Batches[str, TaskState], payloads: Payloads, downloads: Downloads) -> None:
        self._look_ups = look_ups
        self._payloads = payloads
        self._downloads = downloads

    @Operation(
        "Read what a task has returned",
        tag="tasks",
        scope="tasks:read",
        answers={200: Answer("Just that.", Any)},
        errors=(TaskNotFound, BrokerUnavailable, StoreUnavailable),
    )
    async def on_get(self, req: Request, resp: Response, id: TaskId) -> None:  # noqa: A002
        query(req, ())
        state = await self._look_ups.do(checked(id))
        if state.state is not State.SUCCESS:
            raise TaskNotFound(f"{id} has no result: {state.state}")
        if state.stored is None:
            resp.data = msgspec.json.encode(state.result)
            return
        try:
            await self._downloads.begin(req, resp, self._payloads.open, state.stored)
        except PayloadMissing as error:
            raise TaskNotFound(f"the result of {id} is gone") from error


class TaskRetry:
    """`POST /v1/tasks/{id}/retry`, and `POST /v1/dead/{id}/retry`, which is the same."""

    def __init__(self, dead_letters: DeadLetters, threads: Threads) -> None:
        self._dead_letters = dead_letters
        self._threads = threads

    @Operation(
        "Do a task that has failed again, as a new one",
        tag="tasks",
        scope="tasks:write",
        answers={202: Answer("The new task; asked again, as it stands then.", TaskBody, headers=("Location",))},
        errors=(TaskNotFound, TaskConflict, BrokerUnavailable, StoreUnavailable),
    )
    async def on_post(self, req: Request, resp: Response, id: TaskId) -> None:  # noqa: A002
        query(req, ())
        accept(resp, await self._threads.run(self._dead_letters.retry, checked(id)))


def accept(resp: Response, state: TaskState) -> None:
    resp.status = falcon.HTTP_202
    resp.location = address_of(state.id)
    resp.data = msgspec.json.encode(task_json(state))


def checked(task_id: TaskId) -> TaskId:
    if not is_task_id(task_id):
        raise TaskNotFound(f"a task's id is {TASK_ID_IS}; this is none")
    return task_id


def chosen(routes: Routes, queue: QueueName | None) -> Sequence[str]:
    """The queues that a list is of."""
    if queue is None:
        return routes.queues
    if queue not in routes.queues:
        raise InvalidInput(FieldError("queue", f"there is no such queue; there are: {', '.join(routes.queues)}"))
    return (queue,)


def _no_such_task(tasks: Mapping[str, Task[..., Any]], task: Task[..., Any] | None) -> FieldError:
    public = ", ".join(each.name for each in tasks.values() if each.is_public)
    what = "there is no such task" if task is None else INTERNAL.format(task.name)
    return FieldError("task", f"{what}; tasks that can be sent: {public}")
