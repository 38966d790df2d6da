"""`python -m worker --autoscale 8,1` under 10,000 tasks that come at once, and after them."""

import json
from collections import Counter
from datetime import datetime
from pathlib import Path

from benchmarks.engine.ground import Ground
from benchmarks.report import RUNS, head, line
from shared.clock import SystemClock
from shared.tasks.catalog import print_message
from shared.tasks.sender import Sending
from tests.support.parts import Part
from tests.support.waiting import eventually

TASKS = 10_000
TASK_S = 0.5
MOST, THREADS = 8, 32
CLEARED_WITHIN_S = 120
SHRUNK_WITHIN_S = 180


class Supervised(Part):
    """Its workers print messages on its console."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        options = ("--autoscale", f"{MOST},1", "--threads", str(THREADS), "--queues", "default")
        super().__init__(folder, "worker", *options, environ=environ)

    def __enter__(self) -> "Supervised":
        return self

    def told_at(self, event: str) -> list[datetime]:
        """When it and its workers logged this."""
        lines = [json.loads(text) for text in self.errors().splitlines() if text.endswith("}")]
        return [datetime.fromisoformat(each["timestamp"]) for each in lines if each["event"] == event]

    def wait_for(self, number: int, event: str, within_s: float) -> datetime:
        """When it was logged for the last of so many times."""
        return eventually(lambda: self.told_at(event)[number - 1 :], within_s, f"{number} {event}")[0]

    def printed(self) -> Counter[str]:
        return Counter(self.output().splitlines())


def main() -> None:
    head(
        f"--autoscale {MOST},1 --threads {THREADS}: {TASKS:,} tasks of {TASK_S} s sent at once, and nothing after them"
    )
    grown, cleared, shrunk, lost, twice, died = [], [], [], [], [], []
    for _ in range(RUNS):
        with Ground() as ground:
            environ = ground.environ | {"INVIGIL_MESSAGE_SECONDS": str(TASK_S)}
            messages = [f"message-{number}" for number in range(TASKS)]
            with Supervised(ground.folder / "supervisor", environ) as supervisor:
                supervisor.wait_for(1, "worker_started", 30)
                appears_at = SystemClock().now()
                ground.loader().sender.send_many([Sending(print_message, (message,)) for message in messages])
                last_start_at = supervisor.wait_for(MOST, "worker_started", 60)
                eventually(lambda: supervisor.printed().total() >= TASKS, CLEARED_WITHIN_S, "the end of all tasks")
                cleared_at = SystemClock().now()
                last_end_at = supervisor.wait_for(MOST - 1, "worker_drained", SHRUNK_WITHIN_S)
                printed = supervisor.printed()
                grown.append((last_start_at - appears_at).total_seconds())
                cleared.append((cleared_at - appears_at).total_seconds())
                shrunk.append((last_end_at - cleared_at).total_seconds())
                lost.append(len(set(messages) - set(printed)))
                twice.append(printed.total() - len(printed))
                died.append(len(supervisor.told_at("worker_died")))
                supervisor.end()
    line(f"{MOST} processes serve after", grown, "s", to_reach="≤ 5")
    line("all tasks have run after", cleared, "s")
    line("back to 1 after the last of them", shrunk, "s")
    line("lost", lost, "", to_reach="0")
    line("run twice", twice, "")
    line("workers that died", died, "")
