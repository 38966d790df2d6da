"""`kill -9` of a worker that runs 100 tasks, with 1,000 more delayed; another is started at once."""

import time
from datetime import timedelta

from benchmarks.engine.ground import Ground
from benchmarks.engine.tasks import declare
from benchmarks.report import RUNS, head, line
from shared.clock import SystemClock, to_ms

RUNNING = 100
DELAYED = 1_000
LATEST_S = 10


def main() -> None:
    head(f"kill -9 of a worker with {RUNNING} running and {DELAYED:,} due within {LATEST_S} s; another starts at once")
    lost, twice, back, late = [], [], [], []
    for _ in range(RUNS):
        with Ground() as ground:
            broker = ground.loader().broker
            tasks = declare(broker)
            doomed = ground.worker(RUNNING, "holding")
            broker.enqueue_many([(tasks.hold.message(f"running:{number}"), None) for number in range(RUNNING)])
            doomed.wait_for(RUNNING, "running")
            now = SystemClock().now()
            due = {f"delayed:{n}": now + timedelta(seconds=1 + LATEST_S * n / DELAYED) for n in range(DELAYED)}
            broker.enqueue_many([(tasks.tell.message(name), at) for name, at in due.items()])
            killed_at = time.time()
            doomed.kill()
            heir = ground.worker(8)
            came_back = heir.wait_for(RUNNING, "running", within_s=60)
            began = heir.wait_for(DELAYED, "delayed", within_s=60)
            lost.append(RUNNING + DELAYED - len({name for name, _ in came_back + began}))
            twice.append(len(came_back + began) - len({name for name, _ in came_back + began}))
            back.append(max(at_ns for _, at_ns in came_back) / 1e9 - killed_at)
            late.append(max(at_ns / 1e6 - to_ms(due[name]) for name, at_ns in began))
    line("lost", lost, "", to_reach="0")
    line("run twice by the other", twice, "", to_reach="0")
    line("all that ran are back after", back, "s", to_reach="≤ 12")
    line("the delayed began late by, at most", late, "ms")
