"""Workers that are killed, freeze or never boot, and a supervisor that is killed itself or has lost Redis."""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from shared.broker.broker import TaskBroker
from shared.broker.engine import QueueStats
from shared.pulse import Pulse
from tests.support.engine_worker import send_many, wait_for
from tests.support.redis_server import PrivateRedis
from tests.support.supervised import THREADS, Supervised, is_there
from tests.support.waiting import eventually
from worker.scaling import CALM, Bounds
from worker.supervisor import (
    FROZEN_AFTER_LOOKS,
    HEALTHY_AFTER_S,
    RESTART_AFTER_S,
    RESTART_AT_LEAST_EVERY_S,
    Child,
    Supervisor,
)

HEALED_WITHIN_S = 15
A_QUEUE = QueueStats([], 0, 0, 0, 0, 0, None, None)
BEATS = 'echo > "$INVIGIL_PULSE_FILE"; '


def test_a_killed_worker_is_replaced_and_the_others_go_on(
    tmp_path: Path, own_redis: PrivateRedis, sender: TaskBroker
) -> None:
    """Each of two runs four tasks: those of the killed one run again, those of the other do not notice."""
    gate = tmp_path / "gate"
    with Supervised(tmp_path, own_redis.url, Bounds(2, 2)) as supervisor:
        killed, other = supervisor.wait_for_workers(2)
        tasks = send_many(sender, "gated", 2 * THREADS, str(gate))
        eventually(lambda: len(supervisor.journal.begun()) == len(tasks), what="the beginning of all")
        begun_by = {entry.task_id: entry.pid for entry in supervisor.journal.entries("begin")}
        os.kill(killed, signal.SIGKILL)
        supervisor.wait_for_workers(3)
        assert other in supervisor.workers()
        (died,) = supervisor.logged("worker_died")
        assert (died["pid"], died["status"], died["restart_in_s"]) == (killed, -signal.SIGKILL, RESTART_AFTER_S)
        gate.touch()
        wait_for(sender, tasks, HEALED_WITHIN_S)
        runs = Counter(supervisor.journal.begun())
        assert runs == {task_id: 1 if pid == other else 2 for task_id, pid in begun_by.items()}
        assert supervisor.stop() == 0


def test_workers_that_all_die_at_boot_are_tried_ever_more_rarely(
    tmp_path: Path, own_redis: PrivateRedis, sender: TaskBroker
) -> None:
    """Nor are there more of them, whatever waits. The supervisor goes on, and does not beat."""
    send_many(sender, "quick", 1_000)
    begin_s = time.monotonic()
    with Supervised(tmp_path, own_redis.url, Bounds(8, 2), "sh", "-c", "exit 3") as supervisor:
        eventually(lambda: len(supervisor.logged("worker_died")) >= 6, 20, "three deaths of each")
        assert time.monotonic() - begin_s >= 1.5
        deaths = supervisor.logged("worker_died")[:6]
        assert [(died["status"], died["restart_in_s"]) for died in deaths] == [
            (3, wait_s) for wait_s in (0.5, 0.5, 1, 1, 2, 2)
        ]
        assert supervisor.logged("scaled") == []
        assert not supervisor.pulse.exists()
        assert supervisor.stop() == 0


@pytest.mark.parametrize("is_busy", [True, False])
def test_workers_end_after_their_supervisor_was_killed(
    tmp_path: Path, own_redis: PrivateRedis, sender: TaskBroker, is_busy: bool
) -> None:
    """The kernel tells them; they end their work first, and nothing runs twice."""
    gate = tmp_path / "gate"
    with Supervised(tmp_path, own_redis.url, Bounds(2, 2)) as supervisor:
        workers = supervisor.wait_for_workers(2)
        tasks = send_many(sender, "gated", 2 * THREADS * is_busy, str(gate))
        eventually(lambda: len(supervisor.journal.begun()) == len(tasks), what="the beginning of all")
        supervisor.kill()
        gate.touch()
        eventually(lambda: not any(map(is_there, workers)), what="the workers' end")
        assert Counter(supervisor.journal.begun()) == Counter(supervisor.journal.ended()) == Counter(tasks)


def test_what_a_killed_worker_had_started_leaves_no_entry_behind(tmp_path: Path, own_redis: PrivateRedis) -> None:
    """Its orphans fall to the supervisor, which waits for them, and not for its own workers' status, which it logs."""
    orphans = tmp_path / "orphans"
    dies = f"{BEATS} setsid sh -c 'echo $$ >> {orphans}; sleep 0.2' & sleep 0.1; kill -9 $$"
    with Supervised(tmp_path, own_redis.url, Bounds(1, 1), "sh", "-c", dies) as supervisor:
        eventually(lambda: len(supervisor.logged("worker_died")) >= 3, 20, "three deaths")
        assert {died["status"] for died in supervisor.logged("worker_died")} == {-signal.SIGKILL}
        (first, second, *_) = map(int, orphans.read_text().split())
        eventually(lambda: not is_there(first) and not is_there(second), what="the end of the orphans")
        assert supervisor.stop() == 0


def test_without_redis_there_stay_as_many_and_the_dead_are_replaced(
    tmp_path: Path, own_redis: PrivateRedis, sender: TaskBroker
) -> None:
    """It is told once, not at each look; when Redis is back the supervisor grows as ever."""
    with Supervised(tmp_path, own_redis.url, Bounds(4, 2)) as supervisor:
        killed, other = supervisor.wait_for_workers(2)

        def told_by_supervisor(event: str) -> list[dict[str, Any]]:
            return [line for line in supervisor.logged(event) if line["process"] == "supervisor"]

        own_redis.kill()
        eventually(lambda: told_by_supervisor("redis_away"), what="the loss of Redis")
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: set(supervisor.workers()) - {killed, other}, what="another worker")
        assert len(supervisor.workers()) == 2
        beaten_at = supervisor.pulse.stat().st_mtime
        eventually(lambda: supervisor.pulse.stat().st_mtime > beaten_at + 1, what="more beats")
        away = told_by_supervisor("redis_away")
        assert (len(away), away[0]["processes"], supervisor.logged("scaled")) == (1, 2, [])
        own_redis.start()
        eventually(lambda: told_by_supervisor("redis_back"), what="the return of Redis")
        tasks = send_many(sender, "long", 100, 0.5)
        wait_for(sender, tasks, 30)
        assert Counter(supervisor.journal.begun()) == Counter(tasks)
        assert [(line["from"], line["to"]) for line in supervisor.logged("scaled")] == [(2, 4)]
        assert supervisor.stop() == 0


@pytest.fixture
def pulse(tmp_path: Path) -> Path:
    return tmp_path / "pulse"


@contextmanager
def a_child(pulse: Path, *command: str) -> Iterator[Child]:
    """Its time is what `keep_running` is told."""
    child = Child(command, str(pulse))
    try:
        yield child
    finally:
        child.stop()
        child.end_by(time.monotonic())


def kept_running_until(child: Child, now_s: float, event: str) -> dict[str, Any]:
    """The first such event that it logs, at that time."""
    with capture_logs() as logs:

        def told() -> list[dict[str, Any]]:
            child.keep_running(now_s)
            return [dict(line) for line in logs if line["event"] == event]

        return eventually(told, what=event)[0]


def test_restarts_come_ever_later_until_one_has_been_healthy_for_a_while(pulse: Path) -> None:
    """Twice as late each time, up to ten seconds; from half a second again after one that lived for thirty."""
    with a_child(pulse, "sh", "-c", "exit 3") as child:
        now_s, waits = 100.0, []
        for _ in range(7):
            died = kept_running_until(child, now_s, "worker_died")
            assert died["status"] == 3
            waits.append(died["restart_in_s"])
            now_s += died["restart_in_s"]
        assert waits == [0.5, 1, 2, 4, 8, RESTART_AT_LEAST_EVERY_S, RESTART_AT_LEAST_EVERY_S]
        child.keep_running(now_s)
        assert kept_running_until(child, now_s + HEALTHY_AFTER_S, "worker_died")["restart_in_s"] == RESTART_AFTER_S


def test_none_is_started_before_its_time(pulse: Path, tmp_path: Path) -> None:
    """However often the supervisor looks."""
    starts = tmp_path / "starts"
    with a_child(pulse, "sh", "-c", f"echo >> {starts}") as child:
        kept_running_until(child, 100, "worker_died")
        for _ in range(1_000):
            child.keep_running(100 + RESTART_AFTER_S - 0.01)
        assert starts.read_text() == "\n"
        kept_running_until(child, 100 + RESTART_AFTER_S, "worker_died")
        assert starts.read_text() == "\n\n"


def test_a_program_that_cannot_be_started_is_tried_again(pulse: Path) -> None:
    """As one that dies."""
    with a_child(pulse, "/nowhere") as child:
        waits = [kept_running_until(child, now_s, "worker_not_started")["restart_in_s"] for now_s in (100, 101, 103)]
        assert waits == [0.5, 1, 2]


def test_a_worker_that_no_longer_beats_is_killed_and_replaced(pulse: Path) -> None:
    """After so many looks, not after so long: where all stood still together, none is to blame."""
    with a_child(pulse, "sh", "-c", f"{BEATS} exec sleep 600") as child:
        child.keep_running(100)
        assert not child.is_serving
        eventually(pulse.exists, what="the first beat")
        for beat in range(2):
            os.utime(pulse, (beat, beat))
            with capture_logs() as logs:
                for _ in range(FROZEN_AFTER_LOOKS):
                    child.keep_running(10_000)
                    assert child.is_serving
            assert logs == []
        with capture_logs() as logs:
            child.keep_running(10_000)
        assert [line["event"] for line in logs] == ["worker_frozen"]
        assert kept_running_until(child, 10_000, "worker_died")["status"] == -signal.SIGKILL
        assert not child.is_serving


def test_one_that_never_beats_at_all_is_killed_too(pulse: Path) -> None:
    """A boot that hangs."""
    with a_child(pulse, "sleep", "600") as child:
        assert kept_running_until(child, 100, "worker_frozen")["silent_s"] == 30
        assert kept_running_until(child, 100, "worker_died")["status"] == -signal.SIGKILL


def test_what_a_dead_worker_leaves_in_its_session_ends_with_it(pulse: Path, tmp_path: Path) -> None:
    """What its tasks have started would go on without anybody to wait for it."""
    left = tmp_path / "left"
    with a_child(pulse, "sh", "-c", f"sleep 600 & echo $! > {left}; exit 3") as child:
        kept_running_until(child, 100, "worker_died")
        eventually(lambda: not is_running(int(left.read_text())), what="the end of what was left")


def test_one_that_boots_yet_goes_at_once_when_it_drains(pulse: Path) -> None:
    """It is not waited for until it has booted, nor is its end a death."""
    with a_child(pulse, "sleep", "600") as child, capture_logs() as logs:
        child.keep_running(100)
        child.drain()
        eventually(child.has_drained, what="its end")
        assert [(line["event"], line["status"]) for line in logs] == [("worker_drained", -signal.SIGTERM)]


def test_one_that_freezes_while_it_drains_is_killed(pulse: Path) -> None:
    """Else it would stay for good."""
    with a_child(pulse, "sh", "-c", f"trap '' USR1; {BEATS} exec sleep 600") as child:
        child.keep_running(100)
        eventually(pulse.exists, what="the first beat")
        child.drain()
        with capture_logs() as logs:
            for beat in range(2):
                os.utime(pulse, (beat, beat))
                for _ in range(FROZEN_AFTER_LOOKS):
                    assert not child.has_drained()
            assert logs == []
            eventually(child.has_drained, what="its end")
        assert [line["event"] for line in logs] == ["worker_frozen", "worker_drained"]
        assert logs[-1]["status"] == -signal.SIGKILL


def test_one_that_overstays_is_killed_at_the_supervisor_s_end(pulse: Path) -> None:
    """Only then: nothing else cuts the work of one that drains short."""
    with a_child(pulse, "sh", "-c", f"trap '' TERM; {BEATS} while :; do sleep 600; done") as child:
        child.keep_running(100)
        eventually(pulse.exists, what="the first beat")
        child.stop()
        assert not child.has_drained()
        with capture_logs() as logs:
            child.end_by(time.monotonic() + 0.2)
        assert [line["event"] for line in logs] == ["worker_overstays", "worker_drained"]
        assert child.has_drained()


def test_the_one_that_cannot_boot_is_let_go_first(tmp_path: Path) -> None:
    """Of two, though it is the older one: the other goes on."""
    boots_once = f"mkdir {tmp_path}/booted || exit 3; {BEATS} echo $$ > {tmp_path}/older; exec sleep 600"
    boots = f"{BEATS} echo $$ > {tmp_path}/younger; exec sleep 600"
    children = iter(
        Child(["sh", "-c", command], f"{tmp_path}/{name}-beats")
        for name, command in (("older", boots_once), ("younger", boots))
    )
    queue = A_QUEUE._replace(ready=[5], leased=1, oldest_ready=timedelta(seconds=2))
    now_s = 100.0
    supervisor = Supervisor(lambda: next(children), lambda: [queue], Bounds(2, 1), 1, Pulse(f"{tmp_path}/pulse"))
    with capture_logs() as logs:

        def told(event: str) -> bool:
            """In the end, though time stands still."""
            supervisor.run_once(now_s)
            return any(line["event"] == event for line in logs)

        try:
            eventually(lambda: told("scaled"), what="growth once the older one serves")
            younger = int(eventually(lambda: written(tmp_path / "younger"), what="the younger one's boot"))
            os.kill(int(written(tmp_path / "older")), signal.SIGKILL)
            eventually(lambda: told("worker_died"), what="the older one's death")
            queue = A_QUEUE
            supervisor.run_once(now_s)
            now_s += CALM.total_seconds()
            logs.clear()
            eventually(lambda: told("scaled"), what="its being let go")
            supervisor.run_once(now_s)
            assert is_running(younger)
        finally:
            supervisor.stop()
    assert not is_running(younger)


@pytest.mark.soak
def test_a_frozen_worker_is_replaced_within_a_minute(
    tmp_path: Path, own_redis: PrivateRedis, sender: TaskBroker
) -> None:
    """Its tasks run elsewhere long before that, as its leases run out."""
    with Supervised(tmp_path, own_redis.url, Bounds(2, 2)) as supervisor:
        frozen, other = supervisor.wait_for_workers(2)
        os.kill(frozen, signal.SIGSTOP)
        eventually(lambda: supervisor.logged("worker_frozen"), 60, "its being noticed")
        supervisor.wait_for_workers(3)
        assert frozen not in supervisor.workers()
        assert other in supervisor.workers()
        wait_for(sender, send_many(sender, "quick", 100), HEALED_WITHIN_S)
        assert supervisor.stop() == 0


def written(path: Path) -> str:
    """What a program has written there so far."""
    return path.read_text() if path.exists() else ""


def is_running(pid: int) -> bool:
    """Not even waiting for a parent that asks how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
