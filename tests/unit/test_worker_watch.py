"""A worker looks after its own threads."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from dramatiq import Worker

from shared.broker.worker_parts import WorkerParts
from shared.pulse import Pulse
from shared.services import Services, for_worker
from shared.settings import Settings
from tests.support.parts import settings_of
from tests.support.redis_server import PrivateRedis
from tests.support.waiting import eventually
from worker.__main__ import Orders, start, watch

SHORT = timedelta(milliseconds=1)
LONG = timedelta(hours=1)
WITHIN_S = 10


@pytest.fixture
def services(tmp_path: Path, own_redis: PrivateRedis) -> Services:
    return for_worker(Settings.from_environ(settings_of(tmp_path, own_redis.url)))


@pytest.fixture
def worker(services: Services) -> Iterator[Worker]:
    """With nothing to do."""
    worker = start(services.broker, ["exams"], 2)
    yield worker
    worker.stop()
    services.redis.close()


@pytest.fixture
def parts(services: Services, worker: Worker) -> WorkerParts:
    """With the engine's threads beside Dramatiq's."""
    return services.broker.lifecycle.booted


def test_a_worker_ends_when_one_of_its_threads_has_died(tmp_path: Path, worker: Worker, parts: WorkerParts) -> None:
    """Dramatiq would go on without it: a consumer gone means a queue that nobody reads."""
    worker.workers[0].stop()
    worker.workers[0].join(WITHIN_S)
    assert not watch(worker, parts, Orders(), Pulse(str(tmp_path / "pulse")), SHORT)


def test_a_worker_ends_when_one_of_the_engine_s_threads_has_died(
    tmp_path: Path, worker: Worker, parts: WorkerParts
) -> None:
    """Without one of them tasks are not run, are run late or twice, or cannot be stopped."""
    parts.loops[-1].stop()
    parts.loops[-1].join(WITHIN_S)
    assert not watch(worker, parts, Orders(), Pulse(str(tmp_path / "pulse")), SHORT)


@pytest.mark.parametrize("order", [Orders.stop, Orders.drain])
def test_a_worker_told_to_end_is_whole(
    tmp_path: Path, worker: Worker, parts: WorkerParts, order: Callable[[Orders], None]
) -> None:
    """It was well until then, and shows it by its pulse."""
    orders, pulse = Orders(), tmp_path / "pulse"
    with ThreadPoolExecutor(1) as pool:
        is_whole = pool.submit(watch, worker, parts, orders, Pulse(str(pulse)), LONG)
        eventually(pulse.exists, WITHIN_S, "a beat")
        order(orders)
        assert is_whole.result(WITHIN_S)
