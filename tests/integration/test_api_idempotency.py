"""`Idempotency-Key` on `POST /v1/exams`: sent once or a hundred times, to one process or several, it is one exam."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from falcon.testing import Result

from shared.clock import rfc3339
from tests.support.api import Api, Request, messages_of, problem_of, settings_in
from tests.support.api_server import ApiServer
from tests.support.clock import NOON, ManualClock
from tests.support.exam_files import files_below
from tests.support.redis_server import PrivateRedis
from tests.support.small_disk import small_disk

AT_ONCE = 20
DAY_S = 86_400


@pytest.fixture
def api(tmp_path: Path, redis_server: PrivateRedis, clock: ManualClock) -> Iterator[Api]:
    with Api(settings_in(tmp_path, redis_server.url), clock) as api:
        yield api


def start(api: Api, text: str = "key", json: object = None, **more: Any) -> Result:
    """With this Idempotency-Key."""
    return api.call("POST", "/v1/exams", json, headers={"Idempotency-Key": text}, **more)


def is_repeat(answer: Result) -> bool:
    assert answer.headers.get("idempotent-replayed") in (None, "true")
    return "idempotent-replayed" in answer.headers


def pks(api: Api) -> list[str]:
    return [exam["pk"] for exam in api.call("GET", "/v1/exams?limit=200").json["items"]]


def claims(folder: Path) -> list[str]:
    return files_below(folder / "store", "idempotency")


def test_a_repeat_is_answered_with_the_same_exam(api: Api) -> None:
    """201 both times, and the second says that it is a repeat."""
    first, second = (start(api, json={"candidate": "Ada", "duration_s": 60}) for _ in range(2))
    assert (first.status_code, is_repeat(first)) == (201, False)
    assert (second.status_code, is_repeat(second)) == (201, True)
    assert (second.json, second.headers["location"]) == (first.json, first.headers["location"])
    assert pks(api) == [first.json["pk"]]
    assert first.json["started_at"] == rfc3339(NOON)


def test_a_repeat_tells_of_the_exam_as_it_stands(api: Api, clock: ManualClock) -> None:
    """Ended meanwhile by a result, or by its deadline."""
    passed, absent = start(api, "a").json["pk"], start(api, "b").json["pk"]
    api.call("PUT", f"/v1/exams/{passed}/result", {"status": "pass"})
    clock.move(seconds=120)
    for key, pk, status in (("a", passed, "pass"), ("b", absent, "absent")):
        answer = start(api, key)
        assert (answer.status_code, answer.json["pk"], answer.json["status"]) == (201, pk, status)


def test_the_same_request_need_not_be_written_the_same(api: Api) -> None:
    """Spaces, the order of fields, and nulls do not count; nor does no body instead of an empty one."""
    bodies = [b'{"candidate":"Ada","title":"Logic"}', b'{ "title": "Logic", "duration_s": null, "candidate": "Ada" }']
    assert len({start(api, "a", body=body).json["pk"] for body in bodies}) == 1
    assert start(api, "b").json["pk"] == start(api, "b", json={}).json["pk"]


def test_another_body_under_the_same_key_is_refused(api: Api) -> None:
    """422 naming the header, and no exam; the key's own request is still answered."""
    pk = start(api, json={"candidate": "Ada"}).json["pk"]
    problem = problem_of(start(api, json={"candidate": "Bob"}), 422, "invalid-input")
    assert messages_of(problem) == {
        "Idempotency-Key": "this key was used with another body; a new request needs a new key"
    }
    assert start(api, json={"candidate": "Ada"}).json["pk"] == pk
    assert pks(api) == [pk]


def test_another_caller_with_the_same_key_has_an_exam_of_its_own(api: Api) -> None:
    """Even with another body: keys are their caller's."""
    other = api.keys.new("another", ("exams:write",), NOON, lifetime=None)
    mine, theirs = start(api), start(api, json={"candidate": "Bob"}, key=other)
    assert (mine.status_code, theirs.status_code, is_repeat(theirs)) == (201, 201, False)
    assert len(pks(api)) == 2


@pytest.mark.parametrize("text", ["", "x" * 256, "a\tb", "é"])
def test_a_key_that_is_none_is_refused(api: Api, text: str) -> None:
    """422 naming the header, and no exam."""
    problem = problem_of(start(api, text), 422, "invalid-input")
    assert messages_of(problem) == {"Idempotency-Key": "must be 1 to 255 printable ASCII characters"}
    assert pks(api) == []


def test_a_request_that_is_refused_does_not_use_up_its_key(api: Api, tmp_path: Path) -> None:
    """Set right, it may be sent again with the same key."""
    problem_of(start(api, json={"duration_s": 0}), 422, "invalid-input")
    assert claims(tmp_path) == []
    assert start(api, json={"duration_s": 60}).status_code == 201


def test_a_request_without_a_key_keeps_nothing(api: Api, tmp_path: Path) -> None:
    """Each is an exam of its own."""
    answers = [api.call("POST", "/v1/exams") for _ in range(2)]
    assert not any(map(is_repeat, answers))
    assert len(pks(api)) == 2
    assert claims(tmp_path) == []


def test_a_key_is_kept_for_a_day_and_may_then_be_used_anew(api: Api, clock: ManualClock) -> None:
    """First at noon: the same for 36 hours, another exam after, with whatever body."""
    pk = start(api).json["pk"]
    clock.move(seconds=1.5 * DAY_S - 0.001)
    assert start(api).json["pk"] == pk
    clock.move(seconds=0.001)
    fresh = start(api, json={"candidate": "Bob"})
    assert (fresh.status_code, is_repeat(fresh)) == (201, False)
    assert start(api, json={"candidate": "Bob"}).json["pk"] == fresh.json["pk"] != pk


def test_many_at_once_are_one_exam(api: Api) -> None:
    """One of them began it; every key of many has its own."""
    requests = [
        Request("POST", "/v1/exams", {}, headers={"Idempotency-Key": f"key {n % 5}"}) for n in range(5 * AT_ONCE)
    ]
    answers = [timed.answer for timed in api.call_together(requests)]
    assert {answer.status_code for answer in answers} == {201}
    assert [len({answer.json["pk"] for answer in answers[n::5]}) for n in range(5)] == [1] * 5
    assert [sum(not is_repeat(answer) for answer in answers[n::5]) for n in range(5)] == [1] * 5
    assert len(pks(api)) == 5


def test_many_at_once_through_two_processes_are_one_exam(tmp_path: Path, redis_server: PrivateRedis) -> None:
    """As behind a load balancer, on one store, with the same API key."""
    with ApiServer(tmp_path, redis_server.url) as one, ApiServer(tmp_path, redis_server.url) as two:
        two.key = one.key

        def start_at(server: ApiServer) -> bytes:
            return server.exchange(server.request("POST", "/v1/exams", "Idempotency-Key: key"))

        with ThreadPoolExecutor(AT_ONCE) as threads:
            answers = list(threads.map(start_at, [one, two] * (AT_ONCE // 2)))
        listed = one.exchange(one.request("GET", "/v1/exams"))
    assert {answer.split(b" ", 2)[1] for answer in answers} == {b"201"}
    assert len({json.loads(answer.partition(b"\r\n\r\n")[2])["pk"] for answer in answers}) == 1
    assert sum(not re.search(rb"(?i)idempotent-replayed: true", answer) for answer in answers) == 1
    assert len(json.loads(listed.partition(b"\r\n\r\n")[2])["items"]) == 1


def test_a_claim_that_cannot_be_read_spoils_no_other(api: Api, tmp_path: Path) -> None:
    """Its own request is a 503 until somebody has looked at it."""
    start(api, "damaged")
    for name in claims(tmp_path):
        (tmp_path / "store" / name).unlink()
        (tmp_path / "store" / name).symlink_to("nonsense")
    keys = ("a", "damaged", "b")
    answers = api.call_together([Request("POST", "/v1/exams", {}, headers={"Idempotency-Key": key}) for key in keys])
    assert [timed.answer.status_code for timed in answers] == [201, 503, 201]


def test_redis_emptied_in_between_changes_nothing(api: Api, redis_server: PrivateRedis) -> None:
    """What is kept is in the store."""
    pk = start(api).json["pk"]
    redis_server.client().flushall()
    assert start(api).json["pk"] == pk


def test_redis_away_changes_nothing(tmp_path: Path, own_redis: PrivateRedis, clock: ManualClock) -> None:
    """A start and its repeat go on without it."""
    with Api(settings_in(tmp_path, own_redis.url), clock) as api:
        own_redis.kill()
        first, second = start(api), start(api)
    assert (first.status_code, second.status_code, is_repeat(second)) == (201, 201, True)
    assert first.json["pk"] == second.json["pk"]


def test_a_start_refused_by_a_full_disk_may_be_repeated(
    tmp_path: Path, redis_server: PrivateRedis, clock: ManualClock
) -> None:
    """503 and no exam; what has begun before is told of; once there is room the same key makes one exam."""
    with (
        small_disk(tmp_path / "disk") as disk,
        Api(settings_in(tmp_path, redis_server.url, STORE=f"file://{disk.path}/store"), clock) as api,
    ):
        before = start(api, "before").json["pk"]
        disk.fill()
        problem_of(start(api), 503, "store-unavailable")
        assert start(api, "before").json["pk"] == before
        disk.clear()
        assert start(api).json["pk"] == start(api).json["pk"]
        assert len(pks(api)) == 2
