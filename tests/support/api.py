"""The API in this process, called as a server would call it, on real services."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from falcon.testing import ASGIConductor, Result

from api.app import create_app
from api.keys import SCOPES, KeyFile
from shared.clock import Clock
from shared.services import Services, for_callers
from shared.settings import Settings
from shared.tasks.catalog import CATALOG
from shared.tasks.task import Task
from tests.support.tasks import TasksInRedis


def settings_in(folder: Path, redis_url: str, **more: str) -> Settings:
    """Store and keys below `folder`; `more` are variables without their INVIGIL_."""
    values = {"STORE": f"file://{folder}/store", "KEYS": f"{folder}/keys.json", "REDIS_URL": redis_url} | more
    return Settings.from_environ({f"INVIGIL_{name}": value for name, value in values.items()})


class Request(NamedTuple):
    """`key` is an API key's text, or None for none; left out, it is one that may do everything."""

    method: str
    path: str
    json: object = None
    body: bytes | None = None
    headers: Mapping[str, str] | None = None
    key: str | None = ""


class TimedAnswer(NamedTuple):
    answer: Result
    took_s: float


class Staying:
    """Clients that wait for their answer: Falcon's leave as soon as they have sent their request."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        async def receive_from_staying() -> Any:
            event = await receive()
            if event["type"] == "http.disconnect":
                await asyncio.get_running_loop().create_future()
            return event

        await self._app(scope, receive_from_staying, send)


class Api:
    """Up within its `with`."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock | None = None,
        tasks: Sequence[Task[..., Any]] = tuple(CATALOG.values()),
    ) -> None:
        self.services: Services = for_callers(settings, clock, tasks)
        self.tasks = TasksInRedis(self.services.redis, settings.namespace)
        self.keys = KeyFile(str(settings.keys))
        self._key = self.keys.new("tests", SCOPES, self.services.clock.now(), lifetime=None)
        self._conductor = ASGIConductor(Staying(create_app(self.services)))
        self._runner = asyncio.Runner()

    def __enter__(self) -> "Api":
        self._runner.run(self._conductor.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(self._conductor.__aexit__(kind, error, trace))
        self._runner.close()
        self.services.redis.close()

    def call(self, method: str, path: str, json: object = None, **more: Any) -> Result:
        """`more` as in Request."""
        return self._runner.run(self._answer(Request(method, path, json, **more))).answer

    def call_together(self, requests: Sequence[Request]) -> list[TimedAnswer]:
        """All at once, each with the seconds that its own answer took."""

        async def all_of_them() -> list[TimedAnswer]:
            return await asyncio.gather(*map(self._answer, requests))

        return self._runner.run(all_of_them())

    async def _answer(self, request: Request) -> TimedAnswer:
        headers = dict(request.headers or {})
        if request.key is not None:
            headers.setdefault("Authorization", f"Bearer {request.key or self._key}")
        if request.json is not None or request.body:
            headers.setdefault("Content-Type", "application/json")
        began = time.monotonic()
        answer = await self._conductor.simulate_request(
            request.method, request.path, json=request.json, body=request.body, headers=headers
        )
        return TimedAnswer(answer, time.monotonic() - began)

    def start(self, **fields: object) -> dict[str, Any]:
        """A new exam as it was answered."""
        answer = self.call("POST", "/v1/exams", json=fields)
        assert answer.status_code == 201, answer.text
        return dict(answer.json)

    def state(self) -> tuple[dict[str, bytes], dict[bytes, bytes]]:
        """Every file of the store and every key in Redis, with what it holds."""
        root, client = Path(str(self.services.settings.store)), self.services.redis
        files = {str(path): path.read_bytes() if path.is_file() else b"" for path in root.rglob("*")}
        return files, {key: client.dump(key) or b"" for key in client.scan_iter()}


def problem_of(answer: Result, status: int, kind: str) -> dict[str, Any]:
    """The problem that an answer is; fails the test where it is none, or another."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = dict(answer.json)
    assert problem["status"] == status
    assert problem["type"] == f"urn:invigil:problem:{kind}"
    assert problem["title"] and problem["detail"]
    return problem


def messages_of(problem: Mapping[str, Any]) -> dict[str, str]:
    """What a problem says of each bad field."""
    return {error["field"]: error["message"] for error in problem["errors"]}
