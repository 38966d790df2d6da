"""What a killable child process costs: a job that does nothing, beside a direct call; and a limit, to the next job."""

import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from benchmarks.report import RUNS, head, line, percentile
from shared.errors import TimeLimitExceeded
from tests.support.slot_jobs import job, make
from worker.slots import Slots

JOBS = 5000
THREADS = 8
KILLS = 50
LIMIT_S = 0.05
NO_LIMIT_S = 60.0


def main() -> None:
    head(f"Slots: {JOBS} jobs that do nothing, in a warm child with a hard limit and by a direct call; {KILLS} limits")
    slots = Slots("tests.support.slot_jobs:make")
    slots.start()
    try:
        lone = [one_by_one(slots) for _ in range(RUNS)]
        rates = [side_by_side(slots) for _ in range(RUNS)]
        kills = [kill_and_replace(slots) for _ in range(RUNS)]
        starts = [start() for _ in range(RUNS)]
    finally:
        slots.close()
    over = [in_child - direct for direct, in_child, _ in lone]
    line("a job that does nothing, directly", [1000 * direct for direct, _, _ in lone], "ms")
    line("over that in a warm child, median", [1000 * each for each in over], "ms", to_reach="0.3")
    line("in a warm child, p99", [1000 * p99 for _, _, p99 in lone], "ms")
    line(f"jobs in children, from {THREADS} threads", rates, "/s", higher_is_better=True)
    line("from a limit to the next job running, median", [1000 * statistics.median(each) for each in kills], "ms")
    line("from a limit to the next job running, longest", [1000 * max(each) for each in kills], "ms", to_reach="50")
    line("from nothing to a warm child", [1000 * each for each in starts], "ms")


def one_by_one(slots: Slots) -> tuple[float, float, float]:
    """Medians of a direct call and of one in a child, and the latter's 99th percentile."""
    body, data = make(), job("nothing")
    direct = sorted(timed(lambda: body(data, _same)) for _ in range(JOBS))
    in_child = sorted(timed(lambda: run(slots, data)) for _ in range(JOBS))
    return statistics.median(direct), statistics.median(in_child), percentile(in_child, 99)


def side_by_side(slots: Slots) -> float:
    with ThreadPoolExecutor(THREADS) as threads:
        began = time.perf_counter()
        for outcome in [threads.submit(run, slots, job("nothing")) for _ in range(JOBS)]:
            outcome.result()
        return JOBS / (time.perf_counter() - began)


def kill_and_replace(slots: Slots) -> list[float]:
    """For each limit, how long after it the next job's body runs: the clock is the same in all processes."""
    found = []
    for _ in range(KILLS):
        limit_at = time.monotonic() + LIMIT_S
        try:
            run(slots, job("wait_for_ever"), LIMIT_S)
        except TimeLimitExceeded:
            found.append(json.loads(run(slots, job("nothing"))) - limit_at)
    assert len(found) == KILLS
    return found


def start() -> float:
    began = time.perf_counter()
    slots = Slots("tests.support.slot_jobs:make")
    slots.start()
    took = time.perf_counter() - began
    slots.close()
    return took


def run(slots: Slots, data: bytes, time_limit_s: float = NO_LIMIT_S) -> bytes:
    return slots.run(data, time_limit_s=time_limit_s, answer=_same, on_start=lambda _: None)


def timed(call: Callable[[], bytes]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _same(question: bytes) -> bytes:
    return question
