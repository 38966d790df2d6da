"""Replies that get lost, connections that break, a Redis that goes away: no task is lost, and none runs twice."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import pytest
from dramatiq import MessageProxy, pipeline
from dramatiq.broker import Consumer

from shared.broker.asking import Asking
from shared.broker.broker import TaskBroker
from shared.broker.engine import Engine, QueueStats
from shared.broker.scripts import Call, Script
from shared.broker.states import Reason, State
from tests.support.engine_worker import (
    KEEP,
    KEYS,
    QUEUE,
    EngineWorker,
    Journal,
    broker_at,
    send,
    send_many,
    wait_for,
    worker_on,
)
from tests.support.engines import dead_letters
from tests.support.redis_server import PrivateRedis
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import eventually

LEASE_S = 10
AT_ONCE_S = 2.0
BACK_WITHIN_S = LEASE_S + 2


@pytest.fixture
def proxy(own_redis: PrivateRedis) -> Iterator[TcpProxy]:
    with TcpProxy(own_redis.socket) as proxy:
        yield proxy


@pytest.fixture
def worker(proxy: TcpProxy, journal: Journal, sender: TaskBroker) -> Iterator[TaskBroker]:
    """In this process, behind the proxy; it has run every script once, so that Redis and it know them all."""
    broker = broker_at(proxy.url, journal)
    with worker_on(broker, threads=4):
        first = send(sender, "failing", 1, 0)
        wait_for(sender, [first])
        yield broker
    broker.client.close()


def assert_ran_once(journal: Journal, task_ids: Sequence[str]) -> None:
    begun, ended = Counter(journal.begun()), Counter(journal.ended())
    assert {task_id: begun[task_id] for task_id in task_ids if begun[task_id] != 1} == {}
    assert {task_id: ended[task_id] for task_id in task_ids if ended[task_id] != 1} == {}


def stats(sender: TaskBroker) -> QueueStats:
    return sender.engine.stats([QUEUE])[QUEUE]


def assert_at_rest(sender: TaskBroker) -> None:
    """Nothing waits, is held, or is left over."""
    assert (stats(sender).is_empty, stats(sender).dead) == (True, 0)
    assert list(sender.client.scan_iter(KEYS.key("live", "*"))) == []


def sha(script: str) -> bytes:
    return Script(script, KEYS).head[1].encode()


def test_a_message_whose_delivery_was_lost_comes_back_when_its_lease_ends(
    worker: TaskBroker, sender: TaskBroker, journal: Journal, proxy: TcpProxy
) -> None:
    """Nobody knows that it was handed out. The worker it was meant for runs others meanwhile, and this one once."""
    lost = proxy.lose_reply(sha("fetch"))
    task_id = send(sender, "quick")
    assert lost.wait(AT_ONCE_S)
    others = send_many(sender, "quick", 20)
    wait_for(sender, others, AT_ONCE_S)
    assert journal.begun().count(task_id) == 0
    wait_for(sender, [task_id], BACK_WITHIN_S)
    assert_ran_once(journal, [task_id, *others])
    assert sender.engine.look_up(task_id).deliveries == 1
    assert_at_rest(sender)


def test_a_begin_whose_answer_was_lost_counts_once(
    worker: TaskBroker, sender: TaskBroker, journal: Journal, proxy: TcpProxy
) -> None:
    lost = proxy.lose_reply(sha("begin"))
    task_id = send(sender, "quick")
    assert lost.wait(AT_ONCE_S)
    wait_for(sender, [task_id], AT_ONCE_S)
    assert_ran_once(journal, [task_id])
    assert sender.engine.look_up(task_id).deliveries == 1
    assert_at_rest(sender)


def test_a_worker_that_is_cut_off_before_a_run_begins_waits_and_begins_it_once(
    worker: TaskBroker, sender: TaskBroker, journal: Journal, proxy: TcpProxy
) -> None:
    """It may or may not have been told; the run is not lost with it, nor left to its lease."""
    lost = proxy.lose_reply(sha("begin"), then_refuse=True)
    task_id = send(sender, "quick")
    assert lost.wait(AT_ONCE_S)
    Event().wait(3)  # until after Redis's client has given up, so that each call has failed
    assert journal.begun().count(task_id) == 0
    proxy.admit()
    wait_for(sender, [task_id], 3)
    assert_ran_once(journal, [task_id])
    assert sender.engine.look_up(task_id).deliveries == 1
    assert_at_rest(sender)


def test_a_finish_whose_answer_was_lost_is_told_again_and_changes_nothing(
    worker: TaskBroker, sender: TaskBroker, journal: Journal, proxy: TcpProxy
) -> None:
    lost = proxy.lose_reply(sha("finish"))
    task_id = send(sender, "quick")
    assert lost.wait(AT_ONCE_S)
    wait_for(sender, [task_id], AT_ONCE_S)
    told = sender.engine.look_up(task_id)
    later = send(sender, "quick")
    wait_for(sender, [later], AT_ONCE_S)
    assert sender.engine.look_up(task_id) == told
    assert_ran_once(journal, [task_id, later])
    assert_at_rest(sender)


@pytest.mark.parametrize("retry_ms", [0, 300])
def test_a_retry_whose_answer_was_lost_is_one_retry(
    worker: TaskBroker, sender: TaskBroker, journal: Journal, proxy: TcpProxy, retry_ms: int
) -> None:
    lost = proxy.lose_reply(sha("retry"))
    task_id = send(sender, "failing", 1, retry_ms)
    assert lost.wait(AT_ONCE_S)
    wait_for(sender, [task_id], AT_ONCE_S)
    told = sender.engine.look_up(task_id)
    assert (told.retries, told.deliveries, journal.begun().count(task_id)) == (1, 2, 2)
    assert_at_rest(sender)


def test_a_retry_that_another_worker_fetches_before_the_first_has_been_answered_is_left_to_it(
    tmp_path: Path,
    path: Path,
    own_redis: PrivateRedis,
    worker: TaskBroker,
    sender: TaskBroker,
    journal: Journal,
    proxy: TcpProxy,
) -> None:
    """The first worker goes on asking, cut off as it is, while the second runs the task to its end."""
    lost = proxy.lose_reply(sha("retry"), then_refuse=True)
    task_id = send(sender, "failing", 1, 0)
    assert lost.wait(AT_ONCE_S)
    with EngineWorker(tmp_path / "other", own_redis.url, path) as other:
        wait_for(sender, [task_id], AT_ONCE_S)
        told = sender.engine.look_up(task_id)
        assert (told.result, told.retries, journal.begun().count(task_id)) == (other.pid, 1, 2)
    proxy.admit()
    later = send(sender, "quick")
    wait_for(sender, [later], 5)
    assert sender.engine.look_up(task_id) == told
    assert_at_rest(sender)


def test_retries_without_delay_each_run_once(worker: TaskBroker, sender: TaskBroker, journal: Journal) -> None:
    """A task is ready again, and fetched by another thread, before the run before it has quite ended."""
    task_ids = send_many(sender, "failing", 100, 3, 0)
    wait_for(sender, task_ids, 20)
    runs = Counter(journal.begun())
    assert Counter(runs[task_id] for task_id in task_ids) == {4: 100}
    assert_at_rest(sender)


def test_connections_that_break_under_load_neither_lose_nor_double(
    worker: TaskBroker, sender: TaskBroker, journal: Journal, proxy: TcpProxy
) -> None:
    """Cut thirty times at random: in the midst of deliveries, beginnings, ends and retries."""
    task_ids = send_many(sender, "quick", 3_000)
    failing = send_many(sender, "failing", 300, 1, 0)
    chance = random.Random(5)
    for _ in range(30):
        Event().wait(chance.uniform(0.01, 0.15))
        proxy.cut()
    wait_for(sender, [*task_ids, *failing], 30)
    assert_ran_once(journal, task_ids)
    runs = Counter(journal.begun())
    assert Counter(runs[task_id] for task_id in failing) == {2: len(failing)}
    assert_at_rest(sender)


def test_a_worker_that_could_not_connect_for_a_while_goes_on(
    worker: TaskBroker, sender: TaskBroker, journal: Journal, proxy: TcpProxy
) -> None:
    """What it ran is not run again, though its lease has not been renewed; what waited is run at once."""
    running = send(sender, "long", 1)
    eventually(lambda: running in journal.begun())
    proxy.refuse()
    proxy.cut()
    waiting = send_many(sender, "quick", 50)
    eventually(lambda: running in journal.ended())
    Event().wait(2)
    proxy.admit()
    wait_for(sender, [running, *waiting], BACK_WITHIN_S)
    assert_ran_once(journal, [running, *waiting])
    assert_at_rest(sender)


def test_a_network_that_stalls_is_waited_for(
    worker: TaskBroker, sender: TaskBroker, journal: Journal, proxy: TcpProxy
) -> None:
    running = send(sender, "long", 1)
    eventually(lambda: running in journal.begun())
    proxy.stall()
    waiting = send_many(sender, "quick", 50)
    Event().wait(3)
    proxy.resume()
    wait_for(sender, [running, *waiting], AT_ONCE_S)
    assert_ran_once(journal, [running, *waiting])
    assert_at_rest(sender)


def test_an_interrupt_said_while_the_worker_was_cut_off_is_heard_afterwards(
    worker: TaskBroker, sender: TaskBroker, journal: Journal, proxy: TcpProxy
) -> None:
    """Nobody was listening when it was said; the next renewal says it again."""
    task_id = send(sender, "spinning", 60)
    eventually(lambda: task_id in journal.begun())
    proxy.refuse()
    proxy.cut()
    assert sender.engine.cancel([task_id], interrupts=True) == ["running"]
    proxy.admit()
    wait_for(sender, [task_id], 6, State.REVOKED)
    assert sender.engine.look_up(task_id).reason is Reason.TERMINATED
    assert journal.begun().count(task_id) == 1
    assert_at_rest(sender)


class FailingConsumer(Consumer):
    """The engine's own, but raises while `fails` is set: between handing out what it has fetched together."""

    def __init__(self, consumer: Consumer, fails: Event) -> None:
        self._consumer = consumer
        self._fails = fails
        self._has_given = False

    def __next__(self) -> MessageProxy | None:
        if self._has_given and self._fails.is_set():
            self._fails.clear()
            raise RuntimeError("a consumer has failed")
        message: MessageProxy | None = self._consumer.__next__()
        self._has_given = self._has_given or message is not None
        return message

    def ack(self, message: MessageProxy) -> None:
        self._consumer.ack(message)

    def nack(self, message: MessageProxy) -> None:
        self._consumer.nack(message)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        self._consumer.requeue(messages)

    def close(self) -> None:
        self._consumer.close()


class BrokerWithFailures(TaskBroker):
    fails = Event()

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Consumer:
        return FailingConsumer(super().consume(queue_name, prefetch, timeout), self.fails)


def test_a_consumer_thread_that_restarts_leaves_what_is_held_alone(
    tmp_path: Path, own_redis: PrivateRedis, sender: TaskBroker, journal: Journal
) -> None:
    """Dramatiq makes a new consumer. What the old one handed out runs on and is acknowledged by the new one; what it
    had fetched and not handed out has gone back to its place.
    """
    gate = tmp_path / "gate"
    broker = broker_at(own_redis.url, journal, BrokerWithFailures)
    BrokerWithFailures.fails.set()
    with worker_on(broker, threads=4):
        task_ids = send_many(sender, "gated", 4, str(gate))
        eventually(lambda: not BrokerWithFailures.fails.is_set(), what="the failure")
        (first,) = eventually(journal.begun, what="the one handed out")
        eventually(lambda: sum(stats(sender).ready) == 3, 1, "the others' return")
        assert stats(sender).leased == 1
        eventually(lambda: len(journal.begun()) == 4, 6, "the others' beginning, with a new consumer")
        gate.touch()
        wait_for(sender, task_ids, AT_ONCE_S)
        more = send_many(sender, "quick", 20)
        wait_for(sender, more, AT_ONCE_S)
    assert journal.begun()[0] == first
    assert_ran_once(journal, [*task_ids, *more])
    assert_at_rest(sender)
    broker.client.close()


class LosingSignals:
    """An Exchange that deletes the signals in the same transaction in which its scripts give them."""

    def __init__(self, sender: TaskBroker) -> None:
        self._client = sender.client

    def __call__(self, calls: Sequence[Call]) -> list[Any]:
        with self._client.pipeline(transaction=True) as pipeline:
            for script, arguments in calls:
                pipeline.eval(script.text, 1, script.head[3], *arguments)
            pipeline.delete(KEYS.key("signal", QUEUE), KEYS.key("sooner", QUEUE))
            *answers, _ = pipeline.execute()
        return answers


@pytest.mark.parametrize("wait_s", [0.0, 0.2])
def test_a_lost_signal_costs_a_second_at_most(
    worker: TaskBroker, sender: TaskBroker, journal: Journal, wait_s: float
) -> None:
    """That something is ready, or that something is due before all else."""
    silent = Engine(Asking(LosingSignals(sender), KEYS), KEEP)
    for _ in range(3):
        message = sender.get_actor("quick").message()
        sent_at = time.monotonic()
        silent.enqueue([(message, timedelta(seconds=wait_s))])
        wait_for(sender, [message.message_id], AT_ONCE_S)
        begun_at = journal.entries("begin")[-1].at
        assert wait_s <= begun_at - sent_at < wait_s + 1.2


class Fault(NamedTuple):
    take_away: Callable[[PrivateRedis], None]
    bring_back: Callable[[PrivateRedis], None]


KILLED = Fault(PrivateRedis.kill, PrivateRedis.start)
HANGING = Fault(PrivateRedis.pause, PrivateRedis.resume)
away = pytest.mark.parametrize("fault", [KILLED, HANGING], ids=["killed", "hanging"])


def keep_all(redis: PrivateRedis) -> None:
    """What Redis has answered for outlives it."""
    redis.client().config_set("appendfsync", "always")


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        pytest.param(KILLED, 5, id="killed for 5 s"),
        pytest.param(KILLED, 20, id="killed for 20 s"),
        pytest.param(HANGING, 20, id="hanging for 20 s"),
        pytest.param(HANGING, 5, id="hanging for 5 s", marks=pytest.mark.soak),
        pytest.param(KILLED, 120, id="killed for 120 s", marks=pytest.mark.soak),
        pytest.param(HANGING, 120, id="hanging for 120 s", marks=pytest.mark.soak),
    ],
)
def test_after_redis_was_away_everything_runs_once_and_soon(
    tmp_path: Path,
    path: Path,
    own_redis: PrivateRedis,
    sender: TaskBroker,
    journal: Journal,
    fault: Fault,
    seconds: int,
) -> None:
    """Bodies that end meanwhile and bodies that outlast it, tasks that wait and tasks that fall due. Leases run out,
    and yet no worker takes from another what that one still runs.
    """
    keep_all(own_redis)
    with (
        EngineWorker(tmp_path / "one", own_redis.url, path) as one,
        EngineWorker(tmp_path / "two", own_redis.url, path) as two,
    ):
        running = [*send_many(sender, "long", 3, seconds / 2), *send_many(sender, "long", 3, seconds + 3)]
        eventually(lambda: len(journal.begun()) == len(running), what="the beginning of all")
        load = send_many(sender, "long", 300, 0.01)
        due = send_many(sender, "quick", 100, due=timedelta(seconds=seconds / 2))
        far = send_many(sender, "quick", 5, due=timedelta(seconds=seconds + 4))
        fault.take_away(own_redis)
        Event().wait(seconds)
        done = set(journal.ended())
        assert set(running[:3]) <= done
        fault.bring_back(own_redis)
        back_at = time.monotonic()
        everything = [*running, *load, *due, *far]
        wait_for(sender, everything, BACK_WITHIN_S)
        assert_ran_once(journal, everything)
        assert max(entry.at for entry in journal.entries("begin")) - back_at < BACK_WITHIN_S
        assert {entry.pid for entry in journal.entries("end")} == {one.pid, two.pid}
        assert_at_rest(sender)
        assert (one.end(), two.end()) == (0, 0)


@away
def test_what_bodies_came_to_while_redis_was_away_is_told_afterwards(
    own_redis: PrivateRedis, sender: TaskBroker, journal: Journal, fault: Fault
) -> None:
    """Redis is gone between a body and its acknowledgement: no task is lost, and no failure is a success."""
    keep_all(own_redis)
    broker = broker_at(own_redis.url, journal)
    with worker_on(broker, threads=3):
        succeeding = send(sender, "long", 1)
        retrying = send(sender, "failing", 1, 0, 1)
        failing = send(sender, "hopeless", 1)
        eventually(lambda: len(journal.begun()) == 3, what="the beginning of all")
        fault.take_away(own_redis)
        Event().wait(2)  # the bodies take one
        fault.bring_back(own_redis)
        wait_for(sender, [succeeding, retrying], 5)
        wait_for(sender, [failing], 1, State.FAILURE)
        assert Counter(journal.begun()) == {succeeding: 1, retrying: 2, failing: 1}
        assert [state.id for state in dead_letters(sender.engine, QUEUE)] == [failing]
    broker.client.close()


@away
def test_the_next_of_a_pipeline_is_sent_after_redis_was_away(
    own_redis: PrivateRedis, sender: TaskBroker, journal: Journal, fault: Fault
) -> None:
    """Between the body and its acknowledgement, where Dramatiq only logs what a hook cannot do."""
    keep_all(own_redis)
    broker = broker_at(own_redis.url, journal)
    with worker_on(broker, threads=2):
        first = broker.get_actor("long").message(1)
        second = broker.get_actor("quick").message_with_options(pipe_ignore=True)
        pipeline([first, second], broker=broker).run()  # type: ignore[no-untyped-call]
        eventually(journal.begun, what="its beginning")
        fault.take_away(own_redis)
        Event().wait(2.5)  # the body takes one
        assert journal.ended() == [first.message_id]
        fault.bring_back(own_redis)
        eventually(lambda: len(journal.ended()) == 2, 5, "the second")
        wait_for(sender, [first.message_id, second.message_id], AT_ONCE_S)
    assert_ran_once(journal, [first.message_id, second.message_id])
    assert_at_rest(sender)
    broker.client.close()
