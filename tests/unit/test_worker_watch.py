"""A worker looks after its own threads."""

import threading
from datetime import timedelta
from pathlib import Path

from dramatiq import Worker
from dramatiq.brokers.stub import StubBroker

from shared.pulse import Pulse
from worker.__main__ import watch

SHORT = timedelta(milliseconds=1)


def test_a_worker_ends_when_one_of_its_threads_has_died(tmp_path: Path) -> None:
    """Dramatiq would go on without it: a consumer gone means a queue that nobody reads."""
    worker = Worker(StubBroker(), worker_threads=2)
    worker.start()
    worker.workers[0].stop()
    worker.workers[0].join(10)
    assert not watch(worker, threading.Event(), Pulse(str(tmp_path / "pulse")), SHORT)
    worker.stop()


def test_a_worker_told_to_stop_is_whole(tmp_path: Path) -> None:
    """It was well until then, and shows it by its pulse."""
    worker = Worker(StubBroker(), worker_threads=2)
    worker.start()
    stopping = threading.Event()
    pulse = tmp_path / "pulse"
    is_whole: list[bool] = []
    watching = threading.Thread(target=lambda: is_whole.append(watch(worker, stopping, Pulse(str(pulse)), SHORT)))
    watching.start()
    while not pulse.exists():
        watching.join(0.01)
    stopping.set()
    watching.join(10)
    worker.stop()
    assert is_whole == [True]
