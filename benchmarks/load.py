"""Load over HTTP from one process: raw connections on uvloop, so that the client takes little of the machine."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

import uvloop


class Load(NamedTuple):
    """`latencies_s` sorted; in an open loop they count from when a request was due, not from when it was sent."""

    took_s: float
    latencies_s: list[float]
    statuses: dict[int, int]
    bodies: list[bytes]


class Connection(asyncio.Protocol):
    """One keep-alive connection that has at most one request under way."""

    def __init__(self, answered: "Callable[[Connection, int, bytes], None]") -> None:
        self._answered = answered
        self._received = b""
        self.due_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own kind

    def send(self, request: bytes, due_at: float) -> None:
        self.due_at = due_at
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) >= length:
            self._received = body[length:]
            self._answered(self, int(head[9:12]), body[:length])


async def connect(host: str, port: int, answered: Callable[[Connection, int, bytes], None]) -> Connection:
    """`answered` is told of each answer: the connection, the status, the body."""
    _, connection = await asyncio.get_running_loop().create_connection(lambda: Connection(answered), host, port)
    return connection


def closed_loop(host: str, port: int, requests: Iterator[bytes], connections: int, seconds: float) -> Load:
    """As fast as it goes: each connection sends its next request when its last is answered."""
    return uvloop.run(_closed_loop(host, port, requests, connections, seconds))


def open_loop(
    host: str, port: int, requests: Iterator[bytes], connections: int, per_second: float, seconds: float
) -> Load:
    """`per_second` requests fall due evenly, whether or not earlier ones are answered by then."""
    return uvloop.run(_open_loop(host, port, requests, connections, per_second, seconds))


class _Tally:
    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.statuses: dict[int, int] = {}
        self.bodies: list[bytes] = []
        self.began = time.perf_counter()

    def add(self, connection: Connection, status: int, body: bytes) -> None:
        self.latencies.append(time.perf_counter() - connection.due_at)
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.bodies.append(body)

    def load(self) -> Load:
        return Load(time.perf_counter() - self.began, sorted(self.latencies), self.statuses, self.bodies)


async def _closed_loop(host: str, port: int, requests: Iterator[bytes], connections: int, seconds: float) -> Load:
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    active = connections

    def send_next(connection: Connection) -> None:
        nonlocal active
        request = next(requests, None) if time.perf_counter() - tally.began < seconds else None
        if request is not None:
            connection.send(request, time.perf_counter())
            return
        active -= 1
        if active == 0:
            done.set_result(None)

    def answered(connection: Connection, status: int, body: bytes) -> None:
        tally.add(connection, status, body)
        send_next(connection)

    opened = [await connect(host, port, answered) for _ in range(connections)]
    tally = _Tally()
    for connection in opened:
        send_next(connection)
    await done
    load = tally.load()
    for connection in opened:
        connection.transport.close()
    return load


async def _open_loop(
    host: str, port: int, requests: Iterator[bytes], connections: int, per_second: float, seconds: float
) -> Load:
    idle: asyncio.Queue[Connection] = asyncio.Queue()

    def answered(connection: Connection, status: int, body: bytes) -> None:
        tally.add(connection, status, body)
        idle.put_nowait(connection)

    opened = [await connect(host, port, answered) for _ in range(connections)]
    for connection in opened:
        idle.put_nowait(connection)
    tally = _Tally()
    for number in range(int(per_second * seconds)):
        due_at = tally.began + number / per_second
        await asyncio.sleep(due_at - time.perf_counter())
        connection = await idle.get()
        connection.send(next(requests), due_at)
    while idle.qsize() < connections:
        await asyncio.sleep(0.01)
    load = tally.load()
    for connection in opened:
        connection.transport.close()
    return load
