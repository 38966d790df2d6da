"""Dead letters over REST: tasks that have failed for good, to be sent again or thrown away."""

from typing import Literal

import msgspec
from falcon.asgi import Request, Response

from api.bodies import Query, query
from api.cursors import CursorText, cursor_of, cursor_text
from api.listing import DEFAULT_LIMIT, Limit
from api.operations import Answer, Operation
from api.resources.tasks import QueueName, checked, chosen
from api.task_json import TaskId, TaskList, task_json
from api.threads import Threads
from shared.errors import BrokerUnavailable, TaskNotFound
from shared.tasks.dead_letters import DeadLetters
from shared.tasks.listing import TaskLists, TaskQuery
from shared.tasks.routes import Routes


class DeadQuery(msgspec.Struct, kw_only=True):
    """Which dead letters to list, the last one first."""

    queue: QueueName | None = None
    cursor: CursorText | None = None
    limit: Limit = DEFAULT_LIMIT


class DiscardOutcome(msgspec.Struct):
    """Its message is gone; how the task has ended stays known."""

    outcome: Literal["discarded"]


class DeadCollection:
    """`GET /v1/dead`."""

    _query = Query(DeadQuery)

    def __init__(self, lists: TaskLists, routes: Routes, threads: Threads) -> None:
        self._lists = lists
        self._routes = routes
        self._threads = threads

    @Operation(
        "List tasks that have failed for good and whose messages are kept, the last one first",
        tag="tasks",
        scope="tasks:read",
        query=_query,
        answers={200: Answer("A page, which may be short.", TaskList)},
        errors=(BrokerUnavailable,),
    )
    async def on_get(self, req: Request, resp: Response) -> None:
        asked = self._query.read(req)
        queues = chosen(self._routes, asked.queue)
        wanted = TaskQuery(limit=asked.limit, after=cursor_of(asked.cursor))
        page = await self._threads.run(self._lists.dead_letters, queues, wanted)
        resp.data = msgspec.json.encode(TaskList([task_json(state) for state in page.states], cursor_text(page)))


class DeadItem:
    """`DELETE /v1/dead/{id}`."""

    def __init__(self, dead_letters: DeadLetters, threads: Threads) -> None:
        self._dead_letters = dead_letters
        self._threads = threads

    @Operation(
        "Throw a dead letter away, an internal task's too",
        tag="tasks",
        scope="tasks:write",
        answers={200: Answer("It is gone.", DiscardOutcome)},
        errors=(TaskNotFound, BrokerUnavailable),
    )
    async def on_delete(self, req: Request, resp: Response, id: TaskId) -> None:  # noqa: A002 - as the path calls it
        query(req, ())
        await self._threads.run(self._dead_letters.discard, checked(id))
        resp.data = msgspec.json.encode(DiscardOutcome("discarded"))
