"""What a worker with nothing to do asks of Redis."""

import time

from benchmarks.engine.ground import Ground
from benchmarks.report import RUNS, head, line

SECONDS = 20
QUEUES = "exams,default,mail"
TOP_LEVEL = ("evalsha", "blpop", "ping", "subscribe", "script|load", "hello", "client|setinfo")
"""What processes send; all else that Redis counts is called by scripts, and INFO is ours."""


def main() -> None:
    head(f"An idle worker process with the queues {QUEUES}")
    runs = []
    with Ground() as ground:
        worker = ground.process("worker", "--queues", QUEUES, "--threads", "8")
        worker.wait_for_text("worker_started")
        time.sleep(SECONDS / 4)  # it has started up
        for _ in range(RUNS):
            before = calls(ground)
            time.sleep(SECONDS)
            runs.append((calls(ground) - before) / SECONDS)
    line("commands", runs, "/s", to_reach="≤ 2")


def calls(ground: Ground) -> int:
    counted = ground.client.info("commandstats")
    return sum(counted[f"cmdstat_{name}"]["calls"] for name in TOP_LEVEL if f"cmdstat_{name}" in counted)
