"""Workers that die, freeze or kill themselves: what they held runs elsewhere, and nothing runs twice without need."""

import signal
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from random import Random
from threading import Event, Thread
from typing import cast

import pytest

from shared.broker.asking import Asking
from shared.broker.broker import TaskBroker
from shared.broker.dispatch import Dispatch
from shared.broker.record import pack_id
from shared.broker.scripts import through_pool
from shared.broker.states import Reason, State
from tests.support.engine_worker import (
    KEEP,
    KEYS,
    QUEUE,
    EngineWorker,
    Journal,
    send,
    send_alone,
    send_many,
    wait_for,
)
from tests.support.engines import dead_letters
from tests.support.redis_server import PrivateRedis
from tests.support.waiting import eventually

HEALED_WITHIN_S = 12
AT_ONCE_S = 1.3
FINAL = {State.SUCCESS, State.FAILURE, State.IGNORED, State.REVOKED}


def states(sender: TaskBroker, task_ids: Sequence[str]) -> Counter[State]:
    return Counter(sender.engine.look_up(task_id).state for task_id in task_ids)


def runs(journal: Journal, task_ids: Sequence[str]) -> Counter[int]:
    """How many tasks have begun so many times."""
    begun = Counter(journal.begun())
    return Counter(begun[task_id] for task_id in task_ids)


def take_back_what_lost_workers_held(sender: TaskBroker) -> None:
    """As another worker does once their leases have run out; here at once."""
    leases = KEYS.key("leases", QUEUE)
    if held := sender.client.zrange(leases, 0, -1):
        sender.client.zadd(leases, dict.fromkeys(held, 0))
        Dispatch(Asking(through_pool(sender.client), KEYS), KEEP).reap([QUEUE])


@pytest.mark.parametrize("number", [1, 3])
def test_however_many_workers_nothing_runs_twice(
    tmp_path: Path, path: Path, own_redis: PrivateRedis, sender: TaskBroker, journal: Journal, number: int
) -> None:
    """Ready ones, some that fall due meanwhile, and some that are tried again at once."""
    workers = [EngineWorker(tmp_path / str(each), own_redis.url, path) for each in range(number)]
    try:
        ready = send_many(sender, "quick", 2_000)
        due = send_many(sender, "quick", 1_000, due=timedelta(seconds=0.5))
        failing = send_many(sender, "failing", 200, 2, 1)
        wait_for(sender, [*ready, *due, *failing], 30)
        assert (runs(journal, ready), runs(journal, due)) == ({1: len(ready)}, {1: len(due)})
        assert runs(journal, failing) == {3: len(failing)}
        assert {entry.pid for entry in journal.entries("begin")} == {worker.pid for worker in workers}
        stats = sender.engine.stats([QUEUE])[QUEUE]
        assert (stats.is_empty, stats.dead) == (True, 0)
    finally:
        for worker in workers:
            worker.kill()


def test_what_a_killed_worker_held_is_back_within_twelve_seconds(
    tmp_path: Path, path: Path, own_redis: PrivateRedis, sender: TaskBroker, journal: Journal
) -> None:
    """A hundred running and a thousand waiting for their time: none is lost, and those that wait are not late though
    one of the two that look after them has died.
    """
    gate = tmp_path / "gate"
    with EngineWorker(tmp_path / "killed", own_redis.url, path, threads=100) as killed:
        running = send_many(sender, "gated", 100, str(gate))
        eventually(lambda: len(journal.begun()) == 100, what="the beginning of all")
        with EngineWorker(tmp_path / "other", own_redis.url, path, threads=100) as other:
            due = timedelta(seconds=4)
            delayed = send_many(sender, "quick", 1_000, due=due)
            due_at = time.monotonic() + due.total_seconds()
            killed.kill()
            killed_at = time.monotonic()
            gate.touch()
            wait_for(sender, [*running, *delayed], HEALED_WITHIN_S + 3)
            begun = {entry.task_id: entry for entry in journal.entries("begin") if entry.pid == other.pid}
            assert set(begun) == {*running, *delayed}
            assert max(begun[task_id].at for task_id in running) - killed_at < HEALED_WITHIN_S
            assert max(begun[task_id].at for task_id in delayed) - due_at < AT_ONCE_S + 1  # it runs them one by one
            assert (runs(journal, running), runs(journal, delayed)) == ({2: 100}, {1: 1_000})


@pytest.mark.soak
def test_workers_killed_at_random_lose_nothing_and_double_only_what_they_held(
    tmp_path: Path, path: Path, own_redis: PrivateRedis, sender: TaskBroker, journal: Journal
) -> None:
    """Ten times one of three, replaced each time, in the midst of promoting, fetching, beginning and finishing."""
    chance = Random(7)
    workers = [EngineWorker(tmp_path / f"first{number}", own_redis.url, path) for number in range(3)]
    killed: set[int] = set()
    try:
        ready = send_many(sender, "long", 4_000, 0.02)
        due = [
            task_id
            for ms in range(1_000)
            for task_id in send_many(sender, "quick", 2, due=timedelta(milliseconds=20 * ms))
        ]
        failing = send_many(sender, "failing", 1_000, 2, 100)
        for number in range(10):
            Event().wait(chance.uniform(0.5, 2.5))
            victim = chance.randrange(3)
            workers[victim].kill()
            killed.add(workers[victim].pid)
            workers[victim] = EngineWorker(tmp_path / f"next{number}", own_redis.url, path)
        wait_for(sender, [*ready, *due, *failing], 60)
        begun_by: dict[str, list[int]] = {}
        for entry in journal.entries("begin"):
            begun_by.setdefault(entry.task_id, []).append(entry.pid)
        doubled = [begun_by[task_id] for task_id in [*ready, *due] if len(begun_by[task_id]) > 1]
        assert doubled
        assert all(set(pids[:-1]) <= killed for pids in doubled)
        assert all(len([pid for pid in begun_by[task_id] if pid not in killed]) <= 3 for task_id in failing)
        assert dead_letters(sender.engine, QUEUE) == []
    finally:
        for worker in workers:
            worker.kill()


def test_hundreds_that_a_lost_worker_held_are_back_as_soon(
    tmp_path: Path, path: Path, own_redis: PrivateRedis, sender: TaskBroker, journal: Journal
) -> None:
    """As many as a worker of the exams queue may hold: eight threads, each with a hundred to settle together."""
    held = send_many(sender, "quick", 800)
    lost = Dispatch(Asking(through_pool(sender.client), KEYS), KEEP)
    assert len(lost.fetch(QUEUE, len(held)).deliveries) == len(held)
    lost_at = time.monotonic()
    with EngineWorker(tmp_path / "other", own_redis.url, path):
        wait_for(sender, held, HEALED_WITHIN_S + 5)
    assert max(entry.at for entry in journal.entries("begin")) - lost_at < HEALED_WITHIN_S
    assert runs(journal, held) == {1: len(held)}


@pytest.mark.parametrize("seconds", [12, pytest.param(30, marks=pytest.mark.soak)])
def test_a_worker_that_was_frozen_leaves_alone_what_moved_on(
    tmp_path: Path, path: Path, own_redis: PrivateRedis, sender: TaskBroker, journal: Journal, seconds: int
) -> None:
    """What it ran and what it had yet to begin run in another; once it goes on it begins, finishes and renews none of
    them, and takes part again.
    """
    gate = tmp_path / "gate"
    with EngineWorker(tmp_path / "frozen", own_redis.url, path, threads=2) as frozen:
        running = send(sender, "gated", str(gate))
        eventually(journal.begun, what="its beginning")
        alone = send_alone(sender, "quick")
        eventually(lambda: renewed_together(sender, 2), what="a common renewal")
        assert sender.engine.look_up(alone).state is State.PENDING
        frozen.signal(signal.SIGSTOP)
        thaw_at = time.monotonic() + seconds
        with EngineWorker(tmp_path / "other", own_redis.url, path, threads=2) as other:
            eventually(lambda: runs(journal, [running, alone]) == {2: 1, 1: 1}, HEALED_WITHIN_S + 1, "the other's runs")
            Event().wait(max(0.0, thaw_at - time.monotonic()))
            token = sender.client.hget(KEYS.key("live", pack_id(running)), "token")
            frozen.signal(signal.SIGCONT)
            eventually(lambda: "lease_lost" in frozen.errors(), 5, "the notice that it holds nothing")
            assert sender.client.hget(KEYS.key("live", pack_id(running)), "token") == token
            gate.touch()
            wait_for(sender, [running, alone], 5)
            eventually(lambda: journal.ended().count(running) == 2, what="the end of the frozen run")
            more = send_many(sender, "long", 30, 0.05)
            wait_for(sender, more, 5)
            assert sender.engine.look_up(running).result == other.pid
            assert [entry.pid for entry in journal.entries("begin") if entry.task_id == alone] == [other.pid]
            assert (runs(journal, [running, alone]), runs(journal, more)) == ({2: 1, 1: 1}, {1: len(more)})
            begun_by = {entry.pid for entry in journal.entries("begin") if entry.task_id in more}
            assert begun_by == {frozen.pid, other.pid}


def test_a_body_that_kills_its_process_six_times_is_a_dead_letter_and_its_neighbours_are_not(
    tmp_path: Path, path: Path, own_redis: PrivateRedis, sender: TaskBroker, journal: Journal
) -> None:
    """Its worker is started again each time. What ran beside it is given another run, and none is lost any more once
    the culprit runs alone.
    """
    killer = send(sender, "killer")
    neighbours = send_many(sender, "long", 7, 0.3)
    for number in range(1, 7):
        with EngineWorker(tmp_path / f"worker{number}", own_redis.url, path, threads=4) as worker:
            assert worker.wait() == -signal.SIGKILL
        assert journal.begun().count(killer) == number
        take_back_what_lost_workers_held(sender)
    told = sender.engine.look_up(killer)
    assert (told.state, told.deliveries, told.error and told.error.type) == (State.FAILURE, 6, "WorkerLost")
    with EngineWorker(tmp_path / "last", own_redis.url, path, threads=4) as last:
        wait_for(sender, neighbours, 5)
        assert last.end() == 0
    assert [state.id for state in dead_letters(sender.engine, QUEUE)] == [killer]
    assert max(Counter(journal.begun())[task_id] for task_id in neighbours) <= 3
    assert leased(sender) == 0


@pytest.mark.soak
def test_a_body_that_kills_its_process_is_given_up_without_help(
    tmp_path: Path, path: Path, own_redis: PrivateRedis, sender: TaskBroker, journal: Journal
) -> None:
    """The same in real time: leases run out, and each worker takes back what the one before it held."""
    killer = send(sender, "killer")
    neighbours = send_many(sender, "long", 20, 0.3)
    for number in range(1, 7):
        with EngineWorker(tmp_path / f"worker{number}", own_redis.url, path, threads=4) as worker:
            assert worker.wait() == -signal.SIGKILL
    with EngineWorker(tmp_path / "last", own_redis.url, path, threads=4):
        wait_for(sender, neighbours, HEALED_WITHIN_S)
        eventually(lambda: sender.engine.look_up(killer).state is State.FAILURE, HEALED_WITHIN_S)
    assert [state.id for state in dead_letters(sender.engine, QUEUE)] == [killer]
    assert journal.begun().count(killer) == 6


def test_a_running_body_is_interrupted_in_another_process(
    tmp_path: Path, path: Path, own_redis: PrivateRedis, sender: TaskBroker, journal: Journal
) -> None:
    """At once, for good, and without harm to its thread."""
    with EngineWorker(tmp_path / "worker", own_redis.url, path, threads=1) as worker:
        task_id = send(sender, "spinning", 60)
        eventually(journal.begun, what="its beginning")
        assert sender.engine.cancel([task_id], interrupts=True) == ["running"]
        eventually(lambda: sender.engine.look_up(task_id).is_over, AT_ONCE_S, "its end")
        told = sender.engine.look_up(task_id)
        assert (told.state, told.reason, told.retries) == (State.REVOKED, Reason.TERMINATED, 0)
        wait_for(sender, send_many(sender, "quick", 5), AT_ONCE_S)
        assert (journal.begun().count(task_id), journal.ended().count(task_id)) == (1, 0)
        assert worker.end() == 0


def test_interrupts_at_any_moment_leave_every_thread_alive_and_every_state_final(
    tmp_path: Path, path: Path, own_redis: PrivateRedis, sender: TaskBroker, journal: Journal
) -> None:
    """From before the body to just after its end, where it may be too late."""
    threads, each = 4, 75
    answers: dict[str, str] = {}

    def send_and_interrupt(seed: int) -> None:
        chance = Random(seed)
        for _ in range(each):
            body_s = chance.choice([0.01, 0.03, 0.06])
            task_id = send(sender, "spinning", body_s)
            if chance.random() < 0.9:
                wait_until_begun(sender, task_id)
            Event().wait(chance.uniform(0, body_s))
            (answers[task_id],) = sender.engine.cancel([task_id], interrupts=True)

    with EngineWorker(tmp_path / "worker", own_redis.url, path, threads=threads) as worker:
        senders = [Thread(target=send_and_interrupt, args=(seed,)) for seed in range(threads)]
        for thread in senders:
            thread.start()
        for thread in senders:
            thread.join(60)
        assert len(answers) == threads * each
        eventually(lambda: set(states(sender, list(answers))) <= FINAL, 10, "the end of all")
        ends = Counter((answer, *end_of(sender, task_id)) for task_id, answer in answers.items())
        assert set(ends) <= {
            ("revoked", State.REVOKED, Reason.CANCELLED),
            ("running", State.REVOKED, Reason.TERMINATED),
            ("running", State.SUCCESS, None),
            ("too_late", State.SUCCESS, None),
        }
        assert ends["running", State.REVOKED, Reason.TERMINATED] > 50, ends
        assert max(Counter(journal.begun()).values()) == 1
        gate = tmp_path / "gate"
        together = send_many(sender, "gated", threads, str(gate))
        eventually(lambda: set(together) <= set(journal.begun()), 5, "a beginning in every thread")
        gate.touch()
        wait_for(sender, together, 5)
        assert leased(sender) == 0
        assert worker.end() == 0


def wait_until_begun(sender: TaskBroker, task_id: str) -> None:
    eventually(lambda: sender.engine.look_up(task_id).state is not State.PENDING, what="its beginning")


def renewed_together(sender: TaskBroker, number: int) -> bool:
    """So many are held, and all leases end in the same moment."""
    leases = KEYS.key("leases", QUEUE)
    ends = [sender.client.zscore(leases, cast(bytes, held)) for held in sender.client.zrange(leases, 0, -1)]
    return (len(ends), len(set(ends))) == (number, 1)


def end_of(sender: TaskBroker, task_id: str) -> tuple[State, Reason | None]:
    told = sender.engine.look_up(task_id)
    return told.state, told.reason


def leased(sender: TaskBroker) -> int:
    return sender.engine.stats([QUEUE])[QUEUE].leased
