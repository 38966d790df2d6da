"""The API on a store that takes no writes: a read-only mount, a full disk."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from shared.exams.model import Status
from tests.support.api import Api, problem_of, settings_in
from tests.support.clock import ManualClock
from tests.support.redis_server import PrivateRedis
from tests.support.small_disk import SmallDisk, small_disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture
def api(tmp_path: Path, disk: SmallDisk, own_redis: PrivateRedis, clock: ManualClock) -> Iterator[Api]:
    """The store lies on the small disk, the keys do not."""
    with Api(settings_in(tmp_path, own_redis.url, STORE=f"file://{disk.path}/store"), clock) as api:
        yield api


class Fault(NamedTuple):
    spoil: Callable[[SmallDisk], None]
    repair: Callable[[SmallDisk], None]
    why: str


READ_ONLY = Fault(SmallDisk.make_read_only, SmallDisk.make_writable, "Read-only file system")
FULL = Fault(SmallDisk.fill, SmallDisk.clear, "No space left on device")
refusing = pytest.mark.parametrize("fault", [READ_ONLY, FULL], ids=["read-only", "full"])


@refusing
def test_a_start_is_refused_and_leaves_nothing(api: Api, disk: SmallDisk, fault: Fault) -> None:
    """503 with the reason and Retry-After; no exam, no marker and no task; once it is repaired, starts succeed."""
    fault.spoil(disk)
    answer = api.call("POST", "/v1/exams", {"candidate": "Ada"})
    assert problem_of(answer, 503, "store-unavailable")["detail"].endswith(fault.why)
    assert answer.headers["retry-after"] == "1"
    assert api.call("GET", "/v1/exams").json["items"] == []
    assert (api.tasks.ready("exams"), api.tasks.due("exams")) == ([], [])
    fault.repair(disk)
    assert api.start(candidate="Ada")["status"] == "started"


@refusing
def test_a_result_is_refused_and_can_be_sent_again(api: Api, disk: SmallDisk, fault: Fault) -> None:
    """503 decides nothing: the exam is read as started, and the same result counts after the repair."""
    pk = api.start()["pk"]
    fault.spoil(disk)
    answer = api.call("PUT", f"/v1/exams/{pk}/result", {"status": "pass"})
    assert problem_of(answer, 503, "store-unavailable")["detail"].endswith(fault.why)
    assert api.call("GET", f"/v1/exams/{pk}").json["status"] == Status.STARTED
    fault.repair(disk)
    assert api.call("PUT", f"/v1/exams/{pk}/result", {"status": "pass"}).json["status"] == Status.PASS


@refusing
def test_reading_goes_on(api: Api, disk: SmallDisk, fault: Fault) -> None:
    """What is decided, and what runs, is read and listed as before."""
    pk = api.start(candidate="Ada")["pk"]
    other = api.start(candidate="Grace")["pk"]
    api.call("PUT", f"/v1/exams/{pk}/result", {"status": "fail"})
    fault.spoil(disk)
    assert api.call("GET", f"/v1/exams/{pk}").json["status"] == Status.FAIL
    assert [exam["pk"] for exam in api.call("GET", "/v1/exams?status=started").json["items"]] == [other]
    assert len(api.call("GET", f"/v1/exams/{pk}/events").json["items"]) == 2


@refusing
def test_an_overdue_exam_is_not_read_until_it_can_be_settled(
    api: Api, disk: SmallDisk, clock: ManualClock, fault: Fault
) -> None:
    """503 rather than an absence that may not last, or an exam that runs beyond its deadline."""
    pk = api.start()["pk"]
    clock.move(seconds=120)
    fault.spoil(disk)
    for path in (f"/v1/exams/{pk}", f"/v1/exams/{pk}/events", "/v1/exams"):
        problem_of(api.call("GET", path), 503, "store-unavailable")
    fault.repair(disk)
    assert api.call("GET", f"/v1/exams/{pk}").json["status"] == Status.ABSENT


@refusing
def test_the_api_is_not_ready(tmp_path: Path, disk: SmallDisk, own_redis: PrivateRedis, fault: Fault) -> None:
    """503 with the store named and why, and still alive: a restart would not help."""
    with Api(settings_in(tmp_path, own_redis.url, STORE=f"file://{disk.path}/store")) as api:
        fault.spoil(disk)
        answer = api.call("GET", "/readyz", key=None)
        alive = api.call("GET", "/livez", key=None)
    checks = answer.json["checks"]
    assert (answer.status_code, alive.status_code) == (503, 200)
    assert [name for name, check in checks.items() if check["status"] != "ok"] == ["store"]
    assert checks["store"]["detail"].endswith(fault.why)
