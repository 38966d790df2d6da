"""What cannot be sent or kept: a clear error that names the field, before anything is written."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from dramatiq import Message

from shared.broker.asking import Due
from shared.broker.broker import TaskBroker
from shared.broker.record import DEPTH, ID_BYTES, NAME_BYTES, RECORD_BYTES, pack_id
from shared.broker.states import RESULT_BYTES, Outcome, State
from shared.errors import InvalidInput, TaskIdTaken
from tests.support.engines import FAR, QUEUE, EngineOnRedis, a_message
from tests.support.redis_server import PrivateRedis


@pytest.fixture
def bench(redis_server: PrivateRedis) -> EngineOnRedis:
    return EngineOnRedis(redis_server)


@pytest.fixture
def broker(bench: EngineOnRedis) -> TaskBroker:
    broker = TaskBroker(bench.engine, bench.client, bench.keys)
    broker.declare_queue(QUEUE)
    return broker


class Text(str):
    __slots__ = ()


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


UNSENDABLE = {
    "a set": ({1, 2}, "", "a set cannot be sent"),
    "an object": (object(), "", "a object cannot be sent"),
    "bytes": (b"x", "", "a bytes cannot be sent"),
    "a duration": (timedelta(), "", "a timedelta cannot be sent"),
    "a kind of text": (Text("x"), "", "a Text cannot be sent"),
    "an exception": (ValueError("x"), "", "a ValueError cannot be sent"),
    "a function": (len, "", "cannot be sent"),
    "a key that is no text": ({"a": {1: 2}}, ".a", "keys must be text, not int"),
    "a key that is nothing": ({None: 2}, "", "keys must be text, not NoneType"),
    "not a number": (float("nan"), "", "must be finite"),
    "infinity": ([1.0, float("-inf")], "[1]", "must be finite"),
    "too big a number": (2**64, "", "must fit into 64 bits"),
    "too small a number": ({"n": [-(2**63) - 1]}, ".n[0]", "must fit into 64 bits"),
    "a lone surrogate": ("a\ud800", "", "without lone surrogates"),
    "a lone surrogate in a key": ({"\udfff": 1}, "", "without lone surrogates"),
    "a set inside": ({"a": [0, {"b": {1}}]}, ".a[1].b", "a set cannot be sent"),
}
each_unsendable = pytest.mark.parametrize(("value", "where", "why"), UNSENDABLE.values(), ids=UNSENDABLE.keys())


def refuses(call: Callable[[], object], field: str, why: str = "") -> None:
    with pytest.raises(InvalidInput) as raised:
        call()
    (error,) = raised.value.errors
    assert error.field == field
    assert why in error.message


@each_unsendable
def test_an_argument_that_cannot_be_sent_is_named(
    bench: EngineOnRedis, broker: TaskBroker, value: object, where: str, why: str
) -> None:
    refuses(lambda: broker.enqueue(a_message("fine", value)), f"args[1]{where}", why)
    assert bench.client.dbsize() == 0


@each_unsendable
def test_a_named_argument_that_cannot_be_sent_is_named(
    bench: EngineOnRedis, broker: TaskBroker, value: object, where: str, why: str
) -> None:
    message = a_message().copy(kwargs={"fine": 1, "exam": value})
    refuses(lambda: broker.enqueue(message, delay=1_000), f"kwargs.exam{where}", why)
    assert bench.client.dbsize() == 0


@each_unsendable
def test_an_option_that_cannot_be_sent_is_named(
    bench: EngineOnRedis, broker: TaskBroker, value: object, where: str, why: str
) -> None:
    refuses(lambda: broker.enqueue(a_message(extra=value)), f"options.extra{where}", why)
    assert bench.client.dbsize() == 0


def test_what_is_nested_too_deep_is_refused(bench: EngineOnRedis, broker: TaskBroker) -> None:
    """And what contains itself."""
    endless: list[Any] = []
    endless.append(endless)
    for value in (nested(DEPTH), endless):
        refuses(partial(broker.enqueue, a_message(value)), "args" + "[0]" * DEPTH, "deep at most")
        refuses(Outcome(State.SUCCESS, result=[value]).pack, "result" + "[0]" * DEPTH, "deep at most")
    assert bench.client.dbsize() == 0


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (a_message("x" * RECORD_BYTES), "args"),
        (a_message().copy(kwargs={"text": "x" * RECORD_BYTES}), "args"),
        (a_message(queue="nowhere"), "queue"),
        (a_message(queue=""), "queue"),
        (a_message(queue="\ud800"), "queue"),
        (a_message(priority=10), "priority"),
        (a_message(priority=-1), "priority"),
        (a_message(priority="5"), "priority"),
        (a_message(priority=5.0), "priority"),
        (a_message(priority=True), "priority"),
        (a_message(priority=None), "priority"),
        (a_message(expires=None), "expires"),
        (a_message(expires="soon"), "expires"),
        (a_message(expires=-1), "expires"),
        (a_message(expires=2**48), "expires"),
        (a_message(result_ttl="a day"), "result_ttl"),
        (a_message(result_ttl=-1), "result_ttl"),
        (a_message(retries="x"), "retries"),
        (a_message(retries=1.5), "retries"),
        (a_message(retries=-1), "retries"),
        (a_message(eta=1), "options.eta"),
        (a_message(task_id="x" * (ID_BYTES + 1)), "task_id"),
        (a_message(task_id="é" * (ID_BYTES // 2 + 1)), "task_id"),
        (a_message(task_id="\ud800"), "task_id"),
        (a_message().copy(message_id=""), "task_id"),
        (a_message().copy(actor_name=""), "actor"),
        (a_message().copy(actor_name="x" * (NAME_BYTES + 1)), "actor"),
        (a_message().copy(actor_name="\ud800"), "actor"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_message_that_cannot_be_sent_is_refused(
    bench: EngineOnRedis, broker: TaskBroker, message: Message[Any], field: str
) -> None:
    refuses(lambda: broker.enqueue(message), field)
    refuses(lambda: broker.enqueue_many([(message, FAR)]), field)
    assert bench.client.dbsize() == 0


@pytest.mark.parametrize("bad", [a_message({1}), a_message(queue="nowhere"), a_message(task_id="x" * 201)])
def test_one_that_cannot_be_sent_keeps_all_of_a_batch_from_being_sent(
    bench: EngineOnRedis, broker: TaskBroker, bad: Message[Any]
) -> None:
    """Wherever in the batch it is."""
    good: list[tuple[Message[Any], Due]] = [(a_message(number), None) for number in range(500)]
    with pytest.raises(InvalidInput):
        broker.enqueue_many([*good, (bad, None)])
    assert bench.client.dbsize() == 0


def test_what_is_just_allowed_arrives_as_it_was_sent(bench: EngineOnRedis, broker: TaskBroker) -> None:
    args: tuple[Any, ...] = (
        None,
        True,
        -(2**63),
        2**64 - 1,
        0.1,
        "ß\0\U0001f600",
        [],
        {},
        nested(DEPTH - 1),
        {"": [{"a": [1]}]},
    )
    message = a_message(*args, priority=0, expires=2**48 - 1).copy(
        message_id="é" * (ID_BYTES // 2), actor_name="x" * NAME_BYTES, kwargs={"key": "value"}
    )
    broker.enqueue(message)
    (delivery,) = bench.fetch()
    arrived = delivery.message
    assert (arrived.args, arrived.kwargs, arrived.options) == (args, message.kwargs, message.options)
    assert (arrived.message_id, arrived.actor_name, arrived.queue_name) == (
        message.message_id,
        message.actor_name,
        QUEUE,
    )
    assert arrived.message_timestamp == message.message_timestamp


def test_a_record_may_be_as_large_as_is_said(bench: EngineOnRedis, broker: TaskBroker) -> None:
    """What is said of its size is its size."""
    text = "x" * RECORD_BYTES
    with pytest.raises(InvalidInput, match=r"args: take (\d+) bytes; at most \d+ are sent") as raised:
        broker.enqueue(a_message(text))
    over = int(raised.value.errors[0].message.split()[1]) - RECORD_BYTES
    broker.enqueue(a_message(text[over:]))
    refuses(lambda: broker.enqueue(a_message(text[over - 1 :])), "args")
    assert bench.client.hlen(bench.keys.key("messages")) == 1


@pytest.mark.parametrize("name", ["", "x" * (NAME_BYTES + 1), "é" * (NAME_BYTES // 2 + 1)])
def test_a_queue_with_a_bad_name_is_not_declared(broker: TaskBroker, name: str) -> None:
    refuses(lambda: broker.declare_queue(name), "queue")
    assert broker.get_declared_queues() == {QUEUE}


def test_an_unknown_queue_is_refused_with_those_that_there_are(broker: TaskBroker) -> None:
    broker.declare_queue("mail")
    refuses(lambda: broker.enqueue(a_message(queue="exam")), "queue", "there is no queue 'exam'; there are exams, mail")


def test_a_delay_that_is_too_long_is_refused(bench: EngineOnRedis, broker: TaskBroker) -> None:
    refuses(lambda: broker.enqueue(a_message(), delay=10**30), "delay")
    assert bench.client.dbsize() == 0


@pytest.mark.parametrize("task_id", ["", "x" * (ID_BYTES + 1), "\ud800"])
def test_a_bad_id_is_refused_wherever_it_is_given(bench: EngineOnRedis, task_id: str) -> None:
    engine = bench.engine
    for call in (
        lambda: engine.cancel(["fine", task_id]),
        lambda: engine.move(task_id, None),
        lambda: engine.look_up(task_id),
        lambda: engine.revive(QUEUE, task_id, a_message()),
        lambda: engine.discard(QUEUE, task_id),
        lambda: engine.tick("sweep", bench.now(), a_message().copy(message_id=task_id)),
    ):
        refuses(call, "task_id")
    assert bench.client.dbsize() == 0


def test_a_taken_id_is_refused_with_the_state_of_its_task(bench: EngineOnRedis, broker: TaskBroker) -> None:
    """The others of the batch are sent all the same."""
    bench.run(task_id="taken")
    bench.send(task_id="also", due=FAR)
    before = bench.client.dump(bench.keys.key("live", pack_id("taken")))
    with pytest.raises(TaskIdTaken, match="there is a task taken already: STARTED") as raised:
        broker.enqueue_many([(a_message(task_id=task_id), None) for task_id in ("new", "taken", "also")])
    assert raised.value.state == "STARTED"
    assert bench.ready() == ["new"]
    assert bench.client.dump(bench.keys.key("live", pack_id("taken"))) == before
    assert bench.engine.look_up("also").due_at is not None


def test_an_id_twice_in_a_batch_is_taken_the_second_time(bench: EngineOnRedis) -> None:
    messages = [a_message(number, task_id="one") for number in range(2)]
    assert bench.engine.enqueue([(message, None) for message in messages]) == [None, State.PENDING]
    assert bench.fetch(2)[0].message.args == (0,)


@each_unsendable
def test_a_result_that_cannot_be_kept_is_named(bench: EngineOnRedis, value: object, where: str, why: str) -> None:
    """And the task is still held by who has run it."""
    delivery = bench.run()
    refuses(lambda: bench.worker.finish([delivery], Outcome(State.SUCCESS, result=value)), f"result{where}", why)
    assert bench.worker.renew([delivery]) == ["held"]
    assert bench.engine.look_up(delivery.message.message_id).state is State.STARTED


def test_a_result_that_is_too_large_is_refused(bench: EngineOnRedis) -> None:
    delivery = bench.run()
    result = "x" * (RESULT_BYTES - 50)
    refuses(
        lambda: bench.worker.finish([delivery], Outcome(State.SUCCESS, result="x" * RESULT_BYTES)), "result", "at most"
    )
    assert bench.worker.finish([delivery], Outcome(State.SUCCESS, result=result)) == ["finished"]
    assert bench.engine.look_up(delivery.message.message_id).result == result
