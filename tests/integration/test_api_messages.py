"""Messages over REST: accepted at once, left to a worker."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.clock import rfc3339
from tests.support.api import Api, messages_of, problem_of, settings_in
from tests.support.clock import NOON, ManualClock
from tests.support.redis_server import PrivateRedis

LONGEST = 10_000


@pytest.fixture
def api(tmp_path: Path, redis_server: PrivateRedis, clock: ManualClock) -> Iterator[Api]:
    with Api(settings_in(tmp_path, redis_server.url), clock) as api:
        yield api


def test_a_message_becomes_a_task(api: Api) -> None:
    """202 with the id under which the default queue holds it; exams' queue is left alone."""
    answer = api.call("POST", "/v1/messages", {"message": "hello"})
    assert answer.status_code == 202
    (message,) = api.tasks.ready("default")
    assert answer.json == {
        "id": message.message_id,
        "task": "print_message",
        "queue": "default",
        "enqueued_at": rfc3339(NOON),
    }
    assert (message.actor_name, list(message.args), dict(message.kwargs)) == ("print_message", ["hello"], {})
    assert (api.tasks.ready("exams"), api.tasks.due("exams")) == ([], [])


@pytest.mark.parametrize("text", [" ", "two\nlines\r\n", "\x00\x1b[31m\x7f", "Zoë 王 🎓", "🎓" * LONGEST])
def test_a_message_is_sent_on_exactly(api: Api, text: str) -> None:
    """Any text of 1 to 10,000 characters; what could steer a terminal is escaped where it is printed."""
    assert api.call("POST", "/v1/messages", {"message": text}).status_code == 202
    (message,) = api.tasks.ready("default")
    assert list(message.args) == [text]


@pytest.mark.parametrize("text", ["", "x" * (LONGEST + 1)])
def test_an_empty_or_too_long_message_is_refused(api: Api, text: str) -> None:
    """422, and nothing is enqueued."""
    problem = problem_of(api.call("POST", "/v1/messages", {"message": text}), 422, "invalid-input")
    assert messages_of(problem) == {"message": "must be a text of 1 to 10000 characters"}
    assert api.tasks.ready("default") == []


def test_a_repeat_under_a_key_is_answered_with_the_same_task(api: Api) -> None:
    """It is printed once; another text is refused."""
    key = {"Idempotency-Key": "a"}
    first, second = (api.call("POST", "/v1/messages", {"message": "once"}, headers=key) for _ in range(2))
    assert (first.status_code, second.status_code, second.json) == (202, 202, first.json)
    assert (first.headers.get("idempotent-replayed"), second.headers["idempotent-replayed"]) == (None, "true")
    other = api.call("POST", "/v1/messages", {"message": "other"}, headers=key)
    assert messages_of(problem_of(other, 422, "invalid-input")).keys() == {"Idempotency-Key"}
    (message,) = api.tasks.ready("default")
    assert (message.message_id, list(message.args)) == (first.json["id"], ["once"])


def test_two_equal_messages_are_two_tasks(api: Api) -> None:
    """Each has an id of its own."""
    ids = {api.call("POST", "/v1/messages", {"message": "again"}).json["id"] for _ in range(2)}
    assert len(ids) == 2
    assert {message.message_id for message in api.tasks.ready("default")} == ids
