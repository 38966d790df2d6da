"""Health over REST, for orchestrators and load balancers; needs no key."""

from typing import Literal

import falcon
import msgspec
from falcon.asgi import Request, Response

from api.health import Checks, HealthCheck
from api.operations import Answer, Operation
from api.threads import Threads
from shared.errors import Unavailable


class AliveBody(msgspec.Struct):
    """It answers."""

    status: Literal["ok"]


class HealthBody(msgspec.Struct):
    """Each dependency, and what is wrong where something is."""

    status: Literal["ready", "unready"]
    checks: Checks


class Alive:
    """`GET /livez` and `GET /startupz`: the process answers; it has proved its store before it began to."""

    @Operation("Whether the process answers", tag="health", scope=None, answers={200: Answer("It does.", AliveBody)})
    async def on_get(self, _req: Request, resp: Response) -> None:
        resp.data = msgspec.json.encode(AliveBody("ok"))


class Ready:
    """`GET /readyz`: 200 where exams can be started, else 503; either way each dependency and its state."""

    def __init__(self, check: HealthCheck, threads: Threads) -> None:
        self._check = check
        self._threads = threads

    @Operation(
        "Whether exams can be started, and the state of each dependency",
        tag="health",
        scope=None,
        answers={200: Answer("They can.", HealthBody), 503: Answer("They cannot.", HealthBody)},
        errors=(Unavailable,),
    )
    async def on_get(self, _req: Request, resp: Response) -> None:
        checks = await self._threads.run(self._check.look)
        resp.status = falcon.HTTP_200 if checks.is_ready else falcon.HTTP_503
        resp.data = msgspec.json.encode(HealthBody("ready" if checks.is_ready else "unready", checks))
