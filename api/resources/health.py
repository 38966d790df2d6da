"""Health over REST, for orchestrators and load balancers; needs no key."""

import falcon
import msgspec
from falcon.asgi import Request, Response

from api.health import HealthCheck
from api.threads import Threads


class Alive:
    """`GET /livez` and `GET /startupz`: the process answers; it has proved its store before it began to."""

    scopes = None

    async def on_get(self, _req: Request, resp: Response) -> None:
        resp.data = b'{"status":"ok"}'


class Ready:
    """`GET /readyz`: 200 where exams can be started, else 503; either way each dependency and its state."""

    scopes = None

    def __init__(self, check: HealthCheck, threads: Threads) -> None:
        self._check = check
        self._threads = threads

    async def on_get(self, _req: Request, resp: Response) -> None:
        health = await self._threads.run(self._check.look)
        resp.status = falcon.HTTP_200 if health.is_ready else falcon.HTTP_503
        status = "ready" if health.is_ready else "unready"
        resp.data = msgspec.json.encode({"status": status, "checks": health.checks})
