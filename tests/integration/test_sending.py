"""Tasks on their way into a real Redis."""

from datetime import timedelta

from dramatiq import Message

from shared.broker.breaker import Breaker
from shared.broker.connection import impatient_client, open_broker
from shared.redis_keys import RedisKeys
from shared.tasks.catalog import MARK_ABSENT, PRINT_MESSAGE
from shared.tasks.sender import Sending, TaskSender
from tests.support.redis_server import PrivateRedis


def open_sender(server: PrivateRedis) -> TaskSender:
    return TaskSender(open_broker(impatient_client(server.url), RedisKeys("test")), Breaker())


def waiting(server: PrivateRedis, queue: str) -> list[Message[None]]:
    """The messages in a queue, first in first out."""
    ids = server.client().lrange(f"test:dramatiq:{queue}", 0, -1)
    stored = server.client().hgetall(f"test:dramatiq:{queue}.msgs")
    return [Message.decode(raw) for task_id in ids if isinstance(raw := stored[task_id], bytes)]


def test_tasks_sent_together_arrive_as_if_sent_one_by_one(redis_server: PrivateRedis) -> None:
    """In their order, each under its id, in its queue, with its arguments and its delay."""
    sender = open_sender(redis_server)
    minute = timedelta(minutes=1)
    ids = sender.send_many([Sending(PRINT_MESSAGE, ("a",)), Sending(MARK_ABSENT, ("pk",), "pk.1", minute)])
    ids += [sender.send(PRINT_MESSAGE, "b"), sender.send(MARK_ABSENT, "kp", task_id="kp.1", delay=minute)]
    printed, timed = waiting(redis_server, "default"), waiting(redis_server, "exams.DQ")
    assert [(message.message_id, message.args) for message in printed] == [(ids[0], ("a",)), (ids[2], ("b",))]
    assert [(message.message_id, message.args) for message in timed] == [("pk.1", ("pk",)), ("kp.1", ("kp",))]
    assert [message.options["eta"] - message.message_timestamp >= 60_000 for message in timed] == [True, True]


def test_tasks_are_sent_after_redis_has_forgotten_the_scripts(redis_server: PrivateRedis) -> None:
    """As it has after a restart: nothing is lost, nothing is sent twice."""
    sender = open_sender(redis_server)
    for sent in (3, 6):
        redis_server.client().script_flush()
        sender.send_many([Sending(PRINT_MESSAGE, (str(number),)) for number in range(3)])
        assert len(waiting(redis_server, "default")) == sent
