"""A worker for the tasks of task_bodies.py, in a process of its own."""

import os
import signal
import threading

import structlog

from shared.logs import configure_logs
from tests.support.task_system import task_worker

STOP_WITHIN_S = 3.0


def main() -> None:
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    configure_logs("json", "task-worker")
    with task_worker(os.environ, stop_within_s=STOP_WITHIN_S):
        structlog.get_logger(__name__).info("worker_started")
        stopping.wait()
        structlog.get_logger(__name__).info("worker_stops")


if __name__ == "__main__":
    main()
