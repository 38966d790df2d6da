"""Declared tasks with their bodies, and a worker for them: `python -m benchmarks.declared THREADS`."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from dramatiq import Worker

from shared.services import Services, for_callers, for_worker
from shared.settings import Settings
from shared.tasks.connection import connect
from shared.tasks.task import Task, task
from worker.bodies import bodies_in, body_of
from worker.child import Ask, ChildRunner
from worker.declaring import declare_actors
from worker.slots import Slots


@task()
def nothing() -> None:
    """In a thread."""


@task(time_limit=timedelta(minutes=1))
def nothing_in_child() -> None:
    """In a child process, with a hard limit."""


@task()
def end_after(seconds: float) -> int:
    """Sleeps, and returns when it has: Unix time in ns."""


TASKS: list[Task[..., Any]] = [nothing, nothing_in_child, end_after]


@body_of(nothing)
def _nothing() -> None:
    pass


@body_of(nothing_in_child)
def _nothing_in_child() -> None:
    pass


@body_of(end_after)
def _end_after(seconds: float) -> int:
    time.sleep(seconds)
    return time.time_ns()


def runner() -> Callable[[bytes, Ask], bytes]:
    services = for_worker(Settings.from_environ(os.environ), tasks=TASKS, is_child=True)
    return ChildRunner(services, bodies_in([sys.modules[__name__]], TASKS))


def sender(environ: dict[str, str]) -> Services:
    """From here on this process sends these tasks."""
    services = for_callers(Settings.from_environ(environ), tasks=TASKS)
    connect(services.sender)
    return services


def main() -> None:
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    services = for_worker(Settings.from_environ(os.environ), tasks=TASKS)
    slots = Slots("benchmarks.declared:runner", ["benchmarks.declared"])
    declare_actors(services, bodies_in([sys.modules[__name__]], TASKS), ["default"], slots)
    slots.start()
    worker = Worker(services.broker, queues={"default"}, worker_threads=int(sys.argv[1]))
    worker.start()
    print("worker-started", time.time_ns(), flush=True)
    stopping.wait()
    worker.stop()
    slots.close()


if __name__ == "__main__":
    # Its tasks are those of the module by its name, as the child processes have them.
    from benchmarks import declared

    declared.main()
