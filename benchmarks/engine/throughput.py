"""Tasks that do nothing: how many a second one worker process of 8 threads runs, beside stock Dramatiq and Celery."""

import subprocess
from collections.abc import Callable
from typing import NamedTuple

from dramatiq.brokers.redis import RedisBroker

from benchmarks.engine.ground import Ground, Process, cpu_s
from benchmarks.engine.tasks import Tasks, declare
from benchmarks.report import RUNS, head, line
from tests.support.parts import ROOT
from tests.support.waiting import eventually

TASKS = 50_000
THREADS = 8
BATCH = 1_000
RIVALS = ROOT / ".venv/rivals/bin/python"  # has Celery, if its installation went through
OURS, STOCK, CELERY, CELERY_STATES = "ours", "stock Dramatiq, no results", "Celery, no results", "Celery, states kept"


class Figures(NamedTuple):
    """CPU in µs a task."""

    per_s: float
    worker_cpu: float
    redis_cpu: float


def main() -> None:
    head(f"{TASKS:,} no-op tasks that wait, 1 process of {THREADS} threads")
    systems: dict[str, Callable[[Ground], Process]] = {OURS: ours, STOCK: stock}
    has_celery = RIVALS.with_name("celery").exists()
    if has_celery:
        systems |= {CELERY: celery, CELERY_STATES: celery_with_states}
    runs: dict[str, list[Figures]] = {what: [] for what in systems}
    for _ in range(RUNS):
        for what, start in systems.items():
            with Ground() as ground:
                runs[what].append(measure(ground, start(ground)))
                if what == OURS:
                    assert_states_are_kept(ground)
    for what, several in runs.items():
        goal = "≥ stock Dramatiq, aim 4,300" if what == OURS else ""
        line(f"{what}: ended", [run.per_s for run in several], "/s", higher_is_better=True, to_reach=goal)
        line(f"{what}: CPU of the worker", [run.worker_cpu for run in several], "us each")
        line(f"{what}: CPU of Redis", [run.redis_cpu for run in several], "us each")
    for what in [what for what in systems if what != OURS]:
        ratios = [one.per_s / other.per_s for one, other in zip(runs[OURS], runs[what], strict=True)]
        line(f"ours beside {what}", ratios, "times", higher_is_better=True)
    if not has_celery:
        print(f"Celery: not measured, as it is missing in {RIVALS.parent} (make bench installs it)")


def measure(ground: Ground, worker: Process) -> Figures:
    """From the begin of the first task to that of the last. CPU is read within 20 ms of both."""
    ((_, began_ns),) = worker.wait_for(1, "first")
    worker_cpu, redis_cpu = cpu_s(worker.pid), cpu_s(ground.redis_pid)
    ((_, ended_ns),) = worker.wait_for(1, "last")
    worker_cpu, redis_cpu = cpu_s(worker.pid) - worker_cpu, cpu_s(ground.redis_pid) - redis_cpu
    return Figures(1e9 * TASKS / (ended_ns - began_ns), 1e6 * worker_cpu / TASKS, 1e6 * redis_cpu / TASKS)


def ours(ground: Ground) -> Process:
    broker = ground.loader().broker
    tasks = declare(broker)
    broker.enqueue_many([(tasks.tell.message("first"), None)])
    for _ in range(0, TASKS, BATCH):
        broker.enqueue_many([(tasks.noop.message(), None) for _ in range(BATCH)])
    broker.enqueue_many([(tasks.tell.message("last"), None)])
    return ground.process("benchmarks.engine.worker", str(THREADS), "ours")


def assert_states_are_kept(ground: Ground) -> None:
    """Each task has left how it ended."""
    eventually(lambda: ground.caller().broker.engine.stats(["default"])["default"].is_empty, 10, "the last end")
    assert ground.client.dbsize() > TASKS


def stock(ground: Ground) -> Process:
    broker = RedisBroker(url=ground.redis.url)  # type: ignore[no-untyped-call]
    tasks = declare(broker)
    send_in_order(tasks)
    return ground.process("benchmarks.engine.worker", str(THREADS), "stock")


def send_in_order(tasks: Tasks) -> None:
    tasks.tell.send("first")
    for _ in range(TASKS):
        tasks.noop.send()
    tasks.tell.send("last")


def celery(ground: Ground, backend: str = "") -> Process:
    """With its threads pool; all else as Celery has it."""
    socket = f"redis+socket://{ground.redis.socket}"
    ground.environ |= {"CELERY_BROKER": socket, "CELERY_BACKEND": socket if backend else ""}
    module = "benchmarks.engine.celery_rival"
    command = [str(RIVALS), "-m", module, str(TASKS)]
    subprocess.run(command, cwd=ROOT, env=ground.environ, check=True)
    options = ["--pool", "threads", "--concurrency", str(THREADS)]
    return ground.process("celery", "-A", module, "worker", *options, python=str(RIVALS))


def celery_with_states(ground: Ground) -> Process:
    return celery(ground, "redis")
