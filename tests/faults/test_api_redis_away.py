"""The API while Redis is gone or hangs: exams go on from the store, in time."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from dramatiq import Message

from shared.broker.scripts import Script
from shared.broker.states import Outcome, State, TaskError
from shared.redis_keys import RedisKeys
from shared.tasks.catalog import print_message
from tests.support.api import Api, Request, TimedAnswer, problem_of, settings_in
from tests.support.engines import EngineOnRedis
from tests.support.redis_server import PrivateRedis
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import eventually

AT_ONCE = 16
WITHIN_S = 1.0
BACK_WITHIN_S = 2.0  # the breaker skips Redis for a second at most

START = Request("POST", "/v1/exams", {"candidate": "Ada"})
MESSAGE = Request("POST", "/v1/messages", {"message": "hello"})


@pytest.fixture
def api(tmp_path: Path, own_redis: PrivateRedis) -> Iterator[Api]:
    """Has used Redis before it goes away, as an API that has been up for a while."""
    with Api(settings_in(tmp_path, own_redis.url)) as api:
        assert api.call("POST", "/v1/messages", MESSAGE.json).status_code == 202
        yield api


class Fault(NamedTuple):
    take_away: Callable[[PrivateRedis], None]
    bring_back: Callable[[PrivateRedis], None]


KILLED = Fault(PrivateRedis.kill, PrivateRedis.start)
HANGING = Fault(PrivateRedis.pause, PrivateRedis.resume)
away = pytest.mark.parametrize("fault", [KILLED, HANGING], ids=["killed", "hanging"])


def results_for(exams: list[TimedAnswer], status: str) -> list[Request]:
    return [Request("PUT", f"/v1/exams/{exam.answer.json['pk']}/result", {"status": status}) for exam in exams]


def statuses(answers: list[TimedAnswer]) -> list[int]:
    return [timed.answer.status_code for timed in answers]


def is_taken(api: Api) -> bool:
    return api.call("POST", "/v1/messages", MESSAGE.json).status_code == 202


def slowest_s(answers: list[TimedAnswer]) -> float:
    return max(timed.took_s for timed in answers)


@away
def test_starts_and_results_are_answered_within_a_second(api: Api, own_redis: PrivateRedis, fault: Fault) -> None:
    """Sixteen at once, round after round, across the instants at which Redis is tried again."""
    fault.take_away(own_redis)
    rounds = 0
    end_at = time.monotonic() + BACK_WITHIN_S
    while time.monotonic() < end_at:
        rounds += 1
        started = api.call_together([START] * AT_ONCE)
        ended = api.call_together(results_for(started, "pass"))
        assert (statuses(started), statuses(ended)) == ([201] * AT_ONCE, [200] * AT_ONCE)
        assert max(slowest_s(started), slowest_s(ended)) < WITHIN_S
    listed = api.call("GET", "/v1/exams?status=pass&limit=200").json["items"]
    assert len(listed) == min(200, rounds * AT_ONCE)


@away
def test_messages_are_refused_in_time_and_can_be_tried_again(api: Api, own_redis: PrivateRedis, fault: Fault) -> None:
    """503 with Retry-After, since a message has nowhere else to be; once Redis is back they go through.

    And so do deadlines: a new exam has its task again.
    """
    fault.take_away(own_redis)
    answers = api.call_together([MESSAGE] * AT_ONCE)
    assert slowest_s(answers) < WITHIN_S
    for timed in answers:
        problem_of(timed.answer, 503, "broker-unavailable")
        assert timed.answer.headers["retry-after"] == "1"
    fault.bring_back(own_redis)
    eventually(lambda: is_taken(api), BACK_WITHIN_S, "a message taken")
    assert api.start()["task_id"] in [message.message_id for message, _ in api.tasks.due("exams")]


@away
def test_starts_results_and_messages_together_stay_in_time(api: Api, own_redis: PrivateRedis, fault: Fault) -> None:
    """Those who wait for Redis hold up none of the others."""
    exams = api.call_together([START] * AT_ONCE)
    fault.take_away(own_redis)
    mixed = [*[START] * AT_ONCE, *results_for(exams, "fail"), *[MESSAGE] * AT_ONCE]
    answers = api.call_together(mixed)
    assert statuses(answers) == [201] * AT_ONCE + [200] * AT_ONCE + [503] * AT_ONCE
    assert slowest_s(answers) < WITHIN_S


@away
def test_the_api_stays_ready_and_says_that_redis_is_away(api: Api, own_redis: PrivateRedis, fault: Fault) -> None:
    """An orchestrator must not take every instance out because of an alarm clock."""
    fault.take_away(own_redis)
    answer = api.call("GET", "/readyz", key=None)
    assert (answer.status_code, answer.json["checks"]["redis"]["status"]) == (200, "degraded")


def test_a_redis_without_room_refuses_messages_and_starts_exams(api: Api, own_redis: PrivateRedis) -> None:
    """Memory full is one more way of being away."""
    own_redis.client().config_set("maxmemory", "1")
    exam = api.start()
    assert api.call("PUT", f"/v1/exams/{exam['pk']}/result", {"status": "pass"}).status_code == 200
    problem_of(api.call("POST", "/v1/messages", MESSAGE.json), 503, "broker-unavailable")
    own_redis.client().config_set("maxmemory", "0")
    eventually(lambda: is_taken(api), BACK_WITHIN_S, "a message taken")


def test_a_retry_whose_answer_was_lost_may_be_repeated(tmp_path: Path, own_redis: PrivateRedis) -> None:
    """503 at first, then the task that was made; its arguments are there once."""
    with TcpProxy(own_redis.socket) as proxy, Api(settings_in(tmp_path, proxy.url)) as api:
        namespace, payloads = api.services.settings.namespace, api.services.payloads
        bench = EngineOnRedis(own_redis, namespace)
        bury(bench, "first")
        assert api.call("POST", "/v1/dead/first/retry").status_code == 202  # Redis knows the script now
        assert len(bench.fetch(queue="default")) == 1
        bury(bench, "failed", stored=payloads.keep("failed", "args", b'[["hello"],{}]'))
        lost = proxy.lose_reply(Script("revive", RedisKeys(namespace)).head[1].encode())
        problem_of(api.call("POST", "/v1/dead/failed/retry"), 503, "broker-unavailable")
        assert lost.wait(BACK_WITHIN_S)
        (made,) = bench.fetch(queue="default")
        new = made.message
        assert payloads.load(new.options["stored"]) == b'[["hello"],{}]'
        again = eventually(lambda: retried(api, "failed"), BACK_WITHIN_S)
        assert again is not None
        assert (again["id"], again["retry_of"]) == (new.message_id, "failed")
        assert payloads.references(new.message_id) == [new.options["stored"]]
        assert bench.fetch(queue="default") == []


def bury(bench: EngineOnRedis, task_id: str, **options: str) -> None:
    """A public task, as it is when it has failed for good."""
    message: Message[Any] = Message(
        queue_name="default",
        actor_name=print_message.name,
        args=() if options else ("hello",),
        kwargs={},
        options=options,
        message_id=task_id,
    )
    bench.engine.enqueue([(message, None)])
    deliveries = bench.fetch(queue="default")
    assert bench.worker.begin(deliveries) == ["run"]
    failed = Outcome(State.FAILURE, error=TaskError("ValueError", "no"))
    assert bench.worker.finish(deliveries, failed, is_dead=True) == ["finished"]


def retried(api: Api, task_id: str) -> dict[str, Any] | None:
    answer = api.call("POST", f"/v1/dead/{task_id}/retry")
    return dict(answer.json) if answer.status_code == 202 else None
