"""How soon an idle worker begins a task, from before it is sent: a task every 10 ms, however long the others take."""

import time

from benchmarks.engine.ground import Ground
from benchmarks.engine.tasks import declare
from benchmarks.report import RUNS, head, line, percentile

PER_S = 100
SECONDS = 10


def main() -> None:
    head(f"Pick-up by an idle worker of 8 threads, {PER_S} tasks a second for {SECONDS} s")
    runs = []
    with Ground() as ground:
        tasks = declare(ground.caller().broker)
        worker = ground.worker(8)
        for run in range(RUNS):
            due_ns = []
            start_ns = time.time_ns() + 500_000_000
            for number in range(PER_S * SECONDS):
                due_ns.append(start_ns + number * 1_000_000_000 // PER_S)
                time.sleep(max(0, due_ns[-1] - time.time_ns()) / 1e9)
                tasks.tell.send(f"run-{run}:{number}")
            began = worker.wait_for(PER_S * SECONDS, f"run-{run}:")
            runs.append(sorted((at_ns - due_ns[int(name.partition(":")[2])]) / 1e6 for name, at_ns in began))
    line("begun after, p50", [percentile(run, 50) for run in runs], "ms")
    line("begun after, p99", [percentile(run, 99) for run in runs], "ms", to_reach="≤ 5")
    line("begun after, at most", [run[-1] for run in runs], "ms")
