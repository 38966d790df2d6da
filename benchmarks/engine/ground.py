"""What the engine's benchmarks stand on: a Redis of their own, processes beside it, and what both take."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.report import scratch
from shared.services import Services, for_callers, for_worker
from shared.settings import Settings
from tests.support.parts import ROOT, settings_of
from tests.support.redis_server import PrivateRedis
from tests.support.tools import program
from tests.support.waiting import eventually

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
END_WITHIN_S = 40.0


class Ground:
    """A Redis with an append-only file that is synced every second, and a store on this disk."""

    def __init__(self) -> None:
        self.folder = scratch()
        self.redis = PrivateRedis(program("redis-server"))
        self.client = self.redis.client()
        self.redis_pid: int = self.client.info("server")["process_id"]
        self.environ = settings_of(self.folder, self.redis.url)
        self._processes: list[Process] = []

    def __enter__(self) -> "Ground":
        return self

    def __exit__(self, *_error: object) -> None:
        for process in self._processes:
            process.kill()
        self.redis.close()

    def caller(self) -> Services:
        """As the API has them."""
        return for_callers(Settings.from_environ(self.environ))

    def loader(self) -> Services:
        """As a worker has them: for laying out what is measured later, however long Redis takes."""
        return for_worker(Settings.from_environ(self.environ))

    def process(self, *command: str, python: str = sys.executable) -> "Process":
        """`python -m command`, ended with this ground."""
        output = self.folder / f"output-{len(self._processes)}"
        process = Process([python, "-m", *command], self.environ, output)
        self._processes.append(process)
        return process

    def worker(self, threads: int, *how: str) -> "Process":
        """One that runs the benchmarks' own tasks (worker.py)."""
        process = self.process("benchmarks.engine.worker", str(threads), *how)
        process.wait_for(1, "worker-started")
        return process

    def exams_worker(self) -> "Process":
        process = self.process("worker", "--queues", "exams", "--threads", "8")
        process.wait_for_text("worker_started")
        return process

    def settled_memory(self) -> int:
        """Bytes that Redis uses, once it has resized its tables, freed its buffers and rewritten its file."""
        seen: list[int] = []

        def is_settled() -> bool:
            seen.append(self._memory())
            last = seen[-50:]  # a second's
            return len(last) == 50 and max(last) - min(last) < 2_000

        eventually(is_settled, 300, "memory that does not change")
        return seen[-1]

    def _memory(self) -> int:
        told = self.client.info("memory")
        is_busy = self.client.info("persistence")["aof_rewrite_in_progress"]
        return 0 if is_busy else int(told["used_memory"] - told["mem_aof_buffer"] - told["mem_clients_normal"])


class Process:
    """A process whose console goes into a file. Tasks tell on it, a line each: a name, and Unix time in ns."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], output: Path) -> None:
        self._output = output
        with open(output, "wb") as console:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=os.environ | dict(environ), stdout=console, stderr=subprocess.STDOUT
            )
        self.pid = self._process.pid

    def told(self, name: str = "") -> list[tuple[str, int]]:
        """What tasks have told whose name begins like this."""
        pairs = (line.split() for line in self._output.read_text(errors="replace").splitlines())
        return [(pair[0], int(pair[1])) for pair in pairs if len(pair) == 2 and pair[0].startswith(name)]

    def wait_for(self, count: int, name: str, within_s: float = 120) -> list[tuple[str, int]]:
        """So many of them."""
        eventually(lambda: self._is_alive and len(self.told(name)) >= count, within_s, f"{count} {name}")
        return self.told(name)

    def wait_for_text(self, text: str) -> None:
        eventually(lambda: self._is_alive and text in self._output.read_text(), 30, text)

    @property
    def _is_alive(self) -> bool:
        assert self._process.poll() is None, self._output.read_text(errors="replace")[-2000:]
        return True

    def resident_bytes(self) -> int:
        fields = Path(f"/proc/{self.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def end(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(END_WITHIN_S)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def cpu_s(pid: int) -> float:
    """User and system time that a process has taken so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S
