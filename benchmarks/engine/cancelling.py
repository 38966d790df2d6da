"""Cancelling tasks that are due in hours, and what is left of them."""

import time
from itertools import islice

from benchmarks.engine.ground import Ground
from benchmarks.engine.pending import deadlines, lay_out
from benchmarks.report import RUNS, head, line
from shared.tasks import catalog

TASKS = 90_000
SINGLY = 10_000
BATCH = 100
WARM_UP = 1_000


def main() -> None:
    head(f"{TASKS + SINGLY:,} pending deadlines cancelled")
    batched, singly, left = [], [], []
    for _ in range(RUNS):
        with Ground() as ground:
            services = ground.loader()
            engine = services.broker.engine
            messages = list(islice(deadlines(), WARM_UP + TASKS + SINGLY))
            ids = [message.message_id for message in messages]
            # Redis keeps half a megabyte for scripts once it has run some.
            lay_out(services.broker, iter(messages), WARM_UP)
            engine.cancel(ids[:WARM_UP], keep=catalog.mark_absent.keep)
            empty = ground.settled_memory()
            ids = ids[WARM_UP:]
            lay_out(services.broker, iter(messages[WARM_UP:]), TASKS + SINGLY)
            began = time.perf_counter()
            for task_id in ids[:SINGLY]:
                assert engine.cancel([task_id], keep=catalog.mark_absent.keep) == ["revoked"]
            singly.append(SINGLY / (time.perf_counter() - began))
            began = time.perf_counter()
            for begin in range(SINGLY, len(ids), BATCH):
                assert set(engine.cancel(ids[begin : begin + BATCH], keep=catalog.mark_absent.keep)) == {"revoked"}
            batched.append(TASKS / (time.perf_counter() - began))
            left.append((ground.settled_memory() - empty) / len(ids))
    line(f"{BATCH} a call", batched, "/s", higher_is_better=True, to_reach="≥ 10,000")
    line("one a call", singly, "/s", higher_is_better=True)
    line("left in Redis", left, "bytes each", to_reach="≤ 150")
