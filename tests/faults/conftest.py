"""What the engine's fault tests share: a journal of what workers did, and a sender that talks to Redis directly."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.broker.broker import TaskBroker
from tests.support.engine_worker import Journal, broker_at
from tests.support.redis_server import PrivateRedis


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def journal(path: Path) -> Journal:
    return Journal(path)


@pytest.fixture
def sender(own_redis: PrivateRedis, journal: Journal) -> Iterator[TaskBroker]:
    broker = broker_at(own_redis.url, journal)
    yield broker
    broker.client.close()
