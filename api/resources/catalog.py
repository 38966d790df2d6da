"""What there is to run tasks, over REST: the catalog, its queues, the workers."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

import msgspec
from falcon.asgi import Request, Response

from api.bodies import query
from api.fields import Instant
from api.operations import Answer, Operation
from api.threads import Threads
from shared.broker.engine import Engine, QueueStats
from shared.broker.registry import WorkerProcess
from shared.clock import rfc3339, seconds
from shared.errors import BrokerUnavailable
from shared.tasks.routes import Routes
from shared.tasks.task import Task

Seconds = Annotated[int | float, msgspec.Meta(description="seconds")]


class TaskDeclaration(msgspec.Struct):
    """A task that can be sent, or only looked at where it is not `public`."""

    name: str
    description: str
    public: bool
    queue: str
    priority: int
    retries: int
    autoretry_for: Annotated[list[str], msgspec.Meta(description="names of the errors after which it is tried again")]
    min_backoff: Seconds
    max_backoff: Seconds
    soft_time_limit: Seconds | None
    time_limit: Seconds | None
    arguments: Annotated[dict[str, Any], msgspec.Meta(description="JSON Schema of its arguments, by name, in order")]


class Declarations(msgspec.Struct):
    """All of them."""

    items: list[TaskDeclaration]
    next_cursor: None


class QueueBody(msgspec.Struct):
    """How much waits and runs. `due`: later; `running`: what workers hold; `dead`: messages of failed tasks."""

    name: str
    ready: int
    ready_by_priority: Annotated[list[int], msgspec.Meta(description="from 0 to 9", min_length=10, max_length=10)]
    alone: Annotated[int, msgspec.Meta(description="of those ready, what runs with nothing beside it")]
    due: int
    running: int
    dead: int
    oldest_ready_s: Annotated[Seconds | None, msgspec.Meta(description="how long the first one ready has waited")]
    next_due_s: Annotated[Seconds | None, msgspec.Meta(description="until the next one is due")]


class QueueList(msgspec.Struct):
    """All of them."""

    items: list[QueueBody]
    next_cursor: None


class WorkerBody(msgspec.Struct):
    """A worker process that has been heard of lately."""

    id: str
    host: str
    pid: int
    kind: Literal["threads", "gevent"]
    queues: list[str]
    threads: Annotated[int, msgspec.Meta(description="how many tasks it runs at once")]
    running: Annotated[int, msgspec.Meta(description="how many it ran when it was heard of")]
    started_at: Instant
    seen_at: Instant


class WorkerList(msgspec.Struct):
    """All of them."""

    items: list[WorkerBody]
    next_cursor: None


class Catalog:
    """`GET /v1/catalog`."""

    def __init__(self, tasks: Mapping[str, Task[..., Any]], routes: Routes) -> None:
        items = [_declaration(task, routes.queue_of(task)) for task in tasks.values()]
        self._data = msgspec.json.encode(Declarations(items, None))

    @Operation(
        "List what tasks there are, and what they take",
        tag="tasks",
        scope="tasks:read",
        answers={200: Answer("All of them.", Declarations)},
    )
    async def on_get(self, req: Request, resp: Response) -> None:
        query(req, ())
        resp.data = self._data


class Queues:
    """`GET /v1/queues`."""

    def __init__(self, engine: Engine, routes: Routes, threads: Threads) -> None:
        self._engine = engine
        self._routes = routes
        self._threads = threads

    @Operation(
        "List the queues, and how much waits and runs",
        tag="tasks",
        scope="tasks:read",
        answers={200: Answer("All of them.", QueueList)},
        errors=(BrokerUnavailable,),
    )
    async def on_get(self, req: Request, resp: Response) -> None:
        query(req, ())
        stats = await self._threads.run(self._engine.stats, self._routes.queues)
        resp.data = msgspec.json.encode(QueueList([_queue(name, each) for name, each in stats.items()], None))


class Workers:
    """`GET /v1/workers`."""

    def __init__(self, engine: Engine, threads: Threads) -> None:
        self._engine = engine
        self._threads = threads

    @Operation(
        "List the worker processes that live, the longest-lived first",
        tag="tasks",
        scope="tasks:read",
        answers={200: Answer("All of them.", WorkerList)},
        errors=(BrokerUnavailable,),
    )
    async def on_get(self, req: Request, resp: Response) -> None:
        query(req, ())
        workers = await self._threads.run(self._engine.workers)
        resp.data = msgspec.json.encode(WorkerList([_worker(worker) for worker in workers], None))


def _declaration(task: Task[..., Any], queue: str) -> TaskDeclaration:
    return TaskDeclaration(
        name=task.name,
        description=task.description,
        public=task.is_public,
        queue=queue,
        priority=task.priority,
        retries=task.max_retries,
        autoretry_for=[error.__qualname__ for error in task.autoretry_for],
        min_backoff=seconds(task.min_backoff),
        max_backoff=seconds(task.max_backoff),
        soft_time_limit=_seconds(task.soft_time_limit),
        time_limit=_seconds(task.time_limit),
        arguments=_schema(task),
    )


def _schema(task: Task[..., Any]) -> dict[str, Any]:
    """Of an object with the arguments by name. What may be left out has no default in it."""
    schema = msgspec.json.schema(task.arguments.struct)
    own: dict[str, Any] = schema["$defs"].pop(schema["$ref"].rpartition("/")[2])
    others = {"$defs": schema["$defs"]} if schema["$defs"] else {}
    return {**own, "additionalProperties": False, **others}


def _queue(name: str, stats: QueueStats) -> QueueBody:
    return QueueBody(
        name=name,
        ready=sum(stats.ready) + stats.alone,
        ready_by_priority=stats.ready,
        alone=stats.alone,
        due=stats.due + stats.overdue,
        running=stats.leased,
        dead=stats.dead,
        oldest_ready_s=_seconds(stats.oldest_ready),
        next_due_s=_seconds(stats.next_due),
    )


def _worker(worker: WorkerProcess) -> WorkerBody:
    said = msgspec.structs.asdict(worker.said)
    return WorkerBody(id=worker.id, started_at=rfc3339(worker.started_at), seen_at=rfc3339(worker.seen_at), **said)


def _seconds(duration: timedelta | None) -> int | float | None:
    return None if duration is None else seconds(duration)
