"""How many connections an API process takes, and for how long it bears with one that does not read."""

import json
import resource
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from uvicorn import Config, Server

from api.address import CONNECTIONS
from api.app import create_app
from api.keys import KeyFile
from api.server import OTHER_FILES, ApiProtocol
from shared.services import for_callers
from tests.support.api import settings_in
from tests.support.parts import ROOT
from tests.support.redis_server import PrivateRedis
from tests.support.waiting import eventually

WITHIN_S = 10

ASK = """
import resource
from api.server import connections_allowed
print(connections_allowed(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def allowed(soft: int, hard: int) -> list[int]:
    """Connections, and the limit of open files afterwards, of a process with these limits."""
    if 0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[1] < hard:
        pytest.skip("the hard limit is too low here")
    asked = subprocess.run(
        ["sh", "-c", f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$0" -c "$1"', sys.executable, ASK],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return [int(number) for number in asked.stdout.splitlines()[-1].split()]


@pytest.mark.parametrize(
    ("soft", "hard", "connections", "files"),
    [
        (1_024, 12_000, CONNECTIONS, CONNECTIONS + OTHER_FILES),
        (11_000, 12_000, CONNECTIONS, 11_000),
        (1_024, 4_096, 4_096 - OTHER_FILES, 4_096),
        (256, 256, 1, 256),
    ],
)
def test_the_limit_of_open_files_is_raised_as_far_as_it_may_be(
    soft: int, hard: int, connections: int, files: int
) -> None:
    """Never lowered; where it is too low there are fewer connections."""
    assert allowed(soft, hard) == [connections, files]


class Impatient(ApiProtocol):
    """As deployed, for a test that cannot wait."""

    read_within_s = 0.3


@contextmanager
def served(app: Any, limit: int | None = None) -> Iterator[tuple[int, Collection[object]]]:
    """The port at which a thread serves an application, and its connections."""
    config = Config(app, http=Impatient, loop="uvloop", log_config=None, limit_concurrency=limit)
    server = Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            eventually(lambda: server.started, what="the start")
            yield int(listening.getsockname()[1]), server.server_state.connections
        finally:
            server.should_exit = True
            thread.join(WITHIN_S)
            assert not thread.is_alive()


def connected(port: int) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    client.settimeout(WITHIN_S)
    client.connect(("127.0.0.1", port))
    return client


def test_one_connection_too_many_is_told_so(tmp_path: Path, redis_server: PrivateRedis) -> None:
    """A problem like any other, with an id that the log has; once others have left, there is room."""
    settings = settings_in(tmp_path, redis_server.url)
    KeyFile(str(settings.keys))
    services = for_callers(settings)
    ask = b"GET /v1/exams HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine\r\n\r\n"
    with served(create_app(services), limit=3) as (port, _):
        with ExitStack() as stack:
            clients = [stack.enter_context(connected(port)) for _ in range(3)]
            for client in clients:
                client.sendall(ask)
                assert client.recv(65_536).startswith(b"HTTP/1.1 401 ")
            head, _, body = answer_to(stack.enter_context(connected(port)), ask).partition(b"\r\n\r\n")
        lines = head.decode().lower().split("\r\n")
        assert lines[0] == "http/1.1 503 service unavailable"
        assert {"x-request-id: mine", "retry-after: 1", "connection: close"} <= set(lines)
        assert "content-type: application/problem+json" in lines
        assert json.loads(body)["type"] == "urn:invigil:problem:unavailable"

        def is_taken() -> bool:
            with connected(port) as client:
                client.sendall(ask)
                return client.recv(65_536).startswith(b"HTTP/1.1 401 ")

        eventually(is_taken, what="room")
    services.redis.close()


def answer_to(client: socket.socket, request: bytes) -> bytes:
    """All of it, until the server hangs up."""
    client.sendall(request)
    answer = b""
    while part := client.recv(65_536):
        answer += part
    return answer


@pytest.mark.parametrize("parts", [1, 400])
def test_who_reads_nothing_is_hung_up_on(parts: int) -> None:
    """Whether an answer comes as a whole or in parts. Whoever reads slowly is borne with, and gets all of it."""
    whole = b"x" * 64 * 1024 * 400

    async def app(
        scope: Mapping[str, Any],
        _receive: object,
        send: Callable[[Mapping[str, Any]], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(whole))]})
        size = len(whole) // parts
        for begin in range(0, len(whole), size):
            part = whole[begin : begin + size]
            await send({"type": "http.response.body", "body": part, "more_body": begin + size < len(whole)})

    ask = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with served(app) as (port, connections):
        with connected(port) as client:
            client.sendall(ask)
            assert client.recv(1)
            eventually(lambda: not connections, what="the end of the connection")
            assert len(answer_to(client, b"")) < len(whole)
        with connected(port) as client:
            client.sendall(ask)
            received, pause = 0, Event()
            while part := client.recv(1024 * 1024):
                received += len(part)
                if received < 2_000_000:
                    pause.wait(0.01)
            assert received > len(whole)
