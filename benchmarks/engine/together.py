"""20,000 exams that are due in the same second, and one worker process for them."""

from datetime import timedelta

from benchmarks.engine.ground import Ground, cpu_s
from benchmarks.engine.stored_exams import start_exams, stored_after_deadline_s
from benchmarks.report import RUNS, head, line, percentile
from shared.clock import SystemClock

EXAMS = 20_000
STARTED_WITHIN = timedelta(seconds=30)


def main() -> None:
    head(f"{EXAMS:,} exams due in the same second, one process of 8 threads")
    took, half, cpu, redis_cpu = [], [], [], []
    for _ in range(RUNS):
        with Ground() as ground:
            worker = ground.exams_worker()
            deadline = SystemClock().now() + STARTED_WITHIN
            exams = start_exams(ground.caller().register, [deadline] * EXAMS)
            assert SystemClock().now() < deadline, "the starts took too long"
            before, redis_before = cpu_s(worker.pid), cpu_s(ground.redis_pid)
            stored = stored_after_deadline_s(ground, exams, within_s=120)
            took.append(stored[-1])
            half.append(percentile(stored, 50))
            cpu.append(1e6 * (cpu_s(worker.pid) - before) / EXAMS)
            redis_cpu.append(1e6 * (cpu_s(ground.redis_pid) - redis_before) / EXAMS)
    line("all stored as absent, after the deadline", took, "s", to_reach="≤ 8, aim 4")
    line("half of them", half, "s")
    line("CPU of the worker", cpu, "us each")
    line("CPU of Redis", redis_cpu, "us each")
