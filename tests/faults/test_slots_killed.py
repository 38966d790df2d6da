"""Whoever is killed, a worker or what forks its children or a child: nothing is left behind, and the rest goes on."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from shared.errors import TimeLimitExceeded, WorkerLost
from tests.conftest import ROUNDS
from tests.support.parts import ROOT, START_WITHIN_S, Part
from tests.support.slots import WITHIN_S, Runs, children_of, is_gone, open_files, parent_of, runs
from tests.support.waiting import eventually
from worker.slots import Running

BODIES = ["spin", "hold_the_gil", "ignore_signals"]


@pytest.fixture
def jobs() -> Iterator[Runs]:
    with runs() as opened:
        yield opened


def told_by(worker: Part, lines: int) -> list[int]:
    """The process ids in so many lines, which are what its jobs ask."""
    eventually(lambda: worker.output().count("\n") == lines, START_WITHIN_S, "a question")
    return [pid for line in worker.output().splitlines() for pid in json.loads(line)]


@pytest.mark.parametrize("body", BODIES)
def test_children_die_with_a_killed_worker(tmp_path: Path, body: str) -> None:
    """Whatever they do, and whatever they have started; so does what has forked them."""
    job = json.dumps(["start_others", body])
    with Part(tmp_path / "worker", "tests.support.slot_worker", job, job, environ={}) as worker:
        pids = told_by(worker, 2)
        server = parent_of(pids[0])
        worker.end(signal.SIGKILL)
        eventually(lambda: all(is_gone(pid) for pid in [server, *pids]), what="their end")
    assert len(pids) == 8


@pytest.mark.parametrize("body", BODIES)
def test_children_die_with_what_has_forked_them(jobs: Runs, body: str) -> None:
    """Their jobs fail for it, and the next ones run in new children."""
    outcomes = [jobs.beside(body, time_limit_s=None) for _ in range(3)]
    pids = [jobs.next_asked() for _ in outcomes]
    os.kill(parent_of(pids[0]), signal.SIGKILL)
    for outcome in outcomes:
        with pytest.raises(WorkerLost):
            outcome.result(WITHIN_S)
    eventually(lambda: all(is_gone(pid) for pid in pids))
    assert jobs.run("pid") not in pids


@pytest.mark.parametrize("body", BODIES)
def test_a_limit_is_kept_though_what_forks_the_children_is_frozen(jobs: Runs, body: str) -> None:
    """It is given five seconds to kill one, and is killed itself then, with all of them; the next job finds another."""
    outcome = jobs.beside(body, time_limit_s=0.5)
    pid = jobs.next_asked()
    server = parent_of(pid)
    os.kill(server, signal.SIGSTOP)
    with pytest.raises(TimeLimitExceeded):
        outcome.result(WITHIN_S)
    eventually(lambda: is_gone(pid) and is_gone(server))
    assert jobs.run("pid") != pid


def test_a_child_is_missed_though_its_connection_is_kept_and_nobody_says_how_it_ended(jobs: Runs) -> None:
    """What it had started lives on, for once: who would have killed that is dead too."""
    outcome = jobs.beside("start_others", "wait_for_ever", time_limit_s=None)
    pid, *others = jobs.next_asked()
    try:
        os.kill(parent_of(pid), signal.SIGKILL)
        with pytest.raises(WorkerLost, match="died with the process that it was forked from"):
            outcome.result(WITHIN_S)
    finally:
        for other in others:
            os.kill(other, signal.SIGKILL)


def test_what_forks_the_children_may_be_killed_again_and_again(jobs: Runs) -> None:
    """A job at that moment runs or is lost; the worker has one such process, and none that nobody has buried."""
    for _ in range(ROUNDS):
        pid = jobs.run("pid")
        os.kill(parent_of(pid), signal.SIGKILL)
        with suppress(WorkerLost):
            jobs.run("nothing")
        eventually(lambda pid=pid: is_gone(pid))  # type: ignore[misc]
    server = parent_of(jobs.run("pid"))
    assert [pid for pid in children_of(os.getpid()) if children_of(pid)] == [server]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_all_processes_of_a_service_ends_no_job(jobs: Runs, number: signal.Signals) -> None:
    """The worker alone says when they end: it drains them first."""
    outcomes = [jobs.beside("tell_and_sleep", 0.5) for _ in range(3)]
    pids = [jobs.next_asked() for _ in outcomes]
    for pid in [parent_of(pids[0]), *pids]:
        os.kill(pid, number)
    assert [outcome.result(WITHIN_S) for outcome in outcomes] == [None] * 3
    assert jobs.run("pid") in pids


def test_children_are_not_in_the_terminals_reach(jobs: Runs) -> None:
    """Each in a session of its own, and so is what forks them: Ctrl-C does not come to them."""
    pid = jobs.run("pid")
    assert os.getsid(pid) == pid
    assert os.getsid(parent_of(pid)) == parent_of(pid)


def test_a_child_whose_parent_died_before_it_could_tie_itself_to_it_dies() -> None:
    """The kernel's signal would not come any more."""
    late = "import os; from worker import process_tree; process_tree.die_with(os.getpid())"
    assert subprocess.run([sys.executable, "-c", late], cwd=ROOT, timeout=WITHIN_S).returncode == -signal.SIGKILL


def test_without_files_left_a_run_waits(jobs: Runs) -> None:
    """A limit is still told as one, and there are children again as soon as there are files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    outcome = jobs.beside("spin", time_limit_s=0.3)
    jobs.next_asked()
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with capture_logs() as logged:
            waiting = jobs.beside("nothing")
            eventually(lambda: [each for each in logged if "can be started" in each.get("why", "")])
        with pytest.raises(TimeLimitExceeded):
            outcome.result(WITHIN_S)
        assert not waiting.done()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    waiting.result(WITHIN_S)


def test_killed_children_leave_nothing_behind(jobs: Runs) -> None:
    """Two hundred, by limit, by stop, by crash and by somebody else: no file open, no process, no zombie."""
    pid = jobs.run("pid")
    server = parent_of(pid)
    eventually(lambda: children_of(server) == {pid})
    before = open_files(os.getpid()), open_files(server)
    for number in range(200):
        kill_one(jobs, number)
    pid = jobs.run("pid")
    assert children_of(server) == {pid}
    assert (open_files(os.getpid()), open_files(server)) == before


def kill_one(jobs: Runs, number: int) -> None:
    match number % 4:
        case 0:
            with pytest.raises(TimeLimitExceeded):
                jobs.run("wait_for_ever", time_limit_s=0.01)
        case 1:
            began: Future[Running] = Future()
            outcome = jobs.beside("spin", on_start=began.set_result)
            began.result(WITHIN_S).stop(ConnectionAbortedError())
            with pytest.raises(ConnectionAbortedError):
                outcome.result(WITHIN_S)
        case 2:
            with pytest.raises(WorkerLost):
                jobs.run("leave", 1)
        case _:
            pid = jobs.run("pid")
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: is_gone(pid))


def test_what_flees_by_forking_is_caught(jobs: Runs) -> None:
    """Each process is gone as soon as it has forked the next; it falls to what forks the children in the end."""
    with pytest.raises(TimeLimitExceeded):
        jobs.run("flee", 5, time_limit_s=0.3)
    pid = jobs.run("pid")
    assert children_of(parent_of(pid)) == {pid}


def test_killing_many_at_once_hits_each_of_them(jobs: Runs) -> None:
    """And no other one: half of them go on."""
    others = [jobs.beside("tell_and_sleep", 1.5) for _ in range(8)]
    alive = [jobs.next_asked() for _ in others]
    limited = [jobs.beside("start_others", "wait_for_ever", time_limit_s=1.0) for _ in range(8)]
    families = [jobs.next_asked() for _ in limited]
    for outcome in limited:
        with pytest.raises(TimeLimitExceeded):
            outcome.result(WITHIN_S)
    assert all(is_gone(pid) for family in families for pid in family)
    assert [outcome.result(WITHIN_S) for outcome in others] == [None] * 8
    assert not any(is_gone(pid) for pid in alive)
