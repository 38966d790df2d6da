"""Jobs in killable child processes: they end at their limit whatever they do, and nobody else notices."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from shared.errors import InvigilError, SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLost
from tests.conftest import ROUNDS
from tests.support.slots import RUNNER, WITHIN_S, Runs, children_of, is_gone, parent_of, runs
from tests.support.waiting import eventually
from worker.slot_channel import LONGEST
from worker.slots import Running, Slots
from worker.soft_limit import held_back, soft_limit

LIMIT_S = 0.3
SOON_S = 0.5  # on busy cores; about 0.01 on idle ones


class Stopped(InvigilError):
    """What tests stop jobs with."""


@pytest.fixture
def jobs() -> Iterator[Runs]:
    before = children_of(os.getpid())
    with runs() as opened:
        yield opened
    assert children_of(os.getpid()) <= before


# Jobs and questions


def test_a_child_does_one_job_after_the_other(jobs: Runs) -> None:
    """A thousand, and all in the same process."""
    assert len({jobs.run("pid") for _ in range(1000)}) == 1


def test_there_are_as_many_children_as_jobs_at_once(jobs: Runs) -> None:
    """Five at most here, whatever comes after; and the one used last is used next."""
    first = jobs.run("pid")
    together = [jobs.beside("tell_and_sleep", 0.2) for _ in range(5)]
    pids = {jobs.next_asked() for _ in together}
    for each in together:
        each.result(WITHIN_S)
    assert first in pids
    assert len(pids) == 5
    for _ in range(20):
        assert {each.result(WITHIN_S) for each in [jobs.beside("pid") for _ in range(5)]} <= pids
    assert len({jobs.run("pid") for _ in range(20)}) == 1


def test_questions_are_answered_during_a_run(jobs: Runs) -> None:
    """Many, and large ones."""
    assert jobs.run("questions", 1000, 10) == 10_000
    assert jobs.run("questions", 2, 10_000_000) == 20_000_000


def test_threads_of_a_job_may_ask_at_once(jobs: Runs) -> None:
    """Each gets its own answer."""
    assert jobs.run("questions_from_threads", 50) == [str(number) for number in range(50)]


def test_a_job_that_is_over_cannot_ask(jobs: Runs, tmp_path: Path) -> None:
    """A thread that it has left behind is told so, and the next job gets its own answers."""
    path = tmp_path / "told"
    jobs.run("question_too_late", str(path))
    while not path.exists():
        assert jobs.run("questions", 10, 10) == 100
    assert eventually(path.read_text) == "the job has ended"


def test_a_process_that_a_job_has_forked_cannot_speak_for_it(jobs: Runs) -> None:
    """Neither ask nor reply: it would be taken for the job."""
    assert jobs.run("question_of_a_forked_process") == 7
    assert jobs.run("return_twice") == "original"
    assert jobs.run("questions", 10, 10) == 100


@pytest.mark.parametrize("size", [0, 1, 2**16, 2**16 + 1, 10_000_000, 64 * 2**20])
def test_jobs_and_replies_may_be_much_larger_than_the_connection_holds(jobs: Runs, size: int) -> None:
    """Up to 64 MiB, and byte for byte."""
    data = (os.urandom(1024) * (size // 1024 + 1))[:size]
    reply = jobs.slots.run(b"echo " + data, time_limit_s=WITHIN_S, answer=lambda _: b"", on_start=lambda _: None)
    assert reply == data


def test_a_job_that_is_too_large_is_refused(jobs: Runs) -> None:
    """And the next one runs."""
    with pytest.raises(ValueError, match="are the most"):
        jobs.slots.run(bytes(LONGEST + 1), time_limit_s=None, answer=lambda _: b"", on_start=lambda _: None)
    jobs.run("nothing")


def test_what_an_answer_raises_ends_the_job(jobs: Runs) -> None:
    """The child is not left waiting."""

    def refuse(question: bytes) -> bytes:
        raise Stopped(question.decode())

    pid = jobs.run("pid")
    with pytest.raises(Stopped, match="again"):
        jobs.run("questions_for_ever", answer=refuse)
    assert is_gone(pid)


def test_a_child_has_no_file_of_another_one(jobs: Runs) -> None:
    """It would keep the other's connection open after its death: here each has its own connection only."""
    several = [jobs.beside("sleep", 0.3) for _ in range(4)]
    for each in several:
        each.result(WITHIN_S)
    assert [len(jobs.run("sockets")) for _ in range(4)] == [1] * 4
    assert all(len(each.result(WITHIN_S)) == 1 for each in [jobs.beside("sockets") for _ in range(20)])


def test_what_a_job_starts_ignores_no_signal(jobs: Runs) -> None:
    """Else it could not be terminated."""
    standard = 2**31 - 1  # 32 and 33 are the C library's own, and come from whoever has started the tests
    assert [int(mask, 16) & standard for mask in jobs.run("signals_of_a_started_process")] == [0, 0]


def test_when_memory_runs_out_a_child_goes_before_its_worker(jobs: Runs) -> None:
    """By 500 of 1,000."""
    mine = int(Path("/proc/self/oom_score_adj").read_text())
    assert jobs.run("oom_score_adj") == min(1000, mine + 500)


# Hard limit


@pytest.mark.parametrize("body", ["wait_for_ever", "spin", "hold_the_gil", "ignore_signals", "questions_for_ever"])
def test_the_limit_ends_whatever_a_body_does(jobs: Runs, body: str) -> None:
    """On time, and the next job finds a child that is warm."""
    began = time.monotonic()
    with pytest.raises(TimeLimitExceeded, match=r"hard limit of 0\.3 s"):
        jobs.run(body, time_limit_s=LIMIT_S)
    assert LIMIT_S <= time.monotonic() - began < LIMIT_S + SOON_S
    jobs.run("nothing")
    assert time.monotonic() - began < LIMIT_S + SOON_S


def test_the_limit_holds_for_half_a_message(jobs: Runs) -> None:
    """A body that has announced 64 MiB and sent four bytes."""
    with pytest.raises(TimeLimitExceeded):
        jobs.run("write", "R\0\0\0\0\4\0\0\0half", "wait_for_ever", time_limit_s=LIMIT_S)


def test_the_limit_holds_for_one_question_after_the_other(jobs: Runs) -> None:
    """A body that has asked a thousand before it gets any answer."""

    def slowly(question: bytes) -> bytes:
        threading.Event().wait(0.005)
        return question

    began = time.monotonic()
    with pytest.raises(TimeLimitExceeded):
        jobs.run("write", 1000 * ("?" + 8 * "\0"), "wait_for_ever", time_limit_s=LIMIT_S, answer=slowly)
    assert time.monotonic() - began < LIMIT_S + SOON_S


def test_a_killed_child_is_replaced_before_anybody_needs_it(jobs: Runs) -> None:
    """By one, however many are killed one after the other."""
    server = parent_of(jobs.run("pid"))
    for _ in range(3):
        with pytest.raises(TimeLimitExceeded):
            jobs.run("wait_for_ever", time_limit_s=0.01)
        (replacement,) = eventually(lambda: children_of(server))
        assert jobs.run("pid") == replacement


@pytest.mark.parametrize("then", ["wait_for_ever", "spin", "ignore_signals"])
def test_the_limit_ends_what_the_body_has_started(jobs: Runs, then: str) -> None:
    """Also what is in a session of its own, or a daemon, or keeps the connection open. It is gone when run returns."""
    with pytest.raises(TimeLimitExceeded):
        jobs.run("start_others", then, time_limit_s=1.0)
    pids = jobs.next_asked()
    assert len(pids) == 4
    assert all(is_gone(pid) for pid in pids)


def test_a_limit_that_is_over_at_once_is_kept(jobs: Runs) -> None:
    """Zero is no time, not no limit."""
    with pytest.raises(TimeLimitExceeded):
        jobs.run("wait_for_ever", time_limit_s=0)


def test_neighbours_do_not_notice_a_limit(jobs: Runs) -> None:
    """They finish on time, in the process in which they have begun, and what they have started lives on."""
    neighbours = [jobs.beside("tell_and_sleep", 1.0) for _ in range(3)]
    pids = [jobs.next_asked() for _ in neighbours]
    jobs.beside("start_others", "wait_for_ever")
    family = jobs.next_asked()
    began = time.monotonic()
    with pytest.raises(TimeLimitExceeded):
        jobs.run("start_others", "spin", time_limit_s=0.5)
    assert all(is_gone(pid) for pid in jobs.next_asked())
    for neighbour in neighbours:
        assert neighbour.result(WITHIN_S) is None
    assert time.monotonic() - began < 1.0 + SOON_S
    assert not any(is_gone(pid) for pid in pids + family)


# Soft limit


@pytest.mark.parametrize("body", ["wait_for_ever", "count"])
def test_the_soft_limit_is_raised_in_the_body_on_time(jobs: Runs, body: str) -> None:
    """Also while it sleeps."""
    assert LIMIT_S <= float(jobs.run("gently", LIMIT_S, body)) < LIMIT_S + SOON_S


def test_the_body_may_clean_up(jobs: Runs) -> None:
    """It takes its time for that, and can still ask."""
    pid = jobs.run("pid")
    assert jobs.run("gently", LIMIT_S, "clean_up") == "ended"
    assert [jobs.asked.get(timeout=WITHIN_S) for _ in range(2)] == [b"cleaning up", b"cleaned up"]
    assert jobs.run("pid") == pid


def test_the_hard_limit_ends_a_body_that_ignores_the_soft_one(jobs: Runs) -> None:
    """Which comes once."""
    with pytest.raises(TimeLimitExceeded):
        jobs.run("gently", LIMIT_S, "never_give_up", time_limit_s=2 * LIMIT_S)
    assert jobs.asked.get(timeout=WITHIN_S) == b"no"
    assert jobs.asked.empty()


def test_a_soft_limit_does_not_come_between_a_question_and_its_answer(jobs: Runs) -> None:
    """Right after, so that the connection is whole for the next job."""

    def slowly(question: bytes) -> bytes:
        jobs.asked.put(question)
        threading.Event().wait(2 * LIMIT_S)
        return question

    pid = jobs.run("pid")
    took = float(jobs.run("gently", LIMIT_S, "ask_slowly", answer=slowly))
    assert 2 * LIMIT_S <= took < 2 * LIMIT_S + SOON_S
    assert jobs.asked.get(timeout=WITHIN_S) == b"take your time"
    assert jobs.asked.empty()
    assert jobs.run("questions", 100, 10) == 1000
    assert jobs.run("pid") == pid


def test_a_limit_that_was_not_reached_does_not_come_later(jobs: Runs) -> None:
    """Not in the next job, be it limited or not."""
    assert jobs.run("gently", LIMIT_S, "sleep", 0.1) == "ended"
    assert jobs.run("sleep", 2 * LIMIT_S) is None
    assert jobs.run("gently", 10, "sleep", LIMIT_S) == "ended"


def test_a_soft_limit_is_never_raised_outside_its_block() -> None:
    """The alarm comes anywhere about the end of the block here; some before it, some after."""
    struck = 0
    for number in range(500 * ROUNDS):
        try:
            with soft_limit(30e-6):
                for _ in range(number % 500):
                    pass
        except SoftTimeLimitExceeded:
            struck += 1
        for _ in range(50):
            pass
    assert 0 < struck < 500 * ROUNDS
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_what_is_held_back_comes_at_the_end() -> None:
    """In the block still, and once."""
    steps = []
    with pytest.raises(SoftTimeLimitExceeded), soft_limit(0.01):
        with held_back():
            threading.Event().wait(0.1)
            steps.append("whole")
        steps.append("not reached")
    assert steps == ["whole"]


def test_there_may_be_no_soft_limit() -> None:
    """None, and holding back means nothing then."""
    with soft_limit(None), held_back():
        pass


# Lost children


@pytest.mark.parametrize(
    ("body", "arguments", "how"),
    [
        ("fall_over", [], "was killed by SIGSEGV"),
        ("leave", [3], "ended with status 3"),
        ("leave", [0], "ended with status 0"),
        ("kill_itself", [], "was killed by SIGKILL, as the kernel does when memory runs out"),
        ("raise_", [], "ended with status 1"),
        ("exit_", [], "ended with status 1"),
        ("close_everything", [], "closed its connection"),
        ("write", ["what is this", "wait_for_ever"], "wrote what is no message"),
        ("write", ["R" + 8 * "\xff", "wait_for_ever"], "wrote what is no message"),
        ("write", ["J" + 8 * "\0", "wait_for_ever"], "wrote b'J' unasked"),
        ("write", ["R\0\0", "fall_over"], "was killed by SIGSEGV"),
        ("write", ["R\0\0\0\0\4\0\0\0half", "kill_itself"], "was killed by SIGKILL"),
    ],
)
def test_a_lost_child_fails_its_own_job(jobs: Runs, body: str, arguments: list[object], how: str) -> None:
    """The error says how it died. A neighbour goes on, and so does the next job."""
    neighbour = jobs.beside("tell_and_sleep", 0.5)
    pid = jobs.next_asked()
    with pytest.raises(WorkerLost, match=how):
        jobs.run(body, *arguments)
    jobs.run("nothing")
    assert neighbour.result(WITHIN_S) is None
    assert not is_gone(pid)


def test_a_child_is_missed_though_what_it_has_started_keeps_its_connection(jobs: Runs) -> None:
    """And that is killed."""
    with pytest.raises(WorkerLost, match="SIGSEGV"):
        jobs.run("start_others", "fall_over")
    assert all(is_gone(pid) for pid in jobs.next_asked())


def test_a_job_waits_for_a_child_that_can_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often none can: it is not the job's fault."""
    allowed = tmp_path / "allowed"
    with reluctant_runs(allowed, monkeypatch) as (jobs, tries):
        waiting = jobs.beside("nothing")
        eventually(lambda: len(tries()) > 2, WITHIN_S)
        assert not waiting.done()
        allowed.touch()
        waiting.result(WITHIN_S)
        assert {each["why"] for each in tries()} == {"a process for tasks closed its connection before its first one"}


def test_a_job_that_waits_for_a_child_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once; and closing ends the wait."""
    with reluctant_runs(tmp_path / "allowed", monkeypatch) as (jobs, tries):
        began: Future[Running] = Future()
        stopped, closed = jobs.beside("nothing", on_start=began.set_result), jobs.beside("nothing")
        eventually(lambda: len(tries()) > 4, WITHIN_S)
        cause = Stopped("by a test")
        began.result(WITHIN_S).stop(cause)
        assert stopped.exception(1) is cause
        assert not closed.done()
        jobs.slots.close()
        assert isinstance(closed.exception(1), WorkerLost)


@contextmanager
def reluctant_runs(
    allowed: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Runs, Callable[[], list[MutableMapping[str, Any]]]]]:
    """Their children start once the file is there; with what has been logged."""
    monkeypatch.setenv("ALLOWED", str(allowed))
    with capture_logs() as logged:
        jobs = Runs(Slots("tests.support.slot_jobs:make_once_allowed"))
        try:
            yield jobs, lambda: [each for each in logged if each["event"] == "no_child"]
        finally:
            jobs.close()


def test_a_child_buries_what_its_job_has_left_dead(jobs: Runs) -> None:
    """At the latest after its next job; else their entries would be kept until the child ends."""
    pid = jobs.run("leave_orphans", 20)
    eventually(lambda: jobs.run("pid") == pid and children_of(pid) == set())


def test_a_child_that_dies_between_jobs_fails_none(jobs: Runs) -> None:
    """Another one takes its place."""
    pid = jobs.run("pid")
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: is_gone(pid))
    assert jobs.run("pid") != pid


# Stopping


def stopped_with(outcome: "Future[Any]") -> BaseException | None:
    return outcome.exception(WITHIN_S)


def test_a_job_can_be_stopped_from_any_thread(jobs: Runs) -> None:
    """The run raises the cause when nothing is left of it."""
    began: Future[Running] = Future()
    outcome = jobs.beside("start_others", "spin", on_start=began.set_result)
    pids = jobs.next_asked()
    cause = Stopped("by a test")
    began.result(WITHIN_S).stop(cause)
    assert stopped_with(outcome) is cause
    assert all(is_gone(pid) for pid in pids)
    jobs.run("nothing")


def test_a_job_can_be_stopped_before_it_begins(jobs: Runs) -> None:
    """No child has heard of it."""
    pid = jobs.run("pid")
    with pytest.raises(Stopped):
        jobs.run("nothing", on_start=lambda running: running.stop(Stopped()))
    assert jobs.run("pid") == pid


def test_a_job_can_be_stopped_while_it_gets_an_answer(jobs: Runs) -> None:
    """It is gone when the answer is there."""
    began: Future[Running] = Future()

    def stop(question: bytes) -> bytes:
        began.result(WITHIN_S).stop(Stopped())
        return question

    with pytest.raises(Stopped):
        jobs.run("questions", 1, 1, on_start=began.set_result, answer=stop)


def test_the_first_cause_counts(jobs: Runs) -> None:
    """A job is stopped once."""
    began: Future[Running] = Future()
    outcome = jobs.beside("spin", on_start=began.set_result)
    first, second = Stopped("first"), Stopped("second")
    began.result(WITHIN_S).stop(first)
    began.result(WITHIN_S).stop(second)
    assert stopped_with(outcome) is first


def test_stopping_a_job_that_is_over_does_nothing(jobs: Runs) -> None:
    """Least of all to the next job of the same child."""
    began: Future[Running] = Future()
    pid = jobs.run("pid", on_start=began.set_result)
    next_one = jobs.beside("tell_and_sleep", 0.3)
    assert jobs.next_asked() == pid
    began.result(WITHIN_S).stop(Stopped())
    assert next_one.result(WITHIN_S) is None
    with pytest.raises(WorkerLost):
        jobs.run("leave", 1, on_start=(lost := Future[Running]()).set_result)
    lost.result(WITHIN_S).stop(Stopped())


def test_stopping_races_with_ending(jobs: Runs) -> None:
    """Each run either replies or raises its own cause; the next one is never hit."""
    stopped = 0
    for number in range(10 * ROUNDS):
        cause = Stopped(str(number))
        began: Future[Running] = Future()
        outcome = jobs.beside("nothing", on_start=began.set_result)
        running = began.result(WITHIN_S)
        for _ in range(number % 10 * 200):
            pass
        running.stop(cause)
        if error := stopped_with(outcome):
            assert error is cause
            stopped += 1
        jobs.run("nothing")
    assert stopped > 0


# Starting and closing


def test_closing_ends_what_is_under_way() -> None:
    """All of it, when close returns; and a run after that is refused."""
    with runs(warm=2) as jobs:
        began = [jobs.beside("start_others", "wait_for_ever") for _ in range(2)]
        pids = [pid for _ in began for pid in jobs.next_asked()]
        server = parent_of(pids[0])
        jobs.slots.close()
        assert all(is_gone(pid) for pid in [server, *pids])
        for outcome in began:
            assert isinstance(stopped_with(outcome), WorkerLost)
        with pytest.raises(WorkerLost, match="stopped"):
            jobs.run("nothing")
        jobs.slots.close()


def test_slots_that_were_not_started_can_be_closed() -> None:
    """There is nothing to end."""
    Slots(RUNNER).close()


@pytest.mark.parametrize("runner", ["tests.support.slot_jobs:broken", "tests.support.nowhere:make"])
def test_a_runner_that_cannot_be_made_stops_the_start(runner: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Why is on stderr."""
    slots = Slots(runner)
    with pytest.raises(WorkerLost, match="before its first"):
        slots.start()
    slots.close()
    errors = capfd.readouterr().err
    assert "this runner cannot be made" in errors or "tests.support.nowhere" in errors


def test_many_threads_run_jobs_at_once(jobs: Runs) -> None:
    """Sixteen of them: replies, limits, crashes and stops side by side, each to whom it belongs."""

    def one(number: int) -> None:
        match number % 4:
            case 0:
                assert jobs.run("questions", 3, number) == 3 * number
            case 1:
                with pytest.raises(TimeLimitExceeded):
                    jobs.run("wait_for_ever", time_limit_s=0.02)
            case 2:
                with pytest.raises(WorkerLost, match=f"status {number % 100}"):
                    jobs.run("leave", number % 100)
            case _:
                cause = Stopped(str(number))
                with pytest.raises(Stopped) as raised:
                    jobs.run("wait_for_ever", on_start=lambda running: running.stop(cause))
                assert raised.value is cause

    for outcome in [jobs.submit(one, number) for number in range(20 * ROUNDS)]:
        outcome.result(3 * WITHIN_S)
