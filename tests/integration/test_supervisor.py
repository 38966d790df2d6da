"""`python -m worker --autoscale`: real processes come when there is much to do, and go when there is not."""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.broker.broker import TaskBroker
from shared.broker.dispatch import LEASE
from shared.broker.states import State
from tests.support.engine_worker import QUEUE, Journal, broker_at, send_many, wait_for
from tests.support.parts import Part, settings_of
from tests.support.redis_server import PrivateRedis
from tests.support.supervised import THREADS, Supervised, is_there
from tests.support.waiting import eventually
from worker.__main__ import main
from worker.scaling import Bounds

GROWN_WITHIN_S = 10
SHRUNK_WITHIN_S = 45  # twice the ten seconds of calm, and what tasks in between may cost


@pytest.fixture
def sender(tmp_path: Path, own_redis: PrivateRedis) -> Iterator[TaskBroker]:
    broker = broker_at(own_redis.url, Journal(tmp_path / "unused"))
    yield broker
    broker.client.close()


def test_it_grows_under_a_backlog_and_shrinks_without_losing_or_repeating_anything(
    tmp_path: Path, own_redis: PrivateRedis, sender: TaskBroker
) -> None:
    """From one to three at once and back, one by one, with work coming in all the while."""
    with Supervised(tmp_path, own_redis.url, Bounds(3, 1)) as supervisor:
        supervisor.wait_for_workers(1)
        sent = send_many(sender, "long", 200, 0.2)
        supervisor.wait_for_workers(3)
        assert len(supervisor.workers()) == 3

        def is_one_left() -> bool:
            sent.extend(send_many(sender, "long", 1, 0.02))
            return len(supervisor.workers()) == 1

        eventually(is_one_left, SHRUNK_WITHIN_S, "only one worker left")
        wait_for(sender, sent, 20)
        begun = Counter(supervisor.journal.begun())
        assert (set(begun), max(begun.values())) == (set(sent), 1)
        scaled = [(line["from"], line["to"], line["reason"]) for line in supervisor.logged("scaled")]
        assert scaled == [
            (1, 3, "those present will not soon get through what waits"),
            (3, 2, "one fewer has been enough for long"),
            (2, 1, "one fewer has been enough for long"),
        ]
        assert supervisor.logged("scaled")[0]["waiting"] > 3 * THREADS
        assert supervisor.logged("scaled")[0]["oldest_s"] >= 0.5
        assert [line["status"] for line in supervisor.logged("worker_drained")] == [0, 0]
        assert supervisor.logged("worker_died") == []
        assert supervisor.stop() == 0


def test_a_worker_that_is_no_longer_needed_ends_its_work_however_long_that_takes(
    tmp_path: Path, own_redis: PrivateRedis, sender: TaskBroker
) -> None:
    """Longer than it would be given to stop, and than a lease lasts. It takes nothing more, and others do; they are no
    more than allowed, it included.
    """
    gate = tmp_path / "gate"
    with Supervised(tmp_path, own_redis.url, Bounds(2, 1), stop_within_s=0.5) as supervisor:
        drained, task_id = until_one_drains(supervisor, sender, gate)
        draining_until_s = time.monotonic() + LEASE.total_seconds() + 2
        others: list[str] = []

        def is_long_enough() -> bool:
            """There is always more waiting than one worker gets through in a moment."""
            while len(others) < len(supervisor.journal.ended()) + 5 * THREADS:
                others.extend(send_many(sender, "long", 1, 1))
            return time.monotonic() > draining_until_s

        eventually(is_long_enough, 60, "a while")
        assert drained in supervisor.workers()
        assert len(supervisor.workers()) == 2
        gate.touch()
        wait_for(sender, [task_id], 5)
        state = sender.engine.look_up(task_id)
        assert (state.deliveries, state.result) == (1, drained)
        eventually(lambda: supervisor.logged("worker_drained"), what="its end")
        assert [(line["pid"], line["status"]) for line in supervisor.logged("worker_drained")] == [(drained, 0)]
        begun = [entry for entry in supervisor.journal.entries("begin") if entry.task_id in others]
        assert begun
        assert drained not in {entry.pid for entry in begun}
        assert [(line["from"], line["to"]) for line in supervisor.logged("scaled")][:2] == [(1, 2), (2, 1)]


def test_a_worker_that_drains_stops_in_time_when_its_supervisor_does(
    tmp_path: Path, own_redis: PrivateRedis, sender: TaskBroker
) -> None:
    """What it still runs then goes back, as from any worker."""
    with Supervised(tmp_path, own_redis.url, Bounds(2, 1), stop_within_s=0.5) as supervisor:
        drained, task_id = until_one_drains(supervisor, sender, tmp_path / "gate")
        assert supervisor.stop() == 0
        assert not is_there(drained)
        state = sender.engine.look_up(task_id)
        assert (state.state, state.deliveries) == (State.PENDING, 1)


def until_one_drains(supervisor: Supervised, sender: TaskBroker, gate: Path) -> tuple[int, str]:
    """The younger of two workers, and the only task that anybody runs."""
    supervisor.wait_for_workers(1)
    first_gate = gate.with_name("first-gate")
    send_many(sender, "gated", THREADS, str(first_gate))
    eventually(lambda: len(supervisor.journal.begun()) == THREADS, what="the filling of the first")
    (task_id,) = send_many(sender, "gated", 1, str(gate))
    eventually(lambda: task_id in supervisor.journal.begun(), 20, "its beginning in the second")
    (by,) = [entry.pid for entry in supervisor.journal.entries("begin") if entry.task_id == task_id]
    first_gate.touch()
    eventually(lambda: len(supervisor.logged("scaled")) == 2, SHRUNK_WITHIN_S, "the decision to shrink")
    return by, task_id


def test_a_burst_that_one_process_clears_in_a_moment_starts_no_other(
    tmp_path: Path, own_redis: PrivateRedis, sender: TaskBroker
) -> None:
    """Five hundred tasks that take no time."""
    with Supervised(tmp_path, own_redis.url, Bounds(3, 1)) as supervisor:
        supervisor.wait_for_workers(1)
        wait_for(sender, send_many(sender, "quick", 500), 20)
        assert supervisor.logged("scaled") == []
        assert supervisor.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_it_lets_all_end_their_work(
    tmp_path: Path, own_redis: PrivateRedis, sender: TaskBroker, number: signal.Signals
) -> None:
    """What runs is finished, what waits is left to others; status 0, and no process left."""
    gate = tmp_path / "gate"
    with Supervised(tmp_path, own_redis.url, Bounds(2, 2)) as supervisor:
        workers = supervisor.wait_for_workers(2)
        running = send_many(sender, "gated", 2 * THREADS, str(gate))
        eventually(lambda: len(supervisor.journal.begun()) == len(running), what="the beginning of all")
        waiting = send_many(sender, "quick", 10)
        os.kill(supervisor.pid, number)
        eventually(lambda: supervisor.logged("supervisor_ends"), what="the signal's being heard")
        gate.touch()
        assert supervisor.wait() == 0
        assert not any(map(is_there, workers))
        wait_for(sender, running, 0)
        assert Counter(supervisor.journal.begun()) == Counter(running)
        stats = sender.engine.stats([QUEUE])[QUEUE]
        assert (sum(stats.ready), stats.leased) == (len(waiting), 0)


def test_told_to_end_while_its_workers_boot_it_ends_at_once(tmp_path: Path, own_redis: PrivateRedis) -> None:
    """They have nothing to end yet."""
    with Supervised(tmp_path, own_redis.url, Bounds(4, 4)) as supervisor:
        workers = eventually(supervisor.workers, what="the first worker")
        assert supervisor.stop() == 0
        assert len(supervisor.logged("worker_drained")) == 4
        assert not any(map(is_there, workers))


def test_it_serves_the_queues_it_is_told_with_real_workers(tmp_path: Path, own_redis: PrivateRedis) -> None:
    """Each with so many threads, and with a pulse of its own however the supervisor's is set."""
    environ = settings_of(tmp_path, own_redis.url)
    named = tmp_path / "pulse-file"
    named.write_text(environ.pop("INVIGIL_PULSE_FILE"))
    environ["INVIGIL_PULSE_FILE_FILE"] = str(named)
    options = ("--autoscale", "2,2", "--threads", "3", "--queues", "default,mail")
    with Part(tmp_path / "part", "worker", *options, environ=environ) as part:
        eventually(lambda: part.errors().count('"worker_started"') == 2, 20, "two workers")
        assert part.errors().count('"queues":["default","mail"],"threads":3,"event":"worker_started"') == 2
        eventually((tmp_path / "pulse").exists, what="the supervisor's pulse")
        assert part.end() == 0
        assert part.errors().count('"status":0,"event":"worker_drained"') == 2
        assert "Traceback" not in part.errors()


@pytest.mark.parametrize("text", ["", "8", "8,", ",1", "1,8", "8,0", "65,1", "-8,1", "8.0,1", "8,1,1", "a,b"])
def test_bounds_that_cannot_be_are_refused(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """The most first, as Celery has it; none at all would leave nobody to see that tasks fall due."""
    with pytest.raises(SystemExit) as ended:
        main([f"--autoscale={text}"])
    assert ended.value.code == 2
    assert "give MAX,MIN: whole numbers from 1 to 64, such as 8,1" in capsys.readouterr().err
