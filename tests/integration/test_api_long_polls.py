"""`GET /v1/tasks/{id}?wait=`: answered when the task ends, or when the time is up, and never much later."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from run import redis_program
from shared.broker.record import pack_id
from shared.errors import BrokerUnavailable
from shared.redis_keys import RedisKeys
from shared.services import for_callers
from shared.tasks.catalog import print_message
from shared.tasks.sender import Sending, TaskSender
from tests.support.api import Api, Request, TimedAnswer, problem_of, settings_in
from tests.support.api_server import ApiServer
from tests.support.redis_server import PrivateRedis
from tests.support.waiting import eventually

MANY = 300
SOON_S = 5.0  # on a busy machine; the benchmark says how soon
KEYS = RedisKeys("invigil")


@pytest.fixture
def redis() -> Iterator[PrivateRedis]:
    server = PrivateRedis(redis_program())
    yield server
    server.close()


@pytest.fixture
def api(tmp_path: Path, redis: PrivateRedis) -> Iterator[Api]:
    with Api(settings_in(tmp_path, redis.url)) as api:
        yield api


@pytest.fixture
def server(tmp_path: Path, redis: PrivateRedis) -> Iterator[ApiServer]:
    with ApiServer(tmp_path, redis.url) as server:
        yield server


@pytest.fixture
def sender(tmp_path: Path, redis: PrivateRedis) -> TaskSender:
    """Of another process, as far as the API is concerned."""
    return for_callers(settings_in(tmp_path, redis.url)).sender


def later(sender: TaskSender, count: int = 1) -> list[str]:
    """Ids of tasks that nobody runs."""
    return sender.send_many([Sending(print_message, ("hello",), due=timedelta(hours=1)) for _ in range(count)])


def heard(redis: PrivateRedis, *task_ids: str) -> int:
    """How many connections listen for the ends of these."""
    channels = [KEYS.key("ending", pack_id(task_id)) for task_id in task_ids]
    return sum(count for _, count in redis.client().pubsub_numsub(*channels))


@contextmanager
def meanwhile(work: Callable[[], object]) -> Iterator[None]:
    """In another thread."""
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join(30)


def waiting(*task_ids: str, wait: float = 20) -> list[Request]:
    return [Request("GET", f"/v1/tasks/{task_id}?wait={wait}") for task_id in task_ids]


def state_of(timed: TimedAnswer) -> str:
    assert timed.answer.status_code == 200, timed.answer.text
    return str(timed.answer.json["state"])


# waiting


@pytest.mark.parametrize("wait", ["0", "0.0", "0.3", "1"])
def test_when_the_time_is_up_the_state_is_told(api: Api, sender: TaskSender, wait: str) -> None:
    """Fractions are fine; 0 does not wait at all."""
    (task_id,) = later(sender)
    (timed,) = api.call_together([Request("GET", f"/v1/tasks/{task_id}?wait={wait}")])
    assert state_of(timed) == "PENDING"
    assert float(wait) <= timed.took_s < float(wait) + 1


def test_an_end_is_told_at_once(api: Api, sender: TaskSender, redis: PrivateRedis) -> None:
    """To whoever waits, by whoever ends it."""
    (task_id,) = later(sender)

    def end() -> None:
        eventually(lambda: heard(redis, task_id))
        sender.engine.cancel([task_id])

    with meanwhile(end):
        (timed,) = api.call_together(waiting(task_id))
    assert (state_of(timed), timed.answer.json["reason"]) == ("REVOKED", "cancelled")
    assert timed.took_s < SOON_S


def test_what_has_ended_is_told_at_once(api: Api, sender: TaskSender) -> None:
    """Nobody listens for it any more."""
    (task_id,) = later(sender)
    sender.engine.cancel([task_id])
    (timed,) = api.call_together(waiting(task_id))
    assert state_of(timed) == "REVOKED"
    assert timed.took_s < 1


def test_who_waits_for_nothing_is_told_so(api: Api) -> None:
    """404 at once."""
    (timed,) = api.call_together(waiting("nobody"))
    problem_of(timed.answer, 404, "task-not-found")
    assert timed.took_s < 1


@pytest.mark.parametrize("round_", range(20))
def test_an_end_is_never_missed(api: Api, sender: TaskSender, round_: int) -> None:
    """It comes before the first look, between that and the listening, or after."""
    task_ids = later(sender, 30)
    revokes = [Request("DELETE", f"/v1/tasks/{task_id}") for task_id in task_ids]
    pairs = [request for pair in zip(waiting(*task_ids), revokes, strict=True) for request in pair]
    for timed in api.call_together(pairs)[::2]:
        assert state_of(timed) == "REVOKED"
        assert timed.took_s < SOON_S


def test_many_who_wait_for_one_task_share_what_it_takes(api: Api, sender: TaskSender, redis: PrivateRedis) -> None:
    """One subscription, a handful of look-ups."""
    (task_id,) = later(sender)
    looks_before = scripts_run(redis)

    def end() -> None:
        eventually(lambda: heard(redis, task_id))
        sender.engine.cancel([task_id])

    with meanwhile(end):
        answers = api.call_together(waiting(*[task_id] * MANY))
    assert {state_of(timed) for timed in answers} == {"REVOKED"}
    assert max(timed.took_s for timed in answers) < SOON_S
    assert heard(redis, task_id) <= 1
    assert scripts_run(redis) - looks_before < 30


def scripts_run(redis: PrivateRedis) -> int:
    calls: Any = redis.client().info("commandstats")
    return int(calls["cmdstat_evalsha"]["calls"])


def test_many_who_wait_for_many_tasks_are_told_together(api: Api, sender: TaskSender, redis: PrivateRedis) -> None:
    """Over one connection to Redis."""
    task_ids = later(sender, MANY)

    def end() -> None:
        eventually(lambda: heard(redis, *task_ids) == MANY)
        sender.engine.cancel(task_ids)

    with meanwhile(end):
        answers = api.call_together(waiting(*task_ids))
    assert {state_of(timed) for timed in answers} == {"REVOKED"}
    assert [timed.answer.json["id"] for timed in answers] == task_ids
    assert max(timed.took_s for timed in answers) < SOON_S


def test_waiting_times_may_differ(api: Api, sender: TaskSender) -> None:
    """Each is answered in its own time, one after the other."""
    (task_id,) = later(sender)
    waits = [0.2, 0.4, 0.6, 0.8]
    requests = [request for wait in waits for request in waiting(task_id, wait=wait)]
    for wait, timed in zip(waits, api.call_together(requests), strict=True):
        assert state_of(timed) == "PENDING"
        assert wait <= timed.took_s < wait + 1


def test_a_task_that_is_forgotten_meanwhile_is_not_found(api: Api, sender: TaskSender) -> None:
    """404 when the time is up."""
    (task_id,) = later(sender)
    with meanwhile(lambda: sender.engine.purge("default")):
        (timed,) = api.call_together(waiting(task_id, wait=0.5))
    problem_of(timed.answer, 404, "task-not-found")


# Redis away


def test_without_redis_who_waits_gets_a_503_when_the_time_is_up(
    api: Api, sender: TaskSender, redis: PrivateRedis
) -> None:
    """No later than a second after that."""
    (task_id,) = later(sender)

    def kill() -> None:
        eventually(lambda: heard(redis, task_id))
        redis.kill()

    with meanwhile(kill):
        answers = api.call_together(waiting(*[task_id] * 20, wait=1.5))
    for timed in answers:
        problem_of(timed.answer, 503, "broker-unavailable")
        assert 1.5 <= timed.took_s < 2.5


def test_a_redis_that_hangs_holds_nobody_up(api: Api, sender: TaskSender, redis: PrivateRedis) -> None:
    """Who comes now is told at once, who waits when the time is up."""
    task_ids = later(sender, 5)

    def pause() -> None:
        eventually(lambda: heard(redis, *task_ids) == len(task_ids))
        redis.pause()

    with meanwhile(pause):
        answers = api.call_together(waiting(*task_ids, wait=1.5))
    for timed in answers:
        problem_of(timed.answer, 503, "broker-unavailable")
        assert timed.took_s < 2.5
    (timed,) = api.call_together(waiting(task_ids[0]))
    problem_of(timed.answer, 503, "broker-unavailable")
    assert timed.took_s < 1


def test_an_end_while_redis_was_away_is_found(api: Api, sender: TaskSender, redis: PrivateRedis) -> None:
    """As soon as it is back: what was said meanwhile nobody heard."""
    task_ids = later(sender, 3)

    def end() -> None:
        eventually(lambda: heard(redis, *task_ids) == len(task_ids))
        redis.kill()
        redis.start()
        eventually(lambda: cancelled(sender, task_ids))

    with meanwhile(end):
        answers = api.call_together(waiting(*task_ids, wait=15))
    for timed in answers:
        assert state_of(timed) == "REVOKED"
        assert timed.took_s < 10


def cancelled(sender: TaskSender, task_ids: Sequence[str]) -> bool:
    try:
        return set(sender.engine.cancel(task_ids)) == {"revoked"}
    except BrokerUnavailable:
        return False


# as it is deployed


def ask(server: ApiServer, task_id: str, wait: float = 25) -> socket.socket:
    """A connection on which an answer is due."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    connection.sendall(server.request("GET", f"/v1/tasks/{task_id}?wait={wait}"))
    return connection


def answer_on(connection: socket.socket) -> tuple[int, Any]:
    received = b""
    while part := connection.recv(65_536):
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head[9:12]), json.loads(body)


def test_at_shutdown_who_waits_is_answered_at_once(server: ApiServer, sender: TaskSender, redis: PrivateRedis) -> None:
    """With the task as it stands; the process ends cleanly within moments, not after 25 s."""
    task_ids = later(sender, 20)
    with ExitStack() as stack:
        connections = [stack.enter_context(ask(server, task_id)) for task_id in [*task_ids, *task_ids[:5]]]
        eventually(lambda: heard(redis, *task_ids) == len(task_ids))
        took_s = server.end()
        answers = [answer_on(connection) for connection in connections]
    assert took_s < SOON_S
    assert {(status, task["state"]) for status, task in answers} == {(200, "PENDING")}
    assert [line for line in server.log() if line["level"] == "error"] == []


def test_a_client_that_goes_away_is_not_waited_for(server: ApiServer, sender: TaskSender, redis: PrivateRedis) -> None:
    """Nobody listens for its task any more; another who waits for it is answered."""
    task_ids = later(sender, 3)
    with ask(server, task_ids[0]) as staying:
        for task_id in task_ids:
            ask(server, task_id).close()
        eventually(lambda: heard(redis, *task_ids[1:]) == 0)
        eventually(lambda: heard(redis, task_ids[0]) == 1)
        sender.engine.cancel([task_ids[0]])
        assert answer_on(staying)[1]["state"] == "REVOKED"


def test_others_are_served_while_many_wait(server: ApiServer, sender: TaskSender, redis: PrivateRedis) -> None:
    """Several hundred connections, of which each costs little; all are answered with the end."""
    task_ids = later(sender, MANY)
    with ExitStack() as stack:
        connections = [stack.enter_context(ask(server, task_id)) for task_id in task_ids]
        eventually(lambda: heard(redis, *task_ids) == MANY)
        assert server.is_alive()
        began = time.monotonic()
        sender.engine.cancel(task_ids)
        answers = [answer_on(connection) for connection in connections]
        assert time.monotonic() - began < SOON_S
    assert {(status, task["state"]) for status, task in answers} == {(200, "REVOKED")}
