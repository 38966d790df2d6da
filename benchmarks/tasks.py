"""What declared tasks cost: a hard limit beside a thread, all the way; and how soon `get` returns after the end."""

import time
from datetime import UTC, datetime, timedelta

from benchmarks.declared import end_after, nothing, nothing_in_child, sender
from benchmarks.engine.ground import Ground, Process, cpu_s
from benchmarks.report import RUNS, head, line, percentile
from shared.tasks.task import Task

TASKS = 4_000
GETS = 500
SLEEP_S = 0.02


def main() -> None:
    head(f"{TASKS} tasks that do nothing, one after another, in a thread and in a warm child; {GETS} times get()")
    with Ground() as ground:
        services = sender(ground.environ)
        worker = ground.process("benchmarks.declared", "1")
        worker.wait_for(1, "worker-started")
        in_thread, in_child, over, cpu, wakes = [], [], [], [], []
        for _ in range(RUNS):
            thread_s, thread_cpu_s = drain(nothing, worker)
            child_s, child_cpu_s = drain(nothing_in_child, worker)
            in_thread.append(1000 * thread_s)
            in_child.append(1000 * child_s)
            over.append(1000 * (child_s - thread_s))
            cpu.append(1e6 * (child_cpu_s - thread_cpu_s))
            wakes.append(sorted(wake_ms() for _ in range(GETS)))
        services.sender.endings.close()
    line("a task in a thread", in_thread, "ms")
    line("a task in a child with a hard limit", in_child, "ms")
    line("more than in a thread", over, "ms", to_reach="0.3")
    line("more CPU of the worker (its children's beside it)", cpu, "µs")
    line("get() returns after the end, p50", [percentile(run, 50) for run in wakes], "ms")
    line("get() returns after the end, p99", [percentile(run, 99) for run in wakes], "ms", to_reach="5")


def drain(task: "Task[[], None]", worker: Process) -> tuple[float, float]:
    """Seconds and CPU seconds of the worker for each of TASKS, which all become due at once."""
    due = datetime.now(UTC) + timedelta(seconds=TASKS / 3000)
    results = [task.apply_async(eta=due) for _ in range(TASKS)]
    before = cpu_s(worker.pid)
    for result in results:
        result.get(timeout=120)
    took_cpu_s = cpu_s(worker.pid) - before
    states = [result.look() for result in results]
    first = min(state.started_at for state in states if state.started_at)
    last = max(state.ended_at for state in states if state.ended_at)
    return (last - first).total_seconds() / TASKS, took_cpu_s / TASKS


def wake_ms() -> float:
    result = end_after.delay(SLEEP_S)
    ended_ns = result.get(timeout=30)
    return (time.time_ns() - ended_ns) / 1e6
