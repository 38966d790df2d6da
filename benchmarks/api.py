"""Starts and results over REST on the whole system: 2 API processes, workers running, full durability."""

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.load import Load, closed_loop, open_loop
from benchmarks.report import RUNS, head, line, percentile, scratch
from tests.support.running_system import RunningSystem

CONNECTIONS = 16
SECONDS = 8.0
WARM_UP_S = 3.0  # the first 4,096 candidates each need a folder made
STEADY_PER_S = 1000.0  # well below what it can do: how long a lone candidate waits
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Figures(NamedTuple):
    per_s: float
    p99_ms: float
    cpu_ms: float


def main() -> None:
    head(f"The API: {CONNECTIONS} connections, 2 API processes, everything on one machine with the load's client")
    runs: dict[str, list[Figures]] = {}
    for _ in range(RUNS):
        system = RunningSystem(scratch())
        try:
            for what, figures in measure(system).items():
                runs.setdefault(what, []).append(figures)
        finally:
            system.close()
    for what, several in runs.items():
        line(f"{what}: answered", [run.per_s for run in several], "/s", higher_is_better=True)
        line(f"{what}: p99", [run.p99_ms for run in several], "ms")
        line(f"{what}: CPU of the API", [run.cpu_ms for run in several], "ms each")


def measure(system: RunningSystem) -> dict[str, Figures]:
    api = Api(system)
    api.run(lambda: closed_loop(*api.address, api.starts(), CONNECTIONS, WARM_UP_S), 201)
    starts = api.run(lambda: closed_loop(*api.address, api.starts(), CONNECTIONS, SECONDS), 201)
    pks = iter([json.loads(body)["pk"] for body in starts.bodies])
    started = api.figures
    api.run(lambda: closed_loop(*api.address, api.results(pks), CONNECTIONS, SECONDS), 200)
    resulted = api.figures
    api.run(lambda: open_loop(*api.address, api.starts(), 64, STEADY_PER_S, SECONDS), 201)
    return {
        "POST /v1/exams": started,
        "PUT result": resulted,
        f"POST /v1/exams, open loop at {STEADY_PER_S:.0f}/s": api.figures,
    }


class Api:
    """Requests as bytes, and what they cost the API's processes."""

    def __init__(self, system: RunningSystem) -> None:
        host, _, port = system.bind.partition(":")
        self.address = (host, int(port))
        self._system = system
        self._authorization = f"Authorization: Bearer {(system.var / 'dev-key').read_text()}\r\n"

    def run(self, load: Callable[[], Load], expected: int) -> Load:
        before = self._cpu_s()
        done = load()
        count = len(done.latencies_s)
        assert set(done.statuses) == {expected}, done.statuses
        self.figures = Figures(
            per_s=count / done.took_s,
            p99_ms=1000 * percentile(done.latencies_s, 99),
            cpu_ms=1000 * (self._cpu_s() - before) / count,
        )
        return done

    def starts(self) -> Iterator[bytes]:
        for number in itertools.count():
            yield self._request("POST", "/v1/exams", {"candidate": f"candidate {time.time_ns()} {number}"})

    def results(self, pks: Iterator[str]) -> Iterator[bytes]:
        for pk in pks:
            yield self._request("PUT", f"/v1/exams/{pk}/result", {"status": "pass"})

    def _request(self, method: str, path: str, body: object) -> bytes:
        data = json.dumps(body)
        head = f"{method} {path} HTTP/1.1\r\nHost: api\r\n{self._authorization}Content-Type: application/json\r\n"
        return f"{head}Content-Length: {len(data)}\r\n\r\n{data}".encode()

    def _cpu_s(self) -> float:
        """User and system time of the API's processes so far."""
        spent = 0.0
        for pid in self._system.pids("gunicorn"):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            spent += (int(fields[11]) + int(fields[12])) * TICK_S
        return spent
