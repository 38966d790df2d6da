"""Tasks sent by one process, one at a time beside stock Dramatiq, and many at a time."""

import time
from collections.abc import Callable

from dramatiq.brokers.redis import RedisBroker

from benchmarks.engine.ground import Ground
from benchmarks.engine.tasks import declare
from benchmarks.report import RUNS, head, line

SINGLE = 20_000
MANY = 100_000
BATCH = 1_000


def main() -> None:
    head(f"Sending from one process: {SINGLE:,} one by one, {MANY:,} in calls of {BATCH:,}")
    runs = [measure() for _ in range(RUNS)]
    ours, stock, many = zip(*runs, strict=True)
    line("ours, send", ours, "/s", higher_is_better=True, to_reach="≥ stock Dramatiq")
    line("stock Dramatiq, send", stock, "/s", higher_is_better=True)
    ratios = [one / other for one, other in zip(ours, stock, strict=True)]
    line("ours beside stock Dramatiq", ratios, "times", higher_is_better=True, to_reach="≥ 1")
    line("ours, enqueue_many", many, "/s", higher_is_better=True, to_reach="≥ 30,000")


def measure() -> tuple[float, float, float]:
    """Tasks a second: ours, stock, ours many at a time."""
    with Ground() as ground:
        broker = ground.caller().broker
        ours = declare(broker).noop
        stock = declare(RedisBroker(url=ground.redis.url)).noop  # type: ignore[no-untyped-call]

        def send_many() -> None:
            broker.enqueue_many([(ours.message(), None) for _ in range(BATCH)])

        return per_s(SINGLE, ours.send), per_s(SINGLE, stock.send), BATCH * per_s(MANY // BATCH, send_many)


def per_s(count: int, call: Callable[[], object]) -> float:
    call()  # connects, and loads the script
    began = time.perf_counter()
    for _ in range(count):
        call()
    return count / (time.perf_counter() - began)
