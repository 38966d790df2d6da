"""How late tasks begin that are due in seconds, beside many that are due in hours."""

import random
from collections.abc import Sequence
from datetime import datetime, timedelta

from benchmarks.engine.ground import Ground, Process
from benchmarks.engine.pending import deadlines, lay_out
from benchmarks.engine.stored_exams import start_exams, stored_after_deadline_s
from benchmarks.engine.tasks import QUEUE, Tasks, declare
from benchmarks.report import RUNS, head, line, percentile
from shared.broker.broker import TaskBroker
from shared.clock import SystemClock, to_ms

FAR = (1_000, 100_000, 1_000_000)
SHORT = 200
THREADS = 8


def main() -> None:
    head(f"Deadlines: {SHORT} due in 1 to 10 s, beside others due in 1 to 25 hours")
    for far in FAR:
        with Ground() as ground:
            services = ground.loader()
            tasks = declare(services.broker)
            lay_out(services.broker, deadlines(), far, QUEUE)
            ground.settled_memory()  # its file has been rewritten, too
            worker = ground.worker(THREADS)
            report(f"{far:,} far", [lateness_ms(services.broker, tasks, worker, run) for run in range(RUNS)])
    with Ground() as ground:
        services = ground.loader()
        lay_out(services.broker, deadlines(), FAR[-1])
        ground.settled_memory()
        ground.exams_worker()
        stored = [stored_ms(ground) for _ in range(RUNS)]
        line(f"{FAR[-1]:,} far: exams stored as absent, p50", [percentile(run, 50) for run in stored], "ms after")
        line(f"{FAR[-1]:,} far: exams stored as absent, p99", [percentile(run, 99) for run in stored], "ms after")


def report(what: str, runs: Sequence[Sequence[float]]) -> None:
    line(f"{what}: began late by, p50", [percentile(run, 50) for run in runs], "ms")
    line(f"{what}: began late by, p99", [percentile(run, 99) for run in runs], "ms", to_reach="≤ 10")
    line(f"{what}: began late by, at most", [run[-1] for run in runs], "ms")
    line(f"{what}: early", [sum(late < 0 for late in run) for run in runs], "", to_reach="0")
    line(f"{what}: missed", [SHORT - len(run) for run in runs], "", to_reach="0")


def lateness_ms(broker: TaskBroker, tasks: Tasks, worker: Process, run: int) -> list[float]:
    """Of each that has begun, sorted."""
    due = {f"run-{run}:{number}": short_deadline() for number in range(SHORT)}
    broker.enqueue_many([(tasks.tell.message(name), at) for name, at in due.items()])
    began = worker.wait_for(SHORT, f"run-{run}:", within_s=30)
    assert len(began) == len(set(began)), "a task has run twice"
    return sorted(at_ns / 1e6 - to_ms(due[name]) for name, at_ns in began)


def short_deadline() -> datetime:
    return SystemClock().now() + timedelta(milliseconds=random.randint(1_000, 10_000))


def stored_ms(ground: Ground) -> list[float]:
    exams = start_exams(ground.caller().register, [short_deadline() for _ in range(SHORT)])
    return [1000 * seconds for seconds in stored_after_deadline_s(ground, exams, within_s=30)]
