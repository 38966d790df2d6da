"""A supervisor that may be hurt, with workers that may be: they run engine_worker's tasks, and beat.

`python -m tests.support.supervised supervisor <max> <min> <command that starts a worker>`
`python -m tests.support.supervised worker <threads> <journal> <seconds to stop within>`
"""

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import structlog
from dramatiq import Worker

from shared.logs import configure_logs
from shared.pulse import Pulse
from shared.settings import Settings
from tests.support.engine_worker import QUEUE, Journal, broker_at
from tests.support.parts import Part
from tests.support.waiting import eventually
from worker.__main__ import LOOK_EVERY, STOP_WITHIN, Orders, watch
from worker.scaling import Bounds
from worker.supervisor import supervise

PROGRAM = "tests.support.supervised"
NAMESPACE = "engine"  # of engine_worker's keys
THREADS = 4
END_WITHIN_S = 35.0


class Supervised(Part):
    """A supervisor in a process of its own. `command` starts each of its workers, unless they are to run tasks; these
    stop within `stop_within_s`.
    """

    def __init__(
        self,
        folder: Path,
        redis_url: str,
        bounds: Bounds,
        *command: str,
        stop_within_s: float = STOP_WITHIN.total_seconds(),
    ) -> None:
        journal, self.pulse = folder / "journal", folder / "pulse"
        self.journal = Journal(journal)
        values = {"REDIS_URL": redis_url, "NAMESPACE": NAMESPACE, "PULSE_FILE": str(self.pulse)}
        environ = {f"INVIGIL_{name}": value for name, value in values.items()} | {"TMPDIR": str(folder)}
        works = (sys.executable, "-m", PROGRAM, "worker", str(THREADS), str(journal), str(stop_within_s))
        worker = command or works
        super().__init__(folder, PROGRAM, "supervisor", str(bounds.most), str(bounds.fewest), *worker, environ=environ)

    def __enter__(self) -> "Supervised":
        return self

    def __exit__(self, *_error: object) -> None:
        """Leaves no worker behind either, whatever state they are in."""
        workers = self.workers()
        self.kill()
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def wait_for_workers(self, number: int) -> list[int]:
        """Until so many serve, and their processes."""
        eventually(lambda: len(self.logged("worker_serves")) >= number, END_WITHIN_S, f"{number} workers that serve")
        return self.workers()

    def workers(self) -> list[int]:
        """Its processes, those that drain included; none when it has ended."""
        try:
            return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        except OSError:
            return []

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The fields of each of these events."""
        lines = [json.loads(line) for line in self.errors().splitlines() if line.startswith("{") and line.endswith("}")]
        return [line for line in lines if line["event"] == event]

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> int:
        """As `wait`, after SIGTERM."""
        self._process.terminate()
        return self.wait()

    def wait(self, within_s: float = END_WITHIN_S) -> int:
        """Its status, once its workers have ended their work."""
        return self._process.wait(within_s)


def is_there(pid: int) -> bool:
    """A process, or what is left of one that nobody has waited for."""
    return Path(f"/proc/{pid}").exists()


def supervise_here(most: str, fewest: str, *command: str) -> None:
    settings, orders = _begin("supervisor")
    supervise(settings, command, [QUEUE], THREADS, Bounds(int(most), int(fewest)), orders.to_stop)


def work_here(threads: str, journal: str, stop_within_s: str) -> None:
    settings, orders = _begin("worker")
    broker = broker_at(settings.redis_url, Journal(Path(journal)))
    worker = Worker(broker, worker_threads=int(threads))
    pulse = Pulse(settings.pulse_file)
    pulse.beat()
    worker.start()
    structlog.get_logger(__name__).info("worker_serves")
    watch(worker, broker.lifecycle.booted, orders, pulse, LOOK_EVERY)
    worker.stop(timeout=int(1000 * float(stop_within_s)))


def _begin(process: str) -> tuple[Settings, Orders]:
    orders = Orders()
    orders.listen()
    configure_logs("json", process)
    return Settings.from_environ(os.environ), orders


if __name__ == "__main__":
    if sys.argv[1] == "supervisor":
        supervise_here(*sys.argv[2:])
    else:
        work_here(*sys.argv[2:])
