"""What a million pending tasks take: of Redis for each, and of a worker for all."""

from benchmarks.engine.ground import Ground
from benchmarks.engine.pending import deadlines, lay_out, reports
from benchmarks.engine.tasks import Tasks, declare
from benchmarks.report import RUNS, head, line
from shared.broker.broker import TaskBroker

PENDING = 1_000_000
MORE = 100_000  # beyond 2^20, where Redis doubles its tables: what a task takes at worst
GENERAL = 100_000
WARM_UP = 500


def main() -> None:
    head(f"Memory with {PENDING:,} pending")
    grown, each, at_worst, general = [], [], [], []
    for _ in range(RUNS):
        with Ground() as ground:
            services = ground.loader()
            tasks = declare(services.broker)
            worker = ground.worker(8)
            warm_up(services.broker, tasks)
            worker.wait_for(WARM_UP, "warm-up")
            empty, idle = ground.settled_memory(), worker.resident_bytes()
            messages = deadlines()
            # In the worker's own queue: those of others it would not look at.
            lay_out(services.broker, messages, PENDING, "default")
            each.append((ground.settled_memory() - empty) / PENDING)
            warm_up(services.broker, tasks)
            worker.wait_for(2 * WARM_UP, "warm-up")
            grown.append((worker.resident_bytes() - idle) / 2**20)
            lay_out(services.broker, messages, MORE, "default")
            at_worst.append((ground.settled_memory() - empty) / (PENDING + MORE))
        with Ground() as ground:
            services = ground.loader()
            empty = ground.settled_memory()
            lay_out(services.broker, reports(), GENERAL)
            general.append((ground.settled_memory() - empty) / GENERAL)
    line("a worker's, over idle", grown, "MiB", to_reach="≤ 5")
    line("Redis's for each deadline", each, "bytes", to_reach="≤ 300")
    line(f"the same with {PENDING + MORE:,}", at_worst, "bytes")
    line(f"Redis's for each general task, with {GENERAL:,}", general, "bytes", to_reach="≤ 600")


def warm_up(broker: TaskBroker, tasks: Tasks) -> None:
    for number in range(WARM_UP):
        broker.enqueue_many([(tasks.tell.message(f"warm-up:{number}"), None)])
