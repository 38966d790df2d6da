"""Tasks on their way into a real Redis."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shared.errors import TaskIdTaken
from shared.services import for_callers
from shared.tasks.catalog import mark_absent, print_message, sweep
from shared.tasks.sender import Sending, TaskSender
from tests.support.api import settings_in
from tests.support.redis_server import PrivateRedis
from tests.support.tasks import TasksInRedis

MINUTE = timedelta(minutes=1)


@pytest.fixture
def sender(tmp_path: Path, redis_server: PrivateRedis) -> Iterator[TaskSender]:
    services = for_callers(settings_in(tmp_path, redis_server.url))
    yield services.sender
    services.redis.close()


@pytest.fixture
def tasks(redis_server: PrivateRedis) -> TasksInRedis:
    return TasksInRedis(redis_server.client())


def test_tasks_sent_together_arrive_as_if_sent_one_by_one(sender: TaskSender, tasks: TasksInRedis) -> None:
    """In their order, each under its id, in its queue, with its arguments, due when it is to be."""
    at = datetime.now(UTC).replace(microsecond=0) + MINUTE
    ids = sender.send_many([Sending(print_message, ("a",)), Sending(mark_absent, ("pk",), "pk.1", at)])
    ids += [
        sender.send(print_message, "b"),
        sender.send(mark_absent, "kp", task_id="kp.1", due=at + MINUTE),
    ]
    printed = [(message.message_id, message.actor_name, message.args) for message in tasks.ready("default")]
    assert printed == [(ids[0], "print_message", ("a",)), (ids[2], "print_message", ("b",))]
    timed = [(message.message_id, message.args, due_at) for message, due_at in tasks.due("exams")]
    assert timed == [("pk.1", ("pk",), at), ("kp.1", ("kp",), at + MINUTE)]


def test_a_while_is_counted_from_now_by_redis_s_clock(
    sender: TaskSender, tasks: TasksInRedis, redis_server: PrivateRedis
) -> None:
    """And one that is over, or none, is at once."""
    sender.send(mark_absent, "later", due=MINUTE)
    for due in (None, timedelta(), -MINUTE, datetime.now(UTC) - MINUTE):
        sender.send(mark_absent, "now", due=due)
    ((message, due_at),) = tasks.due("exams")
    seconds, micros = redis_server.client().time()
    left = due_at.timestamp() - seconds - micros / 1_000_000
    assert (message.args, MINUTE.total_seconds() - 10 < left <= MINUTE.total_seconds()) == (("later",), True)
    assert [message.args for message in tasks.ready("exams")] == [("now",)] * 4


def test_the_priority_of_the_catalog_goes_along(sender: TaskSender, tasks: TasksInRedis) -> None:
    """A sweep stands before the deadlines that were sent before it."""
    sender.send(mark_absent, "pk")
    sender.send(sweep)
    assert [message.actor_name for message in tasks.ready("exams")] == ["sweep", "mark_absent"]


def test_an_id_that_is_taken_is_refused(sender: TaskSender, tasks: TasksInRedis) -> None:
    """The error says what has become of the task that has it; what was sent beside it arrives."""
    sender.send(mark_absent, "pk", task_id="pk.1", due=MINUTE)
    with pytest.raises(TaskIdTaken, match="task pk") as caught:
        sender.send_many([Sending(mark_absent, ("other",), "pk.1"), Sending(mark_absent, ("kp",), "kp.1")])
    assert caught.value.state == "PENDING"
    assert [message.args for message in tasks.ready("exams")] == [("kp",)]


def test_tasks_are_sent_after_redis_has_forgotten_the_scripts(
    sender: TaskSender, tasks: TasksInRedis, redis_server: PrivateRedis
) -> None:
    """As it has after a restart: nothing is lost, nothing is sent twice."""
    for sent in (3, 6):
        redis_server.client().script_flush()
        sender.send_many([Sending(print_message, (str(number),)) for number in range(3)])
        assert len(tasks.ready("default")) == sent
