"""Large results to clients that take their time, or never read: they cost little, and nobody else waits for them."""

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from api.downloads import DOWNLOADS
from tests.support.api_server import ApiServer
from tests.support.redis_server import PrivateRedis
from tests.support.rest import call
from tests.support.task_bodies import blob
from tests.support.task_system import task_system
from tests.support.waiting import eventually

SIZE = 8 * 1024 * 1024  # more than the kernel holds for a connection
ANSWER_WITHIN_S = 10


@pytest.fixture
def server(tmp_path: Path, redis_server: PrivateRedis) -> Iterator[ApiServer]:
    """With a result of the task `large`."""
    with task_system(redis_server, tmp_path) as system:
        with system.worker():
            blob.apply_async((SIZE,), task_id="large").get(timeout=20)
        with ApiServer(tmp_path, redis_server.url) as server:
            yield server


def asking(server: ApiServer) -> socket.socket:
    """A client that has asked for the result, and has not read any of it."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    client.settimeout(ANSWER_WITHIN_S)
    client.connect(("127.0.0.1", server.port))
    client.sendall(server.request("GET", "/v1/tasks/large/result"))
    return client


def received(client: socket.socket) -> bytes:
    answer = b""
    while part := client.recv(1024 * 1024):
        answer += part
    return answer


def files_open(server: ApiServer) -> int:
    """Of results, in the process that answers."""
    names = []
    for descriptor in Path(f"/proc/{server.worker_pid()}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            names.append(os.readlink(descriptor))
    return sum("/payloads/" in name for name in names)


def test_who_does_not_read_takes_neither_files_nor_turns_from_others(server: ApiServer) -> None:
    """So many results at once, a 503 for the next one before its first byte; each is whole when it is read after all,
    and there is room again.
    """
    address = f"127.0.0.1:{server.port}"
    with ExitStack() as stack:
        clients = [stack.enter_context(asking(server)) for _ in range(DOWNLOADS)]
        eventually(lambda: files_open(server) == DOWNLOADS, what="all under way")
        head, _, body = received(stack.enter_context(asking(server))).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ") and b"x-request-id: " in head and b"retry-after: " in head
        assert json.loads(body)["detail"] == "too many large results are being sent"
        for method, path in (("POST", "/v1/exams"), ("GET", "/v1/exams"), ("GET", "/v1/tasks"), ("GET", "/livez")):
            assert call(address, server.key, method, path).status in (200, 201)
        whole = received(clients[0]).partition(b"\r\n\r\n")[2]
        assert whole == b'"' + b"x" * SIZE + b'"'
    eventually(lambda: files_open(server) == 0, what="the end of those whose clients have left")
    with asking(server) as client:
        assert received(client).startswith(b"HTTP/1.1 200 ")
    assert [line for line in server.log() if line["level"] == "error"] == []
