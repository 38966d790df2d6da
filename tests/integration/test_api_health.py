"""Health over REST, and the id that every answer has."""

import re
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from api.health import HealthCheck
from api.keys import KeyFile
from shared.clock import SystemClock, from_ms
from shared.services import for_callers
from tests.support.api import Api, problem_of, settings_in
from tests.support.clock import ManualClock
from tests.support.redis_server import PrivateRedis


@pytest.fixture
def api(tmp_path: Path, redis_server: PrivateRedis) -> Iterator[Api]:
    """On the machine's own clock, since health compares it with Redis's."""
    with Api(settings_in(tmp_path, redis_server.url)) as api:
        yield api


def readiness(api: Api) -> tuple[int, str, dict[str, Any]]:
    """Status, word and checks; asked without a key, as an orchestrator does."""
    answer = api.call("GET", "/readyz", key=None)
    return answer.status_code, answer.json["status"], answer.json["checks"]


def states(checks: dict[str, Any]) -> dict[str, str]:
    return {name: check["status"] for name, check in checks.items()}


ALL_OK = {"store": "ok", "keys": "ok", "redis": "ok", "clock": "ok"}


@pytest.mark.parametrize("path", ["/livez", "/startupz"])
def test_a_process_that_answers_is_alive(api: Api, path: str) -> None:
    """Without a key."""
    answer = api.call("GET", path, key=None)
    assert (answer.status_code, answer.json) == (200, {"status": "ok"})


def test_a_process_that_can_do_its_work_is_ready(api: Api) -> None:
    """Each dependency is named with its state, the clock with its offset."""
    status, word, checks = readiness(api)
    assert (status, word, states(checks)) == (200, "ready", ALL_OK)
    assert abs(checks["clock"]["offset_ms"]) <= 250


def test_looking_leaves_nothing_behind(api: Api) -> None:
    """What is written to try the store is removed again."""
    before = api.state()
    readiness(api)
    assert api.state() == before


def test_a_store_that_takes_no_writes_is_not_ready(api: Api, tmp_path: Path) -> None:
    """503, and the store is what is named."""
    shutil.rmtree(tmp_path / "store" / "tmp")
    status, word, checks = readiness(api)
    assert (status, word, states(checks)) == (503, "unready", ALL_OK | {"store": "failing"})
    assert checks["store"]["detail"].endswith("No such file or directory")


def test_without_redis_it_is_ready_and_degraded(tmp_path: Path) -> None:
    """Exams go on from the store; the clock cannot be compared and counts as right."""
    with Api(settings_in(tmp_path, f"unix://{tmp_path}/none.sock")) as api:
        status, word, checks = readiness(api)
    assert (status, word, states(checks)) == (200, "ready", ALL_OK | {"redis": "degraded"})
    assert checks["clock"]["offset_ms"] is None


@pytest.mark.parametrize("offset", [timedelta(milliseconds=-251), timedelta(minutes=1), timedelta(days=-365)])
def test_a_clock_that_is_off_is_not_ready(tmp_path: Path, redis_server: PrivateRedis, offset: timedelta) -> None:
    """More than 250 ms from Redis's, before or after: 503, and by how much."""
    seconds, micros = redis_server.client().time()
    clock = ManualClock(from_ms(seconds * 1000 + micros // 1000) + offset)
    with Api(settings_in(tmp_path, redis_server.url), clock) as api:
        status, _, checks = readiness(api)
    assert (status, states(checks)) == (503, ALL_OK | {"clock": "failing"})
    assert checks["clock"]["offset_ms"] == pytest.approx(offset / timedelta(milliseconds=1), abs=5_000)


def test_a_broken_file_of_keys_is_not_ready(api: Api, tmp_path: Path) -> None:
    """503 with the keys named; calls get 503 and not 401, since nobody's key is wrong."""
    (tmp_path / "keys.json").write_text("{")
    status, _, checks = readiness(api)
    assert (status, states(checks)) == (503, ALL_OK | {"keys": "failing"})
    answer = api.call("GET", "/v1/exams")
    assert "the file of API keys is broken" in problem_of(answer, 503, "store-unavailable")["detail"]
    assert answer.headers["retry-after"] == "1"


class HandTurned:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_health_is_looked_at_once_a_second(tmp_path: Path, redis_server: PrivateRedis) -> None:
    """Probes in between get the last look's answer, so that they cost the disk nothing."""
    services = for_callers(settings_in(tmp_path, redis_server.url))
    monotonic = HandTurned()
    keys = KeyFile(str(services.settings.keys))
    check = HealthCheck(services.exams, keys, services.redis, services.breaker, SystemClock(), monotonic)
    assert check.look().is_ready
    shutil.rmtree(tmp_path / "store" / "tmp")
    monotonic.seconds = 0.999
    assert check.look().is_ready
    monotonic.seconds = 1.0
    assert not check.look().is_ready
    services.redis.close()


# request ids


@pytest.mark.parametrize("given", ["a", "0199-ABC_x.1", "x" * 64])
def test_a_request_id_of_the_client_is_kept(api: Api, given: str) -> None:
    """So that a caller finds its request in our logs under its own name."""
    assert api.call("GET", "/livez", headers={"X-Request-Id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "two words", "ü", "a\tb", "<script>", '"', "a,b"])
def test_a_request_id_that_could_upset_a_log_is_replaced(api: Api, given: str) -> None:
    """By one of ours."""
    request_id = api.call("GET", "/livez", headers={"X-Request-Id": given}).headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{16}", request_id)


def test_every_answer_has_a_request_id_of_its_own(api: Api) -> None:
    """Also refusals, which are what people ask about."""
    calls = [
        ("GET", "/livez"),
        ("GET", "/none"),
        ("GET", "/v1/exams/x"),
        ("DELETE", "/v1/exams"),
        ("POST", "/v1/messages"),
    ]
    ids = [api.call(method, path).headers["x-request-id"] for method, path in calls]
    ids.append(api.call("GET", "/v1/exams", key=None).headers["x-request-id"])
    assert len(set(ids)) == len(calls) + 1
