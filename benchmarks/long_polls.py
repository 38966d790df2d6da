"""Two thousand requests that wait for the end of a task, on one API process: what they take, and how soon all know."""

import asyncio
import time
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import uvloop

from benchmarks.load import Connection, connect
from benchmarks.report import RUNS, head, line, percentile, scratch
from run import redis_program
from shared.services import for_callers
from shared.tasks.catalog import print_message
from shared.tasks.sender import Sending, TaskSender
from tests.support.api import settings_in
from tests.support.api_server import ApiServer
from tests.support.redis_server import PrivateRedis

WAITING = 2_000
FAR = timedelta(hours=1)
SETTLED_S = 2


class Figures(NamedTuple):
    """Memory over an idle process; from the end to the answers."""

    mib: float
    median_ms: float
    last_ms: float


def main() -> None:
    head(f"{WAITING:,} times GET /v1/tasks/{{id}}?wait=25 on one API process, the client on the same machine")
    for what, tasks in (("one task", 1), (f"{WAITING:,} tasks that end together", WAITING)):
        runs = [measure(tasks) for _ in range(RUNS)]
        line(f"{what}: memory over idle", [run.mib for run in runs], "MiB", to_reach="<= 60")
        line(f"{what}: from the end to the median answer", [run.median_ms for run in runs], "ms")
        line(f"{what}: from the end to the last answer", [run.last_ms for run in runs], "ms", to_reach="<= 250")


def measure(tasks: int) -> Figures:
    """The tasks are due in an hour, and end by being cancelled."""
    folder = scratch()
    redis = PrivateRedis(redis_program())
    try:
        with ApiServer(folder, redis.url) as server:
            services = for_callers(settings_in(folder, redis.url))
            return uvloop.run(_measure(server, services.sender, tasks))
    finally:
        redis.close()


async def _measure(server: ApiServer, sender: TaskSender, tasks: int) -> Figures:
    ids = sender.send_many([Sending(print_message, ("hello",), due=FAR) for _ in range(tasks)])
    done = asyncio.get_running_loop().create_future()
    answered_at: list[float] = []

    def answered(_connection: Connection, status: int, body: bytes) -> None:
        assert status == 200 and b'"REVOKED"' in body, body
        answered_at.append(time.perf_counter())
        if len(answered_at) == WAITING:
            done.set_result(None)

    worker = server.worker_pid()
    idle = resident_mib(worker)
    connections = [await connect("127.0.0.1", server.port, answered) for _ in range(WAITING)]
    for number, connection in enumerate(connections):
        path = f"/v1/tasks/{ids[number % tasks]}?wait=25"
        request = f"GET {path} HTTP/1.1\r\nHost: api\r\nAuthorization: Bearer {server.key}\r\n\r\n"
        connection.send(request.encode(), 0.0)
    await asyncio.sleep(SETTLED_S)
    waiting = resident_mib(worker)
    ended_at = time.perf_counter()
    await asyncio.to_thread(sender.engine.cancel, ids)
    await done
    for connection in connections:
        connection.transport.close()
    latencies = sorted(1000 * (at - ended_at) for at in answered_at)
    return Figures(waiting - idle, percentile(latencies, 50), latencies[-1])


def resident_mib(pid: int) -> float:
    (line,) = [each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith("VmRSS")]
    return int(line.split()[1]) / 1024
