"""What each call answers for a task in each state, what is told of it then, and for how long; on a real Redis."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple, TypeVar

import msgspec
import pytest
import redis

from shared.broker.asking import Asking
from shared.broker.connection import patient_client
from shared.broker.deliveries import Delivery, Held
from shared.broker.dispatch import LEASE, Dispatch
from shared.broker.engine import ENQUEUED_TOGETHER, TICK_REMEMBERED, Engine
from shared.broker.progress import ProgressReports
from shared.broker.record import Record, pack_id, pack_record, unpack_id
from shared.broker.room import Room
from shared.broker.round_trips import SharedRoundTrips
from shared.broker.runs import Runs
from shared.broker.states import Outcome, Progress, Reason, State, TaskError, TaskState, ended, error_of
from shared.clock import MILLISECOND, to_ms
from shared.errors import BrokerRefuses, BrokerUnavailable, TaskConflict, TaskIdTaken, TaskNotFound
from tests.support.engines import FAR, KEEP, QUEUE, EngineOnRedis, a_message, dead_letters, dead_message
from tests.support.redis_server import PrivateRedis
from tests.support.waiting import eventually

ID = "the-task"
ERROR = TaskError("ValueError", "no", "Traceback")
DONE = Outcome(State.SUCCESS, result=42)
FAILED = Outcome(State.FAILURE, error=ERROR)
WITHIN_S = 20

T = TypeVar("T")


@pytest.fixture
def bench(redis_server: PrivateRedis) -> EngineOnRedis:
    return EngineOnRedis(redis_server)


# The table: a row a state, and what each verb answers for a task that is in it.


def due(bench: EngineOnRedis) -> None:
    bench.send(task_id=ID, due=FAR)


def ready(bench: EngineOnRedis) -> None:
    bench.send(task_id=ID)


def prefetched(bench: EngineOnRedis) -> Delivery:
    return bench.hold(task_id=ID)


def running(bench: EngineOnRedis) -> Delivery:
    return bench.run(task_id=ID)


def killable(bench: EngineOnRedis) -> Delivery:
    delivery = bench.hold(task_id=ID)
    assert bench.worker.begin([delivery], is_killable=True) == ["run"]
    return delivery


def cancelled(bench: EngineOnRedis) -> Delivery:
    delivery = running(bench)
    assert bench.engine.cancel([ID]) == ["running"]
    return delivery


def to_be_stopped(bench: EngineOnRedis) -> Delivery:
    delivery = running(bench)
    assert bench.engine.cancel([ID], interrupts=True) == ["running"]
    return delivery


def to_be_killed(bench: EngineOnRedis) -> Delivery:
    delivery = killable(bench)
    assert bench.engine.cancel([ID], interrupts=True) == ["terminated"]
    return delivery


def waiting_to_be_retried(bench: EngineOnRedis) -> Delivery:
    delivery = bench.run(task_id=ID)
    outcome = Outcome(State.RETRY, error=ERROR)
    assert bench.worker.retry(delivery, a_message(task_id=ID, retries=1), FAR, State.RETRY, outcome) == "retried"
    return delivery


def retried_and_prefetched(bench: EngineOnRedis) -> Delivery:
    waiting_to_be_retried(bench)
    bench.engine.move(ID, None)
    (delivery,) = bench.fetch()
    return delivery


def ended_as(outcome: Outcome, is_dead: bool = False) -> Callable[[EngineOnRedis], Delivery]:
    def end(bench: EngineOnRedis) -> Delivery:
        delivery = bench.run(task_id=ID)
        assert bench.worker.finish([delivery], outcome, is_dead=is_dead) == ["finished"]
        return delivery

    return end


def cancelled_while_prefetched(bench: EngineOnRedis) -> Delivery:
    delivery = bench.hold(task_id=ID)
    assert bench.engine.cancel([ID]) == ["revoked"]
    return delivery


def unknown(bench: EngineOnRedis) -> None:
    """No task has had this id."""


class Row(NamedTuple):
    """`interrupt`: a cancel that interrupts.

    `begin`, `finish`, `retry`, `renew` and `give_back` are asked by who held the task last, or by a stranger.
    """

    bring: Callable[[EngineOnRedis], Delivery | None]
    state: State | None
    enqueue: State | None
    cancel: str
    interrupt: str
    move: str
    begin: str
    finish: str
    retry: str
    renew: str
    give_back: str


PENDING, STARTED, RETRY = State.PENDING, State.STARTED, State.RETRY
SUCCESS, FAILURE, IGNORED, REVOKED = State.SUCCESS, State.FAILURE, State.IGNORED, State.REVOKED
RUNS, LAST = ("finished", "retried"), ("finished", "revoked")
HELD = (*RUNS, "held", "returned")
LOST = ("lost", "lost", "lost", "lost")
REVOKED_THEN, TOO_LATE = ("revoked", "revoked"), ("too_late", "too_late")
TABLE = {
    "due": Row(due, PENDING, PENDING, *REVOKED_THEN, "moved", "lost", *LOST),
    "ready": Row(ready, PENDING, PENDING, *REVOKED_THEN, "moved", "lost", *LOST),
    "prefetched": Row(prefetched, PENDING, PENDING, *REVOKED_THEN, "moved", "run", *HELD),
    "running": Row(running, STARTED, STARTED, "running", "running", "running", "run", *RUNS, "held", "lost"),
    "killable": Row(killable, STARTED, STARTED, "running", "terminated", "running", "run", *RUNS, "held", "lost"),
    "cancelled": Row(
        cancelled, STARTED, STARTED, "running", "running", "running", "run", *LAST, "cancelled", "revoked"
    ),
    "to stop": Row(
        to_be_stopped, STARTED, STARTED, "running", "running", "running", "run", *LAST, "interrupt", "revoked"
    ),
    "to be killed": Row(
        to_be_killed, STARTED, STARTED, "running", "terminated", "running", "run", *REVOKED_THEN, "interrupt", "revoked"
    ),
    "waiting to be retried": Row(waiting_to_be_retried, RETRY, RETRY, *REVOKED_THEN, "moved", "lost", *LOST),
    "retried and prefetched": Row(retried_and_prefetched, RETRY, RETRY, *REVOKED_THEN, "moved", "run", *HELD),
    "SUCCESS": Row(ended_as(DONE), SUCCESS, SUCCESS, *TOO_LATE, "ended", "done", *LOST),
    "FAILURE": Row(ended_as(FAILED), FAILURE, FAILURE, *TOO_LATE, "ended", "done", *LOST),
    "IGNORED": Row(ended_as(Outcome(IGNORED)), IGNORED, IGNORED, *TOO_LATE, "ended", "done", *LOST),
    "REVOKED": Row(cancelled_while_prefetched, REVOKED, REVOKED, *REVOKED_THEN, "ended", "revoked", *LOST),
    "dead letter": Row(ended_as(FAILED, is_dead=True), FAILURE, FAILURE, *TOO_LATE, "ended", "done", *LOST),
    "unknown": Row(unknown, None, None, "unknown", "unknown", "unknown", "lost", *LOST),
}
in_each_state = pytest.mark.parametrize("row", TABLE.values(), ids=TABLE.keys())


def a_stranger() -> Delivery:
    """A delivery that never was."""
    return Delivery(pack_id(ID), Record(a_message(task_id=ID), 5, b"none"), "stranger.0")


@in_each_state
def test_look_up_tells_the_state(bench: EngineOnRedis, row: Row) -> None:
    row.bring(bench)
    if row.state is None:
        with pytest.raises(TaskNotFound):
            bench.engine.look_up(ID)
    else:
        assert bench.engine.look_up(ID).state is row.state
    assert bench.engine.known(["another", ID]) == [False, row.state is not None]


@in_each_state
def test_enqueueing_under_its_id_is_refused_with_the_state(bench: EngineOnRedis, row: Row) -> None:
    """And changes nothing."""
    row.bring(bench)
    before = dump(bench)
    assert bench.engine.enqueue([(a_message("other", task_id=ID), None)]) == [row.enqueue]
    assert row.enqueue is None or dump(bench) == before


@in_each_state
@pytest.mark.parametrize("how", ["cancel", "interrupt"])
def test_cancel(bench: EngineOnRedis, row: Row, how: str) -> None:
    row.bring(bench)
    expected = getattr(row, how)
    assert bench.engine.cancel([ID], interrupts=how == "interrupt") == [expected]
    if expected == "revoked":
        assert bench.engine.look_up(ID).state is REVOKED
        assert bench.engine.stats([QUEUE])[QUEUE].is_empty


@in_each_state
def test_move(bench: EngineOnRedis, row: Row) -> None:
    row.bring(bench)
    assert bench.engine.move(ID, 2 * FAR) == row.move
    if row.move == "moved":
        due_at = bench.engine.look_up(ID).due_at
        assert due_at is not None
        assert abs(due_at - bench.now() - 2 * FAR) < timedelta(minutes=1)
        assert bench.engine.move(ID, None) == "moved"
        assert bench.ready() == [ID]


@in_each_state
@pytest.mark.parametrize("verb", ["begin", "finish", "retry", "renew", "give_back"])
def test_a_worker_asks(bench: EngineOnRedis, row: Row, verb: str) -> None:
    """Who does not hold the task changes nothing by it."""
    delivery = row.bring(bench) or a_stranger()
    before = dump(bench)
    answers: dict[str, Callable[[], list[str]]] = {
        "begin": lambda: bench.worker.begin([delivery]),
        "finish": lambda: bench.worker.finish([delivery], DONE),
        "retry": lambda: [bench.worker.retry(delivery, delivery.message, None, RETRY, Outcome(RETRY))],
        "renew": lambda: bench.worker.renew([delivery]),
        "give_back": lambda: bench.worker.give_back([delivery]),
    }
    assert answers[verb]() == [getattr(row, verb)]
    assert row.renew != "lost" or dump(bench) == before


@in_each_state
def test_another_worker_changes_nothing(bench: EngineOnRedis, row: Row) -> None:
    """Whatever the state, a token that does not hold the task ends nothing."""
    row.bring(bench)
    stranger = a_stranger()
    before = dump(bench)
    assert bench.worker.finish([stranger], DONE) == ["lost"]
    assert bench.worker.retry(stranger, stranger.message, None, RETRY, Outcome(RETRY)) == "lost"
    assert bench.worker.renew([stranger]) == ["lost"]
    assert bench.worker.give_back([stranger]) == ["lost"]
    assert bench.worker.begin([stranger]) != ["run"]
    assert dump(bench) == before


def dump(bench: EngineOnRedis) -> dict[bytes, Any]:
    """All that is stored, but for when leases end and the signals."""
    names: Any = bench.client.keys()
    passing = {bench.keys.key("leases", QUEUE), bench.keys.key("signal", QUEUE)}
    return {name: bench.client.dump(name) for name in names if name not in passing}


# What is told of a task


def test_a_due_task_is_told_with_its_times(bench: EngineOnRedis) -> None:
    due_at = bench.now() + FAR
    message = a_message("x", queue=QUEUE, priority=7)
    bench.engine.enqueue([(message, due_at)])
    told = bench.engine.look_up(message.message_id)
    assert (told.task, told.queue, told.priority, told.due_at) == ("body", QUEUE, 7, due_at)
    assert told.enqueued_at is not None
    assert told.enqueued_at <= bench.now()
    assert (told.started_at, told.ended_at, told.retries, told.deliveries) == (None, None, 0, 0)


def test_an_end_is_told_with_its_instants_and_what_came_of_it(bench: EngineOnRedis) -> None:
    sent_at = bench.now()
    delivery = bench.run(task_id=ID, priority=3)
    started = bench.engine.look_up(ID)
    assert started.started_at is not None
    assert bench.worker.finish([delivery], Outcome(SUCCESS, result={"a": [1, None, "ß"]})) == ["finished"]
    told = bench.engine.look_up(ID)
    assert (told.state, told.reason, told.result, told.error) == (SUCCESS, None, {"a": [1, None, "ß"]}, None)
    assert (told.task, told.queue, told.priority, told.retries, told.deliveries) == ("body", QUEUE, 3, 0, 1)
    assert told.enqueued_at is not None
    assert told.ended_at is not None
    assert told.started_at == started.started_at
    assert sent_at - timedelta(seconds=1) <= told.enqueued_at <= told.started_at <= told.ended_at <= bench.now()
    assert told.time_taken == told.ended_at - told.started_at


def test_an_error_is_told_with_its_traceback(bench: EngineOnRedis) -> None:
    def fail() -> None:
        raise ValueError("no such exam")

    with pytest.raises(ValueError, match="no such exam") as raised:
        fail()
    delivery = bench.run(task_id=ID)
    bench.worker.finish([delivery], Outcome(FAILURE, error=error_of(raised.value)), is_dead=True)
    error = bench.engine.look_up(ID).error
    assert error is not None
    assert (error.type, error.message) == ("ValueError", "no such exam")
    assert error.traceback is not None
    assert "in fail" in error.traceback


def test_retries_and_deliveries_are_counted_and_the_last_error_is_told(bench: EngineOnRedis) -> None:
    delivery = bench.run(task_id=ID)
    for retries in (1, 2):
        message = delivery.message.copy(options={"retries": retries})
        assert bench.worker.retry(delivery, message, None, RETRY, Outcome(RETRY, error=ERROR)) == "retried"
        told = bench.engine.look_up(ID)
        assert (told.state, told.retries, told.deliveries, told.error) == (RETRY, retries, retries, ERROR)
        (delivery,) = bench.fetch()
        assert delivery.message.options["retries"] == retries
        assert bench.worker.begin([delivery]) == ["run"]
    bench.worker.finish([delivery], DONE)
    told = bench.engine.look_up(ID)
    assert (told.state, told.retries, told.deliveries, told.result, told.error) == (SUCCESS, 2, 3, 42, None)


def test_a_retry_that_is_returned_is_still_a_retry(bench: EngineOnRedis) -> None:
    assert bench.worker.give_back([retried_and_prefetched(bench)]) == ["returned"]
    assert bench.engine.look_up(ID).state is RETRY


def test_a_begin_whose_answer_was_lost_counts_once(bench: EngineOnRedis) -> None:
    delivery = bench.run(task_id=ID)
    assert bench.worker.begin([delivery]) == ["run"]
    assert bench.engine.look_up(ID).deliveries == 1


def test_what_has_expired_does_not_run(bench: EngineOnRedis) -> None:
    delivery = bench.hold(task_id=ID, expires=1)
    assert bench.worker.begin([delivery]) == ["expired"]
    told = bench.engine.look_up(ID)
    assert (told.state, told.reason, told.task) == (REVOKED, Reason.EXPIRED, "body")
    assert bench.engine.stats([QUEUE])[QUEUE].is_empty


def test_what_expires_later_runs(bench: EngineOnRedis) -> None:
    delivery = bench.hold(expires=to_ms(bench.now() + FAR))
    assert bench.worker.begin([delivery]) == ["run"]


# Cancelling


def test_a_run_that_is_cancelled_goes_on_and_none_follows_it(bench: EngineOnRedis) -> None:
    delivery = bench.run(task_id=ID)
    assert bench.engine.cancel([ID]) == ["running"]
    assert bench.worker.renew([delivery]) == ["cancelled"]
    assert bench.worker.retry(delivery, delivery.message, None, RETRY, Outcome(RETRY, error=ERROR)) == "revoked"
    told = bench.engine.look_up(ID)
    assert (told.state, told.reason, told.deliveries) == (REVOKED, Reason.CANCELLED, 1)


def test_a_run_that_is_cancelled_may_still_succeed(bench: EngineOnRedis) -> None:
    delivery = bench.run(task_id=ID)
    assert bench.engine.cancel([ID]) == ["running"]
    assert bench.worker.finish([delivery], DONE) == ["finished"]
    assert bench.engine.cancel([ID]) == ["too_late"]


Bring = Callable[[EngineOnRedis], Delivery]


@pytest.mark.parametrize("outcome", [DONE, FAILED, Outcome(IGNORED), Outcome(REVOKED, Reason.TERMINATED)])
@pytest.mark.parametrize("is_dead", [False, True])
def test_a_run_that_is_to_be_killed_ends_as_terminated_whatever_it_says(
    bench: EngineOnRedis, outcome: Outcome, is_dead: bool
) -> None:
    """It may have come to its end at that very moment: somebody has been told that it is terminated."""
    delivery = to_be_killed(bench)
    expected = "finished" if outcome.state is REVOKED else "revoked"
    assert bench.worker.finish([delivery], outcome, is_dead=is_dead) == [expected]
    told = bench.engine.look_up(ID)
    assert (told.state, told.reason, told.result, told.error) == (REVOKED, Reason.TERMINATED, None, None)
    assert (told.task, told.queue, told.deliveries) == ("body", QUEUE, 1)
    assert dead_letters(bench.engine) == []
    assert bench.engine.stats([QUEUE])[QUEUE].is_empty
    assert bench.client.hlen(bench.keys.key("messages")) == 0


def test_a_run_that_was_to_be_killed_is_not_tried_again(bench: EngineOnRedis) -> None:
    delivery = to_be_killed(bench)
    assert bench.worker.retry(delivery, delivery.message, None, RETRY, Outcome(RETRY, error=ERROR)) == "revoked"
    told = bench.engine.look_up(ID)
    assert (told.state, told.reason) == (REVOKED, Reason.TERMINATED)


@pytest.mark.parametrize("first", ["finish", "terminate"])
def test_of_an_end_and_a_terminate_the_first_counts(bench: EngineOnRedis, first: str) -> None:
    delivery = killable(bench)
    if first == "finish":
        assert bench.worker.finish([delivery], DONE) == ["finished"]
        assert bench.engine.cancel([ID], interrupts=True) == ["too_late"]
        assert bench.engine.look_up(ID).result == 42
    else:
        assert bench.engine.cancel([ID], interrupts=True) == ["terminated"]
        assert bench.worker.finish([delivery], DONE) == ["revoked"]
        assert bench.engine.look_up(ID).state is REVOKED


@pytest.mark.parametrize("first", ["begin", "terminate"])
def test_of_a_begin_and_a_terminate_the_first_counts(bench: EngineOnRedis, first: str) -> None:
    delivery = bench.hold(task_id=ID)
    if first == "begin":
        assert bench.worker.begin([delivery], is_killable=True) == ["run"]
        assert bench.engine.cancel([ID], interrupts=True) == ["terminated"]
    else:
        assert bench.engine.cancel([ID], interrupts=True) == ["revoked"]
        assert bench.worker.begin([delivery], is_killable=True) == ["revoked"]


@pytest.mark.parametrize("first", ["retry", "terminate"])
def test_of_a_retry_and_a_terminate_the_first_counts(bench: EngineOnRedis, first: str) -> None:
    """Either way it is not tried again; its reason says whether a run was ended."""
    delivery = killable(bench)
    if first == "retry":
        assert bench.worker.retry(delivery, delivery.message, FAR, RETRY, Outcome(RETRY)) == "retried"
        assert bench.engine.cancel([ID], interrupts=True) == ["revoked"]
        assert bench.engine.look_up(ID).reason is Reason.CANCELLED
    else:
        assert bench.engine.cancel([ID], interrupts=True) == ["terminated"]
        assert bench.worker.retry(delivery, delivery.message, FAR, RETRY, Outcome(RETRY)) == "revoked"
        assert bench.engine.look_up(ID).reason is Reason.TERMINATED


@pytest.mark.parametrize("way", ["retried", "returned", "lost"])
def test_a_run_can_be_killed_if_its_own_begin_has_said_so(bench: EngineOnRedis, way: str) -> None:
    """Not if that of an earlier run has: the next may be in a thread."""
    delivery = killable(bench)
    if way == "retried":
        assert bench.worker.retry(delivery, delivery.message, None, RETRY, Outcome(RETRY)) == "retried"
    elif way == "returned":
        assert bench.worker.give_back([delivery]) == ["lost"]
    else:
        bench.end_leases([ID])
        assert bench.worker.reap([QUEUE]) == [(ID, "lost")]
    (delivery,) = bench.fetch()
    assert bench.worker.begin([delivery]) == ["run"]
    assert bench.engine.cancel([ID], interrupts=True) == ["running"]
    assert bench.worker.finish([delivery], DONE) == ["finished"]


@pytest.mark.parametrize(
    ("bring", "reason"),
    [(cancelled, Reason.CANCELLED), (to_be_stopped, Reason.CANCELLED), (to_be_killed, Reason.TERMINATED)],
)
@pytest.mark.parametrize("how", ["returned", "lost"])
def test_a_run_that_is_cancelled_ends_when_it_is_taken_back(
    bench: EngineOnRedis, bring: Bring, reason: Reason, how: str
) -> None:
    delivery = bring(bench)
    if how == "returned":
        assert bench.worker.give_back([delivery]) == ["revoked"]
    else:
        bench.end_leases([ID])
        assert bench.worker.reap([QUEUE]) == [(ID, "revoked")]
    told = bench.engine.look_up(ID)
    assert (told.state, told.reason) == (REVOKED, reason)
    assert bench.engine.stats([QUEUE])[QUEUE].is_empty


def test_an_interrupt_is_told_to_the_process_that_runs_it_and_with_each_renewal(bench: EngineOnRedis) -> None:
    """A cancel after it that interrupts nothing takes nothing back."""
    delivery = bench.run(task_id=ID)
    with bench.client.pubsub(ignore_subscribe_messages=True) as channel:  # type: ignore[no-untyped-call]
        channel.subscribe(bench.keys.key("control", bench.worker.process))
        channel.get_message(timeout=WITHIN_S)
        assert bench.engine.cancel([ID], interrupts=True) == ["running"]
        heard = eventually(lambda: channel.get_message(timeout=1))
        assert heard["data"] == b"i" + pack_id(ID)
    assert bench.worker.renew([delivery]) == ["interrupt"]
    assert bench.engine.cancel([ID]) == ["running"]
    assert bench.worker.renew([delivery]) == ["interrupt"]


def test_a_delivery_under_way_finds_the_tombstone(bench: EngineOnRedis) -> None:
    """Again and again: it is read, never consumed."""
    delivery = cancelled_while_prefetched(bench)
    assert [bench.worker.begin([delivery]) for _ in range(3)] == [["revoked"]] * 3


def test_a_revoked_task_is_told_with_what_it_was(bench: EngineOnRedis) -> None:
    """Where it was revoked by itself; of many that are cancelled together only tombstones are left."""
    due_at = bench.now() + FAR
    bench.send(task_id=ID, due=due_at, priority=3, due_at=to_ms(due_at), expires=to_ms(due_at + FAR), retry_of="before")
    assert bench.engine.revoke(ID) == "revoked"
    told = bench.engine.look_up(ID)
    assert (told.state, told.reason, told.task, told.queue, told.priority) == (
        REVOKED,
        Reason.CANCELLED,
        "body",
        QUEUE,
        3,
    )
    assert (told.due_at, told.expires_at, told.retry_of) == (due_at, due_at + FAR, "before")
    assert_kept(bench, KEEP + FAR)


@pytest.mark.parametrize("is_killable", [False, True])
def test_the_end_of_a_revoked_run_that_is_lost_is_kept_as_its_call_says(
    bench: EngineOnRedis, is_killable: bool
) -> None:
    """Not for the general time: a repeat under the key that gave it its id would be sent again."""
    delivery = bench.hold(task_id=ID, result_ttl=3 * KEEP // MILLISECOND)
    assert bench.worker.begin([delivery], is_killable=is_killable) == ["run"]
    bench.engine.revoke(ID, interrupts=True)
    bench.end_leases([ID])
    assert bench.worker.reap([QUEUE]) == [(ID, "revoked")]
    assert_kept(bench, 3 * KEEP)


@in_each_state
def test_revoking_answers_as_cancelling_a_task_by_itself(bench: EngineOnRedis, row: Row) -> None:
    row.bring(bench)
    if row.interrupt == "unknown":
        with pytest.raises(TaskNotFound):
            bench.engine.revoke(ID, interrupts=True)
    else:
        assert bench.engine.revoke(ID, interrupts=True) == row.interrupt


# Progress


def percent(current: float) -> bytes:
    return msgspec.msgpack.encode(Progress(current, 100, "%"))


def test_progress_is_told_while_a_task_runs_and_after_its_end(bench: EngineOnRedis) -> None:
    delivery = bench.run(task_id=ID)
    assert bench.engine.look_up(ID).progress is None
    for current in (1, 2.5):
        bench.worker.progress(delivery, percent(current))
        assert bench.engine.look_up(ID).progress == Progress(current, 100, "%")
    assert bench.worker.finish([delivery], DONE) == ["finished"]
    told = bench.engine.look_up(ID)
    assert (told.progress, told.result, told.task) == (Progress(2.5, 100, "%"), 42, "body")


@pytest.mark.parametrize("is_dead", [False, True])
def test_progress_that_has_not_been_told_goes_along_with_the_end(bench: EngineOnRedis, is_dead: bool) -> None:
    delivery = bench.run(task_id=ID)
    bench.worker.progress(delivery, percent(1))
    delivery.progress = percent(99)
    assert bench.worker.finish([delivery], FAILED, is_dead=is_dead) == ["finished"]
    told = bench.engine.look_up(ID)
    assert (told.progress, told.error) == (Progress(99, 100, "%"), ERROR)


def test_progress_that_redis_did_not_hear_is_told_again(own_redis: PrivateRedis) -> None:
    """And what it has heard is told once."""
    bench, held = EngineOnRedis(own_redis), Held()
    reports = ProgressReports(Dispatch(Asking(SharedRoundTrips(bench.client), bench.keys), KEEP), held)
    reports.stop()  # a turn ends without a pause
    delivery = bench.run(task_id=ID)
    held.add([delivery])
    delivery.progress = percent(1)
    own_redis.client().config_set("maxmemory", 1)
    with pytest.raises(BrokerRefuses):
        reports.turn()
    own_redis.client().config_set("maxmemory", 0)
    reports.turn()
    assert bench.engine.look_up(ID).progress == Progress(1, 100, "%")
    calls = bench.client.info("commandstats")
    reports.turn()
    assert bench.client.info("commandstats")["cmdstat_evalsha"] == calls["cmdstat_evalsha"]


def test_progress_outlives_a_retry(bench: EngineOnRedis) -> None:
    delivery = bench.run(task_id=ID)
    bench.worker.progress(delivery, percent(1))
    assert bench.worker.retry(delivery, delivery.message, None, RETRY, Outcome(RETRY)) == "retried"
    assert bench.engine.look_up(ID).progress == Progress(1, 100, "%")


def test_only_who_holds_a_task_tells_its_progress(bench: EngineOnRedis) -> None:
    """No stranger, no worker that has been given up for lost, and nobody after the end."""
    thawed = bench.run(task_id=ID)
    bench.end_leases([ID])
    bench.worker.reap([QUEUE])
    (delivery,) = bench.fetch()
    assert bench.worker.begin([delivery]) == ["run"]
    bench.worker.progress(delivery, percent(1))
    for other in (thawed, a_stranger()):
        bench.worker.progress(other, percent(99))
    assert bench.engine.look_up(ID).progress == Progress(1, 100, "%")
    bench.worker.finish([delivery], DONE)
    before = dump(bench)
    bench.worker.progress(delivery, percent(99))
    assert dump(bench) == before


# What ended last, and forgetting it


def recent(bench: EngineOnRedis) -> list[str]:
    """Ids, the one that ended last at the end."""
    members: Any = bench.client.zrange(bench.keys.key("recent", QUEUE), 0, -1)
    return [unpack_id(member) for member in members]


@in_each_state
def test_what_has_ended_with_something_to_tell_is_listed(bench: EngineOnRedis, row: Row) -> None:
    """Not the tombstones of what was cancelled before it began: there may be a hundred thousand of an evening."""
    row.bring(bench)
    is_over = row.begin in ("done", "revoked") and row.state is not REVOKED
    assert recent(bench) == ([ID] if is_over else [])


def test_revoked_expired_and_terminated_tasks_are_listed(bench: EngineOnRedis) -> None:
    bench.send(task_id="revoked", due=FAR)
    bench.engine.revoke("revoked")
    assert bench.worker.begin([bench.hold(task_id="expired", expires=1)]) == ["expired"]
    assert bench.worker.finish([to_be_killed(bench)], DONE) == ["revoked"]
    assert sorted(recent(bench)) == sorted(["revoked", "expired", ID])


def test_the_ten_thousand_that_ended_last_are_listed(bench: EngineOnRedis) -> None:
    key = bench.keys.key("recent", QUEUE)
    bench.client.zadd(key, {pack_id(f"earlier-{number}"): number for number in range(10_000)})
    ended_as(DONE)(bench)
    assert bench.client.zcard(key) == 10_000
    assert [recent(bench)[0], recent(bench)[-1]] == ["earlier-1", ID]


@in_each_state
def test_forget(bench: EngineOnRedis, row: Row) -> None:
    """Of a task that has ended nothing is left then, and its id is free."""
    row.bring(bench)
    before = dump(bench)
    if row.state is None:
        with pytest.raises(TaskNotFound):
            bench.engine.forget(ID)
    elif not bench.engine.look_up(ID).is_over:
        with pytest.raises(TaskConflict, match=row.state):
            bench.engine.forget(ID)
        assert dump(bench) == before
    else:
        bench.engine.forget(ID)
        assert set(dump(bench)) == {bench.keys.key("turns", QUEUE)}
        assert bench.engine.enqueue([(a_message(task_id=ID), None)]) == [None]


def test_a_dead_letter_that_never_began_is_forgotten_as_a_whole(bench: EngineOnRedis) -> None:
    """Of one that was returned too often nothing is told but its end; its message says which queue it was of."""
    bench.send(task_id=ID)
    assert [bench.worker.give_back(bench.fetch()) for _ in range(51)][-1] == ["buried"]
    bench.engine.forget(ID)
    assert set(dump(bench)) == {bench.keys.key("turns", QUEUE)}


# Who waits for an end


@pytest.mark.parametrize("bring", [ended_as(DONE), ended_as(FAILED, is_dead=True), cancelled_while_prefetched])
def test_an_end_is_told_to_those_who_wait_for_it(bench: EngineOnRedis, bring: Bring) -> None:
    """All that is kept of it, so that nobody has to ask."""
    with bench.client.pubsub(ignore_subscribe_messages=True) as channel:  # type: ignore[no-untyped-call]
        channel.subscribe(bench.keys.key("ending", pack_id(ID)))
        channel.get_message(timeout=WITHIN_S)
        bring(bench)
        heard = eventually(lambda: channel.get_message(timeout=1))
    assert ended(ID, heard["data"]) == bench.engine.look_up(ID)


# How long an end is known


def test_an_end_is_kept_as_long_as_is_said(bench: EngineOnRedis) -> None:
    delivery = bench.run(task_id=ID)
    bench.worker.finish([delivery], DONE, keep=timedelta(minutes=5))
    assert_kept(bench, timedelta(minutes=5))


def test_an_end_is_kept_as_long_as_usual(bench: EngineOnRedis) -> None:
    ended_as(DONE)(bench)
    assert_kept(bench, KEEP)


def test_an_end_that_nobody_wants_to_know_is_an_end_all_the_same(bench: EngineOnRedis) -> None:
    delivery = bench.run(task_id=ID)
    assert bench.worker.finish([delivery], DONE, keep=timedelta()) == ["finished"]
    assert bench.engine.cancel([bench.send(due=FAR)], keep=timedelta(microseconds=1)) == ["revoked"]
    assert bench.engine.stats([QUEUE])[QUEUE].is_empty
    assert bench.client.hlen(bench.keys.key("messages")) == 0


def test_a_dead_letter_s_end_is_known_longer_than_the_letter_is_kept(bench: EngineOnRedis) -> None:
    ended_as(FAILED, is_dead=True)(bench)
    assert_kept(bench, timedelta(days=8))


def test_a_tombstone_takes_12_bytes_and_outlives_the_time_at_which_the_task_was_due(bench: EngineOnRedis) -> None:
    bench.send(task_id=ID, due=FAR)
    assert bench.engine.cancel([ID], keep=timedelta(hours=1)) == ["revoked"]
    assert bench.client.strlen(bench.keys.key("ended", pack_id(ID))) == 12
    assert_kept(bench, FAR + timedelta(hours=1))


def test_a_tombstone_of_a_task_that_was_ready_is_kept_as_long_as_is_said(bench: EngineOnRedis) -> None:
    bench.send(task_id=ID)
    assert bench.engine.cancel([ID]) == ["revoked"]
    assert bench.client.strlen(bench.keys.key("ended", pack_id(ID))) == 12
    assert_kept(bench, KEEP)


def assert_kept(bench: EngineOnRedis, keep: timedelta) -> None:
    left = bench.client.pttl(bench.keys.key("ended", pack_id(ID)))
    assert isinstance(left, int)
    assert keep - timedelta(seconds=30) < left * MILLISECOND <= keep


# Tasks that are lost or returned


def lose(bench: EngineOnRedis) -> str:
    """The first of the queue is fetched and begun, and its worker dies: what became of it."""
    (delivery,) = bench.fetch()
    assert bench.worker.begin([delivery]) == ["run"]
    bench.end_leases([delivery.message.message_id])
    ((task_id, fate),) = bench.worker.reap([QUEUE])
    assert task_id == delivery.message.message_id
    return fate


def test_after_more_than_five_lost_runs_a_task_is_a_dead_letter(bench: EngineOnRedis) -> None:
    bench.send("x", task_id=ID)
    assert [lose(bench) for _ in range(6)] == ["lost"] * 5 + ["buried"]
    told = bench.engine.look_up(ID)
    assert told.error is not None
    assert (told.state, told.error.type, told.deliveries) == (FAILURE, "WorkerLost", 6)
    assert dead_letters(bench.engine) == [told]
    message = dead_message(bench.engine, ID)
    assert message is not None
    assert message.args == ("x",)


def test_after_two_lost_runs_a_task_is_fetched_alone(bench: EngineOnRedis) -> None:
    """Before all others of its queue, and none of them with it."""
    bench.send(task_id=ID)
    assert [lose(bench), lose(bench)] == ["lost", "lost"]
    neighbour = bench.send(priority=9)
    alone = bench.worker.fetch(QUEUE, 8)
    assert (alone.is_alone, alone.is_more) == (True, True)
    assert [delivery.message.message_id for delivery in alone.deliveries] == [ID]
    rest = bench.worker.fetch(QUEUE, 8)
    assert (rest.is_alone, rest.is_more) == (False, False)
    assert [delivery.message.message_id for delivery in rest.deliveries] == [neighbour]


@pytest.mark.parametrize("way", ["moved", "moved and promoted", "returned"])
def test_a_task_that_is_to_run_alone_stays_so(bench: EngineOnRedis, way: str) -> None:
    bench.send(task_id=ID)
    assert [lose(bench), lose(bench)] == ["lost", "lost"]
    if way == "returned":
        assert bench.worker.give_back(bench.fetch()) == ["returned"]
    elif way == "moved":
        assert bench.engine.move(ID, None) == "moved"
    else:
        assert bench.engine.move(ID, FAR) == "moved"
        bench.come_due([ID])
        bench.worker.promote([QUEUE], wakes_another=False)
    assert bench.worker.fetch(QUEUE, 1).is_alone


def test_neighbours_of_a_task_that_kills_its_workers_are_not_counted(bench: EngineOnRedis) -> None:
    """They were lost with it twice, and never again."""
    bench.send(task_id=ID)
    bench.send(task_id="neighbour")
    for _ in range(2):
        deliveries = bench.fetch(2)
        assert bench.worker.begin(deliveries[:1]) == ["run"]
        bench.end_leases([ID, "neighbour"])
        assert dict(bench.worker.reap([QUEUE])) == {ID: "lost", "neighbour": "returned"}
    assert [lose(bench) for _ in range(4)] == ["lost"] * 3 + ["buried"]
    (delivery,) = bench.fetch()
    assert delivery.message.message_id == "neighbour"
    assert bench.worker.begin([delivery]) == ["run"]


def test_a_retry_makes_up_for_lost_runs(bench: EngineOnRedis) -> None:
    """A run that came to its end shows that the task does not kill."""
    bench.send(task_id=ID)
    assert [lose(bench), lose(bench)] == ["lost", "lost"]
    (delivery,) = bench.fetch()
    bench.worker.begin([delivery])
    assert bench.worker.retry(delivery, delivery.message, None, RETRY, Outcome(RETRY)) == "retried"
    assert [lose(bench) for _ in range(6)] == ["lost"] * 5 + ["buried"]


def test_a_task_may_be_returned_fifty_times(bench: EngineOnRedis) -> None:
    bench.send(task_id=ID)
    assert [bench.worker.give_back(bench.fetch()) for _ in range(50)] == [["returned"]] * 50
    assert bench.worker.give_back(bench.fetch()) == ["buried"]
    assert bench.engine.look_up(ID).state is FAILURE


def test_a_run_that_a_stopping_worker_returns_is_counted_neither_as_lost_nor_as_returned(bench: EngineOnRedis) -> None:
    bench.send(task_id=ID)
    for _ in range(51):
        (delivery,) = bench.fetch()
        bench.worker.begin([delivery])
        assert bench.worker.give_back([delivery]) == ["lost"]
    fetched = bench.worker.fetch(QUEUE, 1)
    assert (len(fetched.deliveries), fetched.is_alone) == (1, False)


def test_a_lease_that_has_run_out_can_be_renewed_while_nobody_has_taken_the_task(bench: EngineOnRedis) -> None:
    delivery = bench.run(task_id=ID)
    bench.end_leases([ID])
    assert bench.worker.promote([QUEUE], wakes_another=False).is_lapsed
    assert bench.worker.renew([delivery]) == ["held"]
    assert not bench.worker.promote([QUEUE], wakes_another=False).is_lapsed
    assert bench.worker.reap([QUEUE]) == []


def test_leases_that_a_clock_since_set_back_has_given_are_cut_to_length(bench: EngineOnRedis) -> None:
    """Else what a dead worker held would wait for the clock to catch up; who is well renews as ever. The first lease
    of the queue is as it should be.
    """
    leases = bench.keys.key("leases", QUEUE)
    usual, far = bench.run(), bench.run(task_id=ID)
    assert not bench.worker.promote([QUEUE], wakes_another=False).is_lapsed
    bench.client.zadd(leases, {far.packed_id: to_ms(bench.now() + timedelta(hours=1))}, xx=True)
    assert bench.worker.promote([QUEUE], wakes_another=False).is_lapsed
    assert bench.worker.reap([QUEUE]) == []
    ends = [bench.client.zscore(leases, delivery.packed_id) for delivery in (usual, far)]
    assert ends[1] is not None and ends[0] is not None
    assert ends[0] <= ends[1] <= to_ms(bench.now() + LEASE)
    assert not bench.worker.promote([QUEUE], wakes_another=False).is_lapsed
    assert bench.worker.renew([usual, far]) == ["held", "held"]


def test_a_lease_that_ends_within_a_minute_is_left_as_it_is(bench: EngineOnRedis) -> None:
    leases = bench.keys.key("leases", QUEUE)
    delivery = bench.run()
    ends = to_ms(bench.now() + timedelta(seconds=50))
    bench.client.zadd(leases, {delivery.packed_id: ends}, xx=True)
    assert not bench.worker.promote([QUEUE], wakes_another=False).is_lapsed
    assert bench.worker.reap([QUEUE]) == []
    assert bench.client.zscore(leases, delivery.packed_id) == ends


def test_a_run_that_is_ending_is_not_given_back_when_its_worker_gives_up(bench: EngineOnRedis) -> None:
    """Another would run it again, though its end is on its way; what still runs goes back."""
    held, ending, running = Held(), bench.run(task_id=ID), bench.run()
    held.add([ending, running])
    ending.is_ending = True
    runs = Runs(bench.worker, held, Room(), lambda _message: None, lambda _message: False, None)
    runs.give_up()
    assert bench.ready() == [running.message.message_id]
    assert bench.engine.look_up(ID).state is STARTED
    assert bench.worker.finish([ending], DONE) == ["finished"]


def test_a_worker_that_thaws_begins_and_ends_nothing_that_has_moved_on(bench: EngineOnRedis) -> None:
    frozen = bench.run(task_id=ID)
    bench.end_leases([ID])
    bench.worker.reap([QUEUE])
    (delivery,) = bench.fetch()
    assert bench.worker.renew([frozen]) == ["lost"]
    assert bench.worker.begin([frozen]) == ["lost"]
    assert bench.worker.finish([frozen], FAILED) == ["lost"]
    assert bench.worker.give_back([frozen]) == ["lost"]
    assert bench.worker.begin([delivery]) == ["run"]
    assert bench.worker.finish([delivery], DONE) == ["finished"]
    assert bench.engine.look_up(ID).result == 42


# Order


@pytest.mark.parametrize("at_once", [1, 8, 64])
def test_the_lowest_priority_gets_one_in_sixteen(bench: EngineOnRedis, at_once: int) -> None:
    """However much of the highest waits, and however many a worker takes at once."""
    for _ in range(64):
        bench.send("high", priority=9)
    for _ in range(8):
        bench.send("low", priority=0)
    fetched = [each.message.args[0] for _ in range(64 // at_once) for each in bench.fetch(at_once)]
    assert fetched.count("low") == 4
    assert fetched[:15] == ["high"] * 15


def test_a_batch_larger_than_a_script_takes_keeps_its_order(bench: EngineOnRedis) -> None:
    ids = [f"task-{number}" for number in range(2 * ENQUEUED_TOGETHER + 1)]
    bench.engine.enqueue([(a_message(task_id=task_id), None) for task_id in ids])
    assert bench.ready() == ids


def test_what_came_due_together_becomes_ready_in_the_order_of_its_times(bench: EngineOnRedis) -> None:
    """However many there are: the next look comes at once while some are left."""
    ids = [f"task-{number}" for number in range(1_100)]
    bench.engine.enqueue([(a_message(task_id=task_id), FAR) for task_id in ids])
    bench.come_due(ids)
    looks = [bench.worker.promote([QUEUE], wakes_another=False).next_in for _ in range(3)]
    assert looks == [timedelta(), timedelta(), None]
    assert bench.ready() == ids


def test_many_tasks_can_be_fetched_and_held_at_once(bench: EngineOnRedis) -> None:
    """More than Lua returns from one call; they are handed out a thousand at a time."""
    ids = [f"task-{number}" for number in range(5_000)]
    bench.engine.enqueue([(a_message(task_id=task_id), None) for task_id in ids])
    deliveries = [delivery for _ in range(5) for delivery in bench.fetch(5_000)]
    assert [delivery.message.message_id for delivery in deliveries] == ids
    assert set(bench.worker.renew(deliveries)) == {"held"}
    assert set(bench.worker.give_back(deliveries)) == {"returned"}
    assert bench.ready() == ids


def test_two_workers_never_fetch_the_same(bench: EngineOnRedis) -> None:
    bench.engine.enqueue([(a_message(task_id=f"task-{number}"), None) for number in range(400)])
    workers = [bench.another_worker() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        fetched = list(pool.map(lambda number: workers[number % 8].fetch(QUEUE, 3).deliveries, range(150)))
    ids = [delivery.message.message_id for deliveries in fetched for delivery in deliveries]
    assert len(ids) == len(set(ids)) == 400


# Dead letters


def test_a_dead_letter_is_sent_again_as_a_new_task(bench: EngineOnRedis) -> None:
    ended_as(FAILED, is_dead=True)(bench)
    bench.engine.revive(QUEUE, ID, a_message(task_id="new"))
    assert dead_letters(bench.engine) == []
    assert bench.engine.look_up(ID).state is FAILURE
    assert bench.ready() == ["new"]


@pytest.mark.parametrize("meanwhile", ["ready", "ended"])
def test_a_dead_letter_is_sent_again_once_for_one_nonce(bench: EngineOnRedis, meanwhile: str) -> None:
    """The same call is answered as the first time; another's is told who has the id."""
    ended_as(FAILED, is_dead=True)(bench)
    call = (QUEUE, pack_id(ID), pack_id("new"), pack_record(a_message(task_id="new"), b"1234"))
    assert bench.asking.one("revive", *call) == b""
    if meanwhile == "ended":
        (delivery,) = bench.fetch()
        bench.worker.begin([delivery])
        bench.worker.finish([delivery], DONE)
    assert bench.asking.one("revive", *call) == b""
    assert bench.ready() == ([] if meanwhile == "ended" else ["new"])
    with pytest.raises(TaskIdTaken, match="SUCCESS" if meanwhile == "ended" else "PENDING"):
        bench.engine.revive(QUEUE, ID, a_message(task_id="new"))


def test_a_dead_letter_stays_if_the_new_id_is_taken(bench: EngineOnRedis) -> None:
    ended_as(FAILED, is_dead=True)(bench)
    with pytest.raises(TaskIdTaken, match=FAILURE):
        bench.engine.revive(QUEUE, ID, a_message(task_id=ID))
    assert len(dead_letters(bench.engine)) == 1


def test_a_dead_letter_that_is_thrown_away_leaves_how_it_ended(bench: EngineOnRedis) -> None:
    ended_as(FAILED, is_dead=True)(bench)
    bench.engine.discard(QUEUE, ID)
    with pytest.raises(TaskNotFound):
        bench.engine.discard(QUEUE, ID)
    with pytest.raises(TaskNotFound):
        bench.engine.revive(QUEUE, ID, a_message())
    assert bench.engine.look_up(ID).error == ERROR
    assert bench.client.hlen(bench.keys.key("messages")) == 0


def test_dead_letters_are_listed_the_latest_first(bench: EngineOnRedis) -> None:
    ids = [f"task-{number}" for number in range(5)]
    for task_id in ids:
        delivery = bench.run(task_id=task_id)
        bench.worker.finish([delivery], FAILED, is_dead=True)
    dead = bench.keys.key("dead", QUEUE)
    bench.client.zadd(dead, {pack_id(task_id): number for number, task_id in enumerate(ids)}, xx=True)
    assert [state.id for state in dead_letters(bench.engine)] == ids[::-1]


def test_dead_letters_are_let_go_after_a_week(bench: EngineOnRedis) -> None:
    for task_id in (ID, "younger"):
        bench.worker.finish([bench.run(task_id=task_id)], FAILED, is_dead=True)
    week_ago = to_ms(bench.now() - timedelta(days=7))
    ages = {pack_id(ID): week_ago - 1, pack_id("younger"): week_ago + 60_000}
    bench.client.zadd(bench.keys.key("dead", QUEUE), ages, xx=True)
    bench.worker.promote([QUEUE], wakes_another=False)
    assert [state.id for state in dead_letters(bench.engine)] == ["younger"]
    assert bench.client.hlen(bench.keys.key("messages")) == 1
    assert bench.engine.look_up(ID).state is FAILURE


def test_a_record_that_cannot_be_read_becomes_a_dead_letter(bench: EngineOnRedis) -> None:
    """And keeps nobody from what lies beside it."""
    bench.send(task_id=ID)
    neighbour = bench.send()
    messages = bench.keys.key("messages")
    record = bench.client.hget(messages, pack_id(ID))
    assert isinstance(record, bytes)
    bench.client.hset(messages, pack_id(ID), record[:-3])
    assert [delivery.message.message_id for delivery in bench.fetch(2)] == [neighbour]
    (dead,) = dead_letters(bench.engine)
    assert (dead.id, dead_message(bench.engine, ID), dead.state) == (ID, None, FAILURE)
    assert dead.error is not None


DAMAGES = [b"", b"\x05", b"5\x07exa", b"\xff" * 40]


def damage(bench: EngineOnRedis, task_id: str, record: bytes) -> None:
    bench.client.hset(bench.keys.key("messages"), pack_id(task_id), record)


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("record", DAMAGES)
def test_a_damaged_record_under_a_lease_that_ran_out_keeps_no_neighbour(
    bench: EngineOnRedis, record: bytes, begun: bool
) -> None:
    """It becomes a dead letter, and the ones after it are taken back."""
    ids = ["before", ID, "after"]
    bench.engine.enqueue([(a_message(task_id=task_id), None) for task_id in ids])
    deliveries = bench.fetch(3)
    if begun:
        bench.worker.begin(deliveries)
    damage(bench, ID, record)
    bench.end_leases(ids)
    returned = "lost" if begun else "returned"
    assert dict(bench.worker.reap([QUEUE])) == {"before": returned, ID: "buried", "after": returned}
    assert bench.worker.reap([QUEUE]) == []
    assert sorted(bench.ready()) == ["after", "before"]
    (dead,) = dead_letters(bench.engine)
    assert (dead.id, dead.state, dead_message(bench.engine, ID)) == (ID, FAILURE, None)
    assert bench.engine.look_up(ID) == dead


@pytest.mark.parametrize("record", DAMAGES)
def test_a_damaged_record_can_be_given_back(bench: EngineOnRedis, record: bytes) -> None:
    """With its neighbours, by a worker that stops."""
    bench.engine.enqueue([(a_message(task_id=task_id), None) for task_id in (ID, "after")])
    deliveries = bench.fetch(2)
    damage(bench, ID, record)
    assert bench.worker.give_back(deliveries) == ["buried", "returned"]
    assert bench.engine.look_up(ID).state is FAILURE


@pytest.mark.parametrize("bring", [due, ready, prefetched])
@pytest.mark.parametrize("record", DAMAGES)
def test_a_damaged_record_can_be_neither_cancelled_nor_moved_nor_told(
    bench: EngineOnRedis, record: bytes, bring: Callable[[EngineOnRedis], object]
) -> None:
    """And keeps nobody else from it: its neighbours are cancelled in the same call."""
    bring(bench)
    neighbour = bench.send(due=FAR)
    damage(bench, ID, record)
    before = bench.engine.stats([QUEUE])[QUEUE]
    assert bench.engine.move(ID, FAR) == "unknown"
    assert bench.engine.look_up(ID) == TaskState(id=ID, state=PENDING)
    assert bench.engine.cancel([ID, neighbour]) == ["unknown", "revoked"]
    after = bench.engine.stats([QUEUE])[QUEUE]
    assert (after.ready, after.leased, after.due) == (before.ready, before.leased, before.due - 1)


def test_a_dead_letter_whose_end_is_forgotten_is_passed_over(bench: EngineOnRedis) -> None:
    """It is about to be let go."""
    for task_id in ("older", ID, "younger"):
        bench.worker.finish([bench.run(task_id=task_id)], FAILED, is_dead=True)
    bench.client.delete(bench.keys.key("ended", pack_id(ID)))
    assert {state.id for state in dead_letters(bench.engine)} == {"older", "younger"}


def test_a_purge_leaves_nothing_of_a_queue(bench: EngineOnRedis) -> None:
    """Whatever states its tasks are in, and however many they are; and nothing else goes."""
    ended_as(FAILED, is_dead=True)(bench)
    bench.run()
    bench.hold()
    bench.send(due=FAR)
    bench.engine.enqueue([(a_message(priority=number % 10), None) for number in range(1_500)])
    other = bench.send(queue="mail")
    bench.engine.purge(QUEUE)
    stats = bench.engine.stats([QUEUE, "mail"])
    assert stats[QUEUE].is_empty
    assert stats[QUEUE].dead == 0
    assert bench.ready(queue="mail") == [other]
    assert bench.client.hlen(bench.keys.key("messages")) == 1
    assert not list(bench.client.scan_iter(bench.keys.key("live", b"*")))


# Ticks


def test_a_tick_is_sent_once(bench: EngineOnRedis) -> None:
    at = bench.now()
    assert bench.engine.tick("sweep", at, a_message(task_id="one")) == "sent"
    assert bench.engine.tick("sweep", at, a_message(task_id="two")) == "known"
    assert bench.engine.tick("sweep", at + MILLISECOND, a_message(task_id="three")) == "sent"
    assert bench.engine.tick("digest", at, a_message(task_id="four")) == "sent"
    assert bench.ready() == ["one", "three", "four"]


def test_a_tick_is_remembered_until_it_is_too_old(bench: EngineOnRedis) -> None:
    """So no tick can be sent twice, whenever it is asked for."""
    at = bench.now() - timedelta(hours=1)
    bench.engine.tick("sweep", at, a_message())
    (ticked,) = bench.client.scan_iter(bench.keys.key("ticked", "sweep", "*"))
    left = bench.client.pttl(ticked) * MILLISECOND
    assert left > at + TICK_REMEMBERED - bench.now() - timedelta(seconds=1)
    assert bench.engine.tick("sweep", bench.now() - TICK_REMEMBERED, a_message()) == "too_old"
    assert len(bench.ready()) == 1


def test_of_many_schedulers_one_sends_the_tick(bench: EngineOnRedis, redis_server: PrivateRedis) -> None:
    at, together = bench.now(), threading.Barrier(8)
    engines = [EngineOnRedis(redis_server).engine for _ in range(8)]

    def tick(engine: Engine) -> list[str]:
        together.wait(WITHIN_S)
        return [engine.tick("sweep", at + number * MILLISECOND, a_message()) for number in range(20)]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(tick, engines))
    assert [sorted(each) for each in zip(*answers, strict=True)] == [["known"] * 7 + ["sent"]] * 20
    assert len(bench.ready()) == 20


# Scripts that Redis has forgotten


def test_a_call_loads_what_redis_has_forgotten(bench: EngineOnRedis) -> None:
    for number in range(3):
        bench.client.script_flush()
        bench.send(task_id=f"task-{number}")
    assert bench.ready() == ["task-0", "task-1", "task-2"]


def test_calls_sent_together_are_done_once_each_after_redis_has_forgotten_the_scripts(bench: EngineOnRedis) -> None:
    ids = [f"task-{number}" for number in range(3 * ENQUEUED_TOGETHER)]
    bench.client.script_flush()
    assert bench.engine.enqueue([(a_message(task_id=task_id), None) for task_id in ids]) == [None] * len(ids)
    assert bench.ready() == ids
    deliveries = bench.fetch(20)
    bench.client.script_flush()
    assert bench.worker.begin(deliveries) == ["run"] * 20
    assert [bench.engine.look_up(delivery.message.message_id).deliveries for delivery in deliveries] == [1] * 20


def insist(ask: Callable[[], T]) -> T:
    """Asks again where Redis has forgotten the script a second time, between the loading and the call."""
    for _ in range(100):
        try:
            return ask()
        except BrokerUnavailable as error:
            assert "NoScriptError" in str(error)
    raise AssertionError("it has forgotten the script a hundred times")


def test_scripts_forgotten_again_and_again_double_nothing(bench: EngineOnRedis, redis_server: PrivateRedis) -> None:
    """While eight threads send and fetch."""
    is_over = threading.Event()

    def forget() -> None:
        client = redis_server.client()
        while not is_over.wait(0.002):
            client.script_flush()

    def send_and_run(number: int) -> list[str]:
        own = EngineOnRedis(redis_server)
        ended = []
        for each in range(40):
            insist(partial(own.send, task_id=f"{number}-{each}"))
            (delivery,) = insist(own.fetch)
            assert insist(partial(own.worker.begin, [delivery])) == ["run"]
            assert insist(partial(own.worker.finish, [delivery], DONE)) == ["finished"]
            ended.append(delivery.message.message_id)
        return ended

    forgetting = threading.Thread(target=forget)
    forgetting.start()
    try:
        with ThreadPoolExecutor(8) as pool:
            ended = [task_id for ids in pool.map(send_and_run, range(8)) for task_id in ids]
    finally:
        is_over.set()
        forgetting.join(WITHIN_S)
    assert sorted(ended) == sorted(f"{number}-{each}" for number in range(8) for each in range(40))


# Round trips that threads share


@pytest.fixture
def trips(redis_server: PrivateRedis) -> SharedRoundTrips:
    return SharedRoundTrips(patient_client(redis_server.url))


def test_threads_that_share_round_trips_get_their_own_answers(bench: EngineOnRedis, trips: SharedRoundTrips) -> None:
    engine = Engine(Asking(trips, bench.keys), KEEP)
    together = threading.Barrier(16)

    def send_and_look_up(number: int) -> list[str]:
        together.wait(WITHIN_S)
        told = []
        for each in range(50):
            message = a_message(queue=f"queue-{number}", task_id=f"{number}-{each}")
            assert engine.enqueue([(message, None)]) == [None]
            told.append(engine.look_up(message.message_id).queue or "")
        return told

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(send_and_look_up, range(16))) == [[f"queue-{number}"] * 50 for number in range(16)]


def test_an_error_in_one_answer_reaches_only_its_caller(bench: EngineOnRedis, trips: SharedRoundTrips) -> None:
    asking = Asking(trips, bench.keys)
    together = threading.Barrier(8)

    def ask(number: int) -> list[str]:
        together.wait(WITHIN_S)
        return [outcome_of(lambda: asking.one("stats", "q") if number else asking.one("tick")) for _ in range(50)]

    with ThreadPoolExecutor(8) as pool:
        failing, *others = pool.map(ask, range(8))
    assert failing == ["BrokerUnavailable"] * 50
    assert others == [["answered"] * 50] * 7


def test_a_broken_connection_reaches_all_who_were_on_the_trip_and_the_next_trip_works(
    own_redis: PrivateRedis,
) -> None:
    bench = EngineOnRedis(own_redis)
    asking = Asking(SharedRoundTrips(patient_client(own_redis.url)), bench.keys)
    asking.one("stats", QUEUE)
    own_redis.kill()
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda _: outcome_of(lambda: asking.one("stats", QUEUE)), range(8)))
    assert told == ["BrokerUnavailable"] * 8
    own_redis.start()
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda _: outcome_of(lambda: asking.one("stats", QUEUE)), range(8)))
    assert told == ["answered"] * 8


def test_a_connection_that_is_cut_is_made_again_without_anybody_noticing(
    bench: EngineOnRedis, trips: SharedRoundTrips
) -> None:
    """What was asked may then be done twice, and counts once."""
    dispatch = Dispatch(Asking(trips, bench.keys), KEEP)
    delivery = bench.hold(task_id=ID)
    for _ in range(3):
        cut_connections(bench.client)
        assert dispatch.begin([delivery]) == ["run"]
    assert bench.engine.look_up(ID).deliveries == 1


def cut_connections(client: "redis.Redis") -> None:
    client.client_kill_filter(_type="normal", skipme=True)


def outcome_of(ask: Callable[[], Any]) -> str:
    try:
        ask()
    except BrokerUnavailable:
        return "BrokerUnavailable"
    return "answered"
