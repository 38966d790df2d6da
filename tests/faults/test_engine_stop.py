"""SIGTERM: a worker that ends keeps nothing from the others, whatever it still runs."""

import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Thread

import pytest

from shared.broker.broker import TaskBroker
from shared.broker.record import pack_id
from shared.broker.states import State
from tests.support.engine_worker import (
    KEYS,
    QUEUE,
    EngineWorker,
    Journal,
    broker_at,
    send,
    send_alone,
    send_many,
    wait_for,
    worker_on,
)
from tests.support.redis_server import PrivateRedis
from tests.support.waiting import eventually

FETCHING_STOPS_WITHIN_S = 1.0
AT_ONCE_S = 1.5


def begun_by(journal: Journal, task_ids: Sequence[str]) -> list[int]:
    """The process of each run."""
    return [entry.pid for entry in journal.entries("begin") if entry.task_id in set(task_ids)]


def test_a_stopping_worker_finishes_what_runs_and_fetches_nothing_more(
    tmp_path: Path, path: Path, own_redis: PrivateRedis, sender: TaskBroker, journal: Journal
) -> None:
    """Three of its threads are idle, and new tasks wait for another worker all the same."""
    gate = tmp_path / "gate"
    with EngineWorker(tmp_path / "stopping", own_redis.url, path, threads=4) as stopping:
        running = send(sender, "gated", str(gate))
        eventually(journal.begun, what="its beginning")
        stopping.signal(signal.SIGTERM)
        Event().wait(FETCHING_STOPS_WITHIN_S)
        waiting = send_many(sender, "quick", 20)
        Event().wait(AT_ONCE_S)
        assert journal.begun() == [running]
        with EngineWorker(tmp_path / "other", own_redis.url, path, threads=4) as other:
            wait_for(sender, waiting, AT_ONCE_S)
            assert begun_by(journal, waiting) == [other.pid] * len(waiting)
            gate.touch()
            assert stopping.wait() == 0
        told = sender.engine.look_up(running)
        assert (told.state, told.result, told.deliveries) == (State.SUCCESS, stopping.pid, 1)


def test_what_a_stopping_worker_has_not_begun_runs_elsewhere_at_once(
    tmp_path: Path, path: Path, own_redis: PrivateRedis, sender: TaskBroker, journal: Journal
) -> None:
    """It holds a task that is to run alone, and waits with it for the end of another."""
    gate = tmp_path / "gate"
    with EngineWorker(tmp_path / "stopping", own_redis.url, path, threads=4) as stopping:
        running = send(sender, "gated", str(gate))
        eventually(journal.begun, what="its beginning")
        alone = send_alone(sender, "quick")
        eventually(lambda: sender.client.hexists(KEYS.key("live", pack_id(alone)), "token"), what="its delivery")
        with EngineWorker(tmp_path / "other", own_redis.url, path, threads=4) as other:
            stopping.signal(signal.SIGTERM)
            wait_for(sender, [alone], AT_ONCE_S)
            assert begun_by(journal, [alone]) == [other.pid]
        gate.touch()
        assert stopping.wait() == 0
        assert journal.begun().count(running) == 1


def test_what_outlasts_the_limit_runs_elsewhere_and_is_not_waited_for(
    tmp_path: Path, path: Path, own_redis: PrivateRedis, sender: TaskBroker, journal: Journal
) -> None:
    gate = tmp_path / "gate"
    with EngineWorker(tmp_path / "stopping", own_redis.url, path, threads=4, stop_within_s=1) as stopping:
        running = send_many(sender, "gated", 4, str(gate))
        eventually(lambda: len(journal.begun()) == len(running), what="the beginning of all")
        with EngineWorker(tmp_path / "other", own_redis.url, path, threads=4) as other:
            stopping.signal(signal.SIGTERM)
            stopped_at = time.monotonic()
            eventually(lambda: begun_by(journal, running).count(other.pid) == 4, 1 + AT_ONCE_S, "their new beginning")
            assert stopping.wait() == 0
            assert time.monotonic() - stopped_at < 5
            gate.touch()
            wait_for(sender, running, AT_ONCE_S)
            assert Counter(journal.ended()) == Counter(running)


def test_a_body_that_was_returned_is_not_heard_when_it_ends_at_last(
    tmp_path: Path, path: Path, own_redis: PrivateRedis, sender: TaskBroker, journal: Journal
) -> None:
    """Its process lives on after its worker, and so does its thread; the task belongs to another by then."""
    broker = broker_at(own_redis.url, journal)
    with worker_on(broker, threads=1, stop_within_s=0.2) as stopping:
        task_id = send(sender, "long", 4)
        eventually(journal.begun, what="its beginning")
    with EngineWorker(tmp_path / "other", own_redis.url, path) as other:
        eventually(lambda: len(journal.begun()) == 2, 3, "its beginning in the other")
        eventually(journal.ended, what="the end of the first run")
        for thread in stopping.workers:
            thread.join(AT_ONCE_S)
            assert not thread.is_alive()
        told = sender.engine.look_up(task_id)
        assert (told.state, told.result) == (State.STARTED, None)
        wait_for(sender, [task_id], 5)
        assert sender.engine.look_up(task_id).result == other.pid
    assert sender.engine.stats([QUEUE])[QUEUE].is_empty
    broker.client.close()


ENDS_WITHIN_S = 15.0


@pytest.mark.parametrize("fault", [PrivateRedis.pause, PrivateRedis.kill], ids=["hanging", "killed"])
@pytest.mark.parametrize("holds_more", [False, True])
def test_a_worker_that_is_told_to_stop_ends_though_redis_is_away(
    tmp_path: Path,
    path: Path,
    own_redis: PrivateRedis,
    sender: TaskBroker,
    journal: Journal,
    fault: Callable[[PrivateRedis], None],
    holds_more: bool,
) -> None:
    """A body runs that outlasts the limit, maybe beside a task that has been fetched and waits to be run alone: what
    would go back cannot, and its lease runs out instead.
    """
    gate = tmp_path / "gate"
    with EngineWorker(tmp_path / "stopping", own_redis.url, path, threads=4, stop_within_s=2) as stopping:
        send_many(sender, "gated", 2, str(gate))
        eventually(lambda: len(journal.begun()) == 2, what="the beginning of both")
        if holds_more:
            alone = send_alone(sender, "quick")
            eventually(lambda: sender.client.hexists(KEYS.key("live", pack_id(alone)), "token"), what="its delivery")
        fault(own_redis)
        Event().wait(1.5)  # its loops are asking
        stopping.signal(signal.SIGTERM)
        stopped_at = time.monotonic()
        assert stopping.wait() == 0
        assert time.monotonic() - stopped_at < ENDS_WITHIN_S


class Load:
    """A hundred tasks a second, one in five of them long, until it is stopped."""

    def __init__(self, sender: TaskBroker) -> None:
        self._sender = sender
        self._stopping = Event()
        self._thread = Thread(target=self._send)
        self.sent_at: dict[str, float] = {}

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stopping.set()
        self._thread.join(5)

    def _send(self) -> None:
        while not self._stopping.wait(0.01):
            sent_at = time.monotonic()
            is_long = len(self.sent_at) % 5 == 0
            task_id = send(self._sender, "long", 0.3) if is_long else send(self._sender, "quick")
            self.sent_at[task_id] = sent_at


def test_a_rolling_restart_under_load_loses_doubles_and_delays_nothing(
    tmp_path: Path, path: Path, own_redis: PrivateRedis, sender: TaskBroker, journal: Journal
) -> None:
    """Three workers, each replaced in its turn by a new one."""
    workers = [EngineWorker(tmp_path / f"old{number}", own_redis.url, path, threads=8) for number in range(3)]
    try:
        with Load(sender) as load:
            for number in range(3):
                eventually(lambda: len(load.sent_at) > 100 * (number + 1), what="some load")  # noqa: B023
                assert workers[number].end() == 0
                workers[number] = EngineWorker(tmp_path / f"new{number}", own_redis.url, path, threads=8)
        wait_for(sender, list(load.sent_at), AT_ONCE_S)
        assert Counter(journal.begun()) == Counter(list(load.sent_at))
        assert Counter(journal.ended()) == Counter(list(load.sent_at))
        waits = [entry.at - load.sent_at[entry.task_id] for entry in journal.entries("begin")]
        assert max(waits) < AT_ONCE_S
    finally:
        for worker in workers:
            worker.kill()
