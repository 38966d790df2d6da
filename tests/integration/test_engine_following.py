"""What the engine knows of tasks that follow each other: chains that are stopped, groups that are counted."""

from datetime import timedelta

import pytest

from shared.broker.engine import GROUP_REMEMBERED, STOPPED_FOR
from shared.broker.record import pack_id
from shared.broker.states import Outcome, Reason, State
from shared.errors import BrokerUnavailable
from tests.support.engines import FAR, EngineOnRedis, a_message
from tests.support.redis_server import PrivateRedis

CHAIN = ["first", "second", "third"]


@pytest.fixture
def bench(redis_server: PrivateRedis) -> EngineOnRedis:
    return EngineOnRedis(redis_server)


def states(bench: EngineOnRedis) -> list[State | None]:
    return [None if state is None else state.state for state in bench.engine.look_up_many(CHAIN)]


def lives(bench: EngineOnRedis, key: bytes) -> timedelta:
    left = bench.client.pttl(key)
    assert isinstance(left, int)
    return timedelta(milliseconds=left)


# Chains


@pytest.mark.parametrize(
    ("is_killable", "interrupts", "answer"),
    [(False, False, "running"), (False, True, "running"), (True, False, "running"), (True, True, "terminated")],
)
def test_none_is_sent_after_a_run_whose_chain_is_stopped(
    bench: EngineOnRedis, is_killable: bool, interrupts: bool, answer: str
) -> None:
    """Their ids are taken, for longer than any run takes; whatever becomes of the run."""
    first = bench.hold(task_id="first")
    bench.worker.begin([first], is_killable=is_killable)
    assert bench.engine.stop(CHAIN, interrupts=interrupts) == [answer, "unknown", "unknown"]
    assert states(bench) == [State.STARTED, State.REVOKED, State.REVOKED]
    assert bench.engine.enqueue([(a_message(task_id="second"), None)]) == [State.REVOKED]
    assert bench.engine.look_up("third").reason is Reason.CANCELLED
    for task_id in CHAIN[1:]:
        assert lives(bench, bench.keys.key("ended", pack_id(task_id))) > STOPPED_FOR - timedelta(minutes=1)
    assert bench.engine.stop(CHAIN, interrupts=interrupts) == [answer, "revoked", "revoked"]


def test_a_chain_is_stopped_at_any_of_its_members(bench: EngineOnRedis) -> None:
    """Of one that waits what it was stays known. Where nothing is under way nothing would come, so nothing is left."""
    assert bench.engine.stop(CHAIN) == ["unknown"] * 3
    first = bench.run(task_id="first")
    bench.send(task_id="second", due=FAR)
    assert bench.engine.stop(CHAIN) == ["running", "revoked", "unknown"]
    assert states(bench) == [State.STARTED, State.REVOKED, State.REVOKED]
    assert bench.engine.look_up("second").task == "body"
    bench.worker.finish([first], Outcome(State.SUCCESS))
    assert bench.engine.stop(CHAIN) == ["too_late", "revoked", "revoked"]


@pytest.mark.parametrize("state", [State.SUCCESS, State.FAILURE])
def test_a_chain_that_has_ended_is_left_as_it_is(bench: EngineOnRedis, state: State) -> None:
    """The next is sent before an end is told: with an end and no next, none comes."""
    bench.worker.finish([bench.run(task_id="first")], Outcome(state))
    assert bench.engine.stop(CHAIN, interrupts=True) == ["too_late", "unknown", "unknown"]
    assert states(bench) == [state, None, None]


def test_a_chain_that_waits_leaves_no_tombstones(bench: EngineOnRedis) -> None:
    """Its first is revoked, and sends nothing."""
    bench.send(task_id="first", due=FAR)
    assert bench.engine.stop(CHAIN) == ["revoked", "unknown", "unknown"]
    assert states(bench) == [State.REVOKED, None, None]


def test_only_a_run_that_holds_its_task_and_is_not_to_be_killed_may_be_followed(bench: EngineOnRedis) -> None:
    """Once it may, it is too late to kill it; it is let end as often as it asks."""
    stale = bench.hold(task_id="first")
    bench.worker.begin([stale], is_killable=True)
    bench.end_leases(["first"])
    assert bench.worker.reap(["exams"]) == [("first", "lost")]
    assert not bench.engine.let_end("first", stale.token)
    (now,) = bench.fetch()
    bench.worker.begin([now], is_killable=True)
    assert not bench.engine.let_end("first", stale.token)
    assert bench.engine.let_end("first", now.token)
    assert bench.engine.let_end("first", now.token)
    assert bench.engine.cancel(["first"], interrupts=True) == ["running"]
    other = bench.hold(task_id="second")
    bench.worker.begin([other], is_killable=True)
    assert bench.engine.cancel(["second"], interrupts=True) == ["terminated"]
    assert not bench.engine.let_end("second", other.token)
    assert not bench.engine.let_end("unknown", other.token)


# Groups


def test_a_group_counts_each_member_once(bench: EngineOnRedis) -> None:
    """However often it arrives; the last one calls back, once."""
    bench.engine.open_group("group", 2)
    callbacks = [a_message(task_id="callback"), a_message(task_id="other")]
    assert [bench.engine.arrive("group", "first") for _ in range(3)] == ["counted"] * 3
    assert bench.engine.arrive("group", "first", callbacks) == "counted"
    assert [bench.engine.arrive("group", "second") for _ in range(2)] == ["last"] * 2
    assert bench.engine.arrive("group", "second", callbacks) == "called"
    assert bench.ready() == ["callback", "other"]
    for task_id in ("first", "second", "third"):
        assert bench.engine.arrive("group", task_id, callbacks) == "unknown"
    assert bench.ready() == ["callback", "other"]


def test_a_group_that_is_gone_calls_nobody(bench: EngineOnRedis) -> None:
    """Nobody knows how many were left. Opened again, by a call whose answer was lost, it keeps its count."""
    assert bench.engine.arrive("never", "first", [a_message()]) == "unknown"
    bench.engine.open_group("group", 2)
    bench.engine.arrive("group", "first")
    bench.engine.open_group("group", 2)
    assert bench.engine.arrive("group", "second") == "last"
    assert bench.ready() == []


def test_a_group_is_remembered_from_its_last_end(bench: EngineOnRedis) -> None:
    """For thirty days."""
    key = bench.keys.key("group", "group")
    bench.engine.open_group("group", 3)
    for task_id in CHAIN[:2]:
        assert GROUP_REMEMBERED - timedelta(minutes=1) < lives(bench, key) <= GROUP_REMEMBERED
        bench.client.pexpire(key, 60_000)
        bench.engine.arrive("group", task_id)
    assert lives(bench, key) > GROUP_REMEMBERED - timedelta(minutes=1)


def test_with_redis_full_a_group_waits_and_a_chain_is_stopped(own_redis: PrivateRedis) -> None:
    """What is refused has changed nothing."""
    bench = EngineOnRedis(own_redis)
    bench.engine.open_group("group", 1)
    first = bench.run(task_id="first")
    bench.client.config_set("maxmemory", 1)
    with pytest.raises(BrokerUnavailable, match="maxmemory"):
        bench.engine.arrive("group", "first", [a_message()])
    with pytest.raises(BrokerUnavailable, match="maxmemory"):
        bench.engine.open_group("other", 1)
    assert bench.engine.stop(CHAIN) == ["running", "unknown", "unknown"]
    bench.worker.finish([first], Outcome(State.SUCCESS))
    bench.client.config_set("maxmemory", 0)
    assert states(bench) == [State.SUCCESS, State.REVOKED, State.REVOKED]
    assert bench.engine.arrive("group", "first", [a_message(task_id="callback")]) == "called"
    assert bench.ready() == ["callback"]
