"""A thousand tasks that sleep for a second, in one worker process of greenlets; what it takes beside threads."""

import time
from typing import NamedTuple

from benchmarks.engine.ground import Ground, Process, cpu_s
from benchmarks.engine.tasks import QUEUE, declare
from benchmarks.report import RUNS, head, line
from shared.broker.broker import TaskBroker
from shared.tasks.catalog import print_message
from shared.tasks.sender import Sending

SLEEPS = 1_000
NO_OPS = 20_000
BATCH = 1_000
SETTLED_S = 2
IDLE_S = 10
LOOK_EVERY_S = 0.01


class Sleeping(NamedTuple):
    """Resident memory in MiB, CPU as a share of one core while idle and in µs a task."""

    took_s: float
    idle_mib: float
    grown_mib: float
    idle_percent: float
    cpu_us: float


class Busy(NamedTuple):
    per_s: float
    cpu_us: float


def main() -> None:
    head(f"{SLEEPS:,} tasks that sleep for 1 s, python -m worker --pool gevent --threads {SLEEPS}")
    sleeping = [measure_sleeps() for _ in range(RUNS)]
    line("from their sending to the last end", [run.took_s for run in sleeping], "s", to_reach="< 3")
    line("memory, idle", [run.idle_mib for run in sleeping], "MiB")
    line("memory, while they sleep, over idle", [run.grown_mib for run in sleeping], "MiB")
    line("CPU, idle", [run.idle_percent for run in sleeping], "% of a core")
    line("CPU", [run.cpu_us for run in sleeping], "us each")
    head(f"{NO_OPS:,} no-op tasks that wait, one process")
    for pool, places in (("threads", 8), ("gevent", 8), ("gevent", 100), ("gevent", SLEEPS)):
        busy = [measure_no_ops(pool, places) for _ in range(RUNS)]
        line(f"{places:,} {'greenlets' if pool == 'gevent' else pool}: ended", [run.per_s for run in busy], "/s", True)
        line("CPU", [run.cpu_us for run in busy], "us each")


def measure_sleeps() -> Sleeping:
    with Ground() as ground:
        ground.environ["INVIGIL_MESSAGE_SECONDS"] = "1"
        sender = ground.loader().sender
        worker = ground.process("worker", "--queues", QUEUE, "--pool", "gevent", "--threads", str(SLEEPS))
        worker.wait_for_text("worker_started")
        time.sleep(SETTLED_S)
        idle, idle_cpu = worker.resident_bytes(), cpu_s(worker.pid)
        time.sleep(IDLE_S)
        idle_cpu = cpu_s(worker.pid) - idle_cpu
        began, cpu = time.perf_counter(), cpu_s(worker.pid)
        sender.send_many([Sending(print_message, (f"message {number}",)) for number in range(SLEEPS)])
        most = wait_until_empty(sender.broker, worker)
        took = time.perf_counter() - began
        cpu = cpu_s(worker.pid) - cpu
    return Sleeping(took, idle / 2**20, (most - idle) / 2**20, 100 * idle_cpu / IDLE_S, 1e6 * cpu / SLEEPS)


def measure_no_ops(pool: str, places: int) -> Busy:
    """From the worker's start on, by what is left then."""
    with Ground() as ground:
        broker = ground.loader().broker
        tasks = declare(broker)
        for _ in range(0, NO_OPS, BATCH):
            broker.enqueue_many([(tasks.noop.message(), None) for _ in range(BATCH)])
        launcher = ("gevent.monkey", "--module") if pool == "gevent" else ()
        worker = ground.process(*launcher, "benchmarks.engine.worker", str(places))
        worker.wait_for(1, "worker-started")
        stats = broker.engine.stats([QUEUE])[QUEUE]
        left = sum(stats.ready) + stats.leased
        began, cpu = time.perf_counter(), cpu_s(worker.pid)
        wait_until_empty(broker, worker)
        took = time.perf_counter() - began
        return Busy(left / took, 1e6 * (cpu_s(worker.pid) - cpu) / left)


def wait_until_empty(broker: TaskBroker, worker: Process) -> int:
    """The most memory that the worker has taken meanwhile."""
    most = 0
    while not broker.engine.stats([QUEUE])[QUEUE].is_empty:
        most = max(most, worker.resident_bytes())
        time.sleep(LOOK_EVERY_S)
    return most
