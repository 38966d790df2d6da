"""Chains, groups and callbacks, and large data on its way between tasks."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from shared.broker.broker import TaskBroker
from shared.broker.dispatch import LEASE
from shared.broker.states import State
from shared.errors import (
    BrokerUnavailable,
    InvalidInput,
    TaskConflict,
    TaskFailed,
    TaskIdTaken,
    TaskNotFound,
    TaskRevoked,
)
from shared.tasks.composition import Chain, ChainResult, chain, group
from shared.tasks.connection import connect
from shared.tasks.payloads import PAYLOAD_BYTES
from shared.tasks.result import AsyncResult
from shared.tasks.sender import TaskSender
from tests.support import task_bodies as tasks
from tests.support.task_system import WITHIN_S, TaskSystem, once, own_task_system, refusal, working_system
from tests.support.waiting import eventually

pytestmark = pytest.mark.xdist_group("tasks_together")

KIB, MIB = 1024, 1024 * 1024


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TaskSystem]:
    with working_system(tmp_path_factory.mktemp("tasks")) as system:
        yield system


# Chains


def test_each_of_a_chain_is_given_the_result_of_the_one_before(system: TaskSystem) -> None:
    """As its last positional argument; its result is the last one's, and the others can be asked too."""
    result = chain(tasks.add.s(1, 2), tasks.add.s(10), tasks.add.s(100)).delay()
    assert result.get(WITHIN_S) == 113
    assert [parent.get(WITHIN_S) for parent in result.parents] == [3, 13]
    assert (tasks.add.s(1) | tasks.add.s(2) | tasks.add.s(3)).delay().get(WITHIN_S) == 6


def test_a_chain_crosses_threads_and_children(system: TaskSystem) -> None:
    """And queues."""
    calls = [tasks.add.s(1), tasks.add_in_child.s(2), tasks.add.s(3).set(queue="slow"), tasks.add_in_child.s(4)]
    assert Chain(calls).delay().get(WITHIN_S) == 10


def test_a_chain_may_be_long(system: TaskSystem) -> None:
    """Forty."""
    assert chain(*[tasks.add.s(1)] * 40).delay().get(WITHIN_S) == 40


def test_a_chain_ends_with_the_first_that_fails(system: TaskSystem) -> None:
    """Its error is the chain's; what would have followed never is."""
    result = chain(tasks.echo.s("half way"), tasks.fail.s(), tasks.note.si(system.path("never"), "x")).delay()
    assert str(refusal(lambda: result.get(WITHIN_S), TaskFailed)) == "ValueError: half way"
    assert (result.state, result.ready(), result.failed(), result.successful()) == (State.FAILURE, True, True, False)
    assert not system.lines("never")


def test_a_chain_that_ignores_a_result_goes_on_without_it(system: TaskSystem) -> None:
    """An immutable signature, as Celery calls it: here the call says so."""
    ignoring = tasks.add.si(20, 1)
    assert chain(tasks.add.s(1), ignoring).delay().get(WITHIN_S) == 21


def test_a_chain_that_is_under_way_is_pending(system: TaskSystem) -> None:
    """Until its last has begun. Revoking it stops the one that is under way, so that none follows."""
    result = chain(tasks.wait_in_child.s(system.path("never there")), tasks.length.s()).delay()
    once(result.parents[0], State.STARTED)
    assert (result.state, result.ready()) == (State.PENDING, False)
    with pytest.raises(TimeoutError):
        result.get(0.05)
    assert result.revoke(terminate=True) == "terminated"
    error = refusal(lambda: result.get(WITHIN_S))
    assert isinstance(error, TaskRevoked)
    assert result.state is State.REVOKED


def test_a_revoked_chain_does_not_go_on(system: TaskSystem) -> None:
    """Though the run that is under way goes on, and succeeds. It is known at once, to who waits for it too."""
    heedless = tasks.wait_for_task.s(system.path("go on"), "nobody", 0)
    result = chain(heedless, tasks.add.si(1), tasks.note.si(system.path("after"), "x")).delay()
    once(result.parents[0], State.STARTED)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: refusal(lambda: result.get(WITHIN_S), TaskRevoked))
        assert result.revoke() == "running"
        assert isinstance(waiting.result(WITHIN_S), TaskRevoked)
    assert result.parents[0].state is State.STARTED
    assert (result.state, result.revoke()) == (State.REVOKED, "revoked")
    system.write("go on")
    once(result.parents[0], State.SUCCESS)
    assert tasks.add.delay(1).get(WITHIN_S) == 1
    assert not system.lines("after")
    assert result.parents[1].state is State.REVOKED


def test_a_chain_goes_on_after_a_revoke_of_a_run_by_its_own_id(system: TaskSystem) -> None:
    """The run goes on, so what follows from it does: it was not the chain that was revoked."""
    path = system.path("alone")
    result = chain(tasks.wait_for.s(path), tasks.add.si(1)).delay()
    once(result.parents[0], State.STARTED)
    assert result.parents[0].revoke() == "running"
    system.write("alone")
    assert result.get(WITHIN_S) == 1


def test_it_may_be_too_late_to_revoke_a_chain(system: TaskSystem) -> None:
    """Large results of its members stay."""
    result = chain(tasks.blob.s(MIB), tasks.length.s().set(countdown=600)).delay()
    once(result.parents[0], State.SUCCESS)
    eventually(lambda: len(system.payloads(result.id)) == 1)
    assert (result.revoke(), result.state, system.payloads(result.id)) == ("revoked", State.REVOKED, [])
    assert result.parents[0].get(WITHIN_S) == "x" * MIB
    ended = chain(tasks.add.s(1), tasks.add.s(1)).delay()
    assert (ended.get(WITHIN_S), ended.revoke()) == (2, "too_late")
    ended.forget()
    with pytest.raises(TaskNotFound):
        ended.revoke()


def test_chains_in_a_chain_are_taken_for_their_members(system: TaskSystem) -> None:
    """Wherever they stand."""
    two = chain(tasks.add.s(1), tasks.add.s(10))
    assert (tasks.add.s(100) | two | (tasks.add.s(1000) | two)).delay().get(WITHIN_S) == 1122
    assert chain(two, two, tasks.add.s(100)).delay().get(WITHIN_S) == 122


def test_what_cannot_be_part_of_a_composition_is_refused_at_once() -> None:
    """Groups in chains, groups in groups, and what is no call at all."""
    one, both = tasks.add.s(1), group(tasks.add.s(1))
    anything: Any
    for anything in (both, tasks.add, None, 5):
        for make in (
            lambda: chain(one, anything),  # noqa: B023
            lambda: one | anything,  # noqa: B023
            lambda: chain(one) | anything,  # noqa: B023
            lambda: group(one, anything),  # noqa: B023
            lambda: both.then(anything),  # noqa: B023
        ):
            refusal(make, InvalidInput)
    refusal(lambda: both.then(chain(one)), InvalidInput)  # type: ignore[arg-type]


def test_a_chain_whose_last_is_forgotten_is_not_found(system: TaskSystem) -> None:
    """Nothing of it is still to come, and nobody waits for it."""
    result = chain(tasks.add.s(1), tasks.add.s(1), tasks.add.s(1)).delay()
    result.get(WITHIN_S)
    fresh = ChainResult([*(parent.id for parent in result.parents), result.id], system.callers.sender)
    AsyncResult[int](result.id).forget()
    with pytest.raises(TaskNotFound):
        fresh.look()
    with pytest.raises(TaskNotFound):
        fresh.get(WITHIN_S)
    result.parents[1].forget()
    with pytest.raises(TaskNotFound):
        fresh.look()
    fresh.forget()
    with pytest.raises(TaskNotFound):
        fresh.parents[0].look()
    with pytest.raises(TaskNotFound):
        fresh.forget()


@pytest.mark.parametrize("first", [tasks.blob, tasks.blob_in_child], ids=lambda task: task.name)
def test_a_task_whose_next_can_never_be_sent_has_failed(system: TaskSystem, first: Any) -> None:
    """With what goes along, its result has become too large: a chain does not wait for ever."""
    result = chain(first.s(60_000), tasks.echo.s(), tasks.echo.si("z" * 230_000)).delay()
    assert "at most 262144 are sent" in str(refusal(lambda: result.get(WITHIN_S), TaskFailed))
    assert [parent.state for parent in result.parents[:1]] == [State.FAILURE]


def test_a_later_one_that_expires_before_its_countdown_ends_is_revoked(system: TaskSystem) -> None:
    """It waits all the same."""
    result = chain(tasks.add.s(1), tasks.add.s(1).set(countdown=0.3, expires=0.2)).delay()
    assert isinstance(refusal(lambda: result.get(WITHIN_S)), TaskRevoked)


def test_a_later_one_of_a_chain_may_wait(system: TaskSystem) -> None:
    """Its countdown begins when the one before has succeeded."""
    result = chain(tasks.add.s(1), tasks.add.s(2).set(countdown=0.3)).delay()
    assert result.get(WITHIN_S) == 3
    first, last = result.parents[0].look(), result.look()
    assert first.ended_at is not None
    assert last.started_at is not None
    assert 0.29 <= (last.started_at - first.ended_at).total_seconds() < 5


def test_only_the_first_of_a_chain_may_have_an_eta(system: TaskSystem) -> None:
    """Nothing is sent otherwise."""
    first_may = chain(tasks.add.s(1).set(countdown=0.01), tasks.add.s(1))
    assert first_may.delay().get(WITHIN_S) == 2
    calls = chain(tasks.add.s(1), tasks.add.s(1).set(eta=datetime.now(UTC)))
    assert str(refusal(calls.delay, InvalidInput)).startswith("eta: only the first")


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        ((tasks.add.s(1), tasks.add.s(1, 2)), "args: are too many"),
        ((tasks.add.s(1), tasks.spin.s()), "args: are too many"),
        ((tasks.add.s(1), tasks.add.s().set(priority=11)), "priority: must be"),
        ((tasks.add.s(1), tasks.add.s(z=1)), "kwargs.z: there is no such argument"),
        ((tasks.add.s("1"), tasks.add.s()), "args[0]: Expected `int`"),
    ],
)
def test_a_chain_is_checked_before_any_of_it_is_sent(system: TaskSystem, calls: Any, said: str) -> None:
    """Arguments and options of each of them."""
    before = system.redis.client().hgetall("{invigil}:messages")
    assert said in str(refusal(chain(*calls).delay, InvalidInput))
    assert system.redis.client().hgetall("{invigil}:messages") == before


def test_a_result_that_does_not_fit_the_next_one_fails_that_one(system: TaskSystem) -> None:
    """It is known only then."""
    result = chain(tasks.echo.s("no number"), tasks.add.s(1)).delay()
    assert "InvalidInput: args[1]: Expected `int`, got `str`" in str(refusal(lambda: result.get(WITHIN_S)))


def test_a_chain_is_forgotten_as_a_whole(system: TaskSystem) -> None:
    """Once it has ended; also one that has failed half way."""
    good, bad = chain(tasks.add.s(1), tasks.add.s(2)).delay(), chain(tasks.fail.s(), tasks.add.si(2)).delay()
    under_way = chain(tasks.add.s(1), tasks.add.s(2).set(countdown=600)).delay()
    assert (good.get(WITHIN_S), isinstance(bad.get(WITHIN_S, propagate=False), TaskFailed)) == (3, True)
    for result in (good, bad):
        result.forget()
        for member in (*result.parents, result):
            with pytest.raises(TaskNotFound):
                member.look()
    with pytest.raises(TaskConflict, match="PENDING"):
        under_way.forget()
    eventually(under_way.parents[0].ready)
    assert under_way.revoke() == "revoked"


@pytest.mark.parametrize("make", [chain, group])
def test_ids_are_checked_before_anything_is_sent(system: TaskSystem, make: Any) -> None:
    """One that is taken, or given twice."""
    taken, path = tasks.add.apply_async((1,), countdown=600), system.path(f"ids-{make.__name__}")
    calls = make(tasks.note.s(path, "x"), tasks.add.si(1).set(task_id=taken.id))
    assert taken.id in str(refusal(calls.delay, TaskIdTaken))
    twice = make(tasks.note.s(path, "x").set(task_id="twice"), tasks.add.si(1).set(task_id="twice"))
    assert str(refusal(twice.delay, InvalidInput)) == "task_id: is given twice"
    assert taken.revoke() == "revoked"
    assert tasks.add.delay(1).get(WITHIN_S) == 1
    assert not system.lines(f"ids-{make.__name__}")


def test_an_empty_chain_or_group_is_refused() -> None:
    """There is nothing to send, and no result to wait for."""
    for make in (chain, group):
        with pytest.raises(InvalidInput, match="needs at least one task"):
            make()


@pytest.mark.parametrize("task_id", ["", "x" * 300, "\ud800"])
def test_an_id_that_no_task_can_have_is_not_found(system: TaskSystem, task_id: str) -> None:
    """As any other that no task has."""
    result = AsyncResult[int](task_id)
    for call in (result.look, result.revoke, result.forget, result.get, lambda: result.state):
        refusal(call, TaskNotFound)


# Groups


def test_a_group_gives_all_results_in_order(system: TaskSystem) -> None:
    """Of tasks and of chains."""
    result = group(tasks.add.s(1), chain(tasks.add.s(2), tasks.add.s(3)), tasks.add_in_child.s(4)).delay()
    assert result.get(WITHIN_S) == [1, 5, 4]
    assert (result.ready(), result.successful(), result.failed(), result.completed_count()) == (True, True, False, 3)
    assert (len(result), result[1].result, [each.state for each in result]) == (3, 5, [State.SUCCESS] * 3)


def test_a_group_calls_back_once_when_all_have_succeeded(system: TaskSystem) -> None:
    """After the last of them, a chain's last included."""
    waiting = chain(tasks.echo.s(system.path("open")), tasks.wait_for.s())
    result = group(tasks.add.s(1), waiting).then(tasks.note.s(system.path("called"), "all")).delay()
    eventually(lambda: result.completed_count() == 1)
    assert not system.lines("called")
    system.write("open")
    result.get(WITHIN_S)
    assert eventually(lambda: system.lines("called")) == ["all"]


def test_a_group_with_a_failure_calls_nobody_back(system: TaskSystem) -> None:
    """The first that failed is what `get` raises; the others have their results."""
    result = (
        group(tasks.add.s(1), tasks.fail.s("no"), tasks.add.s(3)).then(tasks.note.s(system.path("no"), "x")).delay()
    )
    assert str(refusal(lambda: result.get(WITHIN_S))) == "ValueError: no"
    eventually(result.ready)
    assert (result.successful(), result.failed(), result.completed_count()) == (False, True, 2)
    first, error, last = result.get(WITHIN_S, propagate=False)
    assert (first, last) == (1, 3)
    assert isinstance(error, TaskFailed)
    assert not system.lines("no")


def test_a_group_is_revoked_and_forgotten_member_by_member(system: TaskSystem) -> None:
    """Each answers for itself."""
    calls = [tasks.wait_in_child.s(system.path("nowhere")), tasks.add.s(1)]
    result = group(*calls).delay()
    once(result[0], State.STARTED)
    once(result[1], State.SUCCESS)
    assert result.revoke(terminate=True) == ["terminated", "too_late"]
    once(result[0], State.REVOKED)
    result.forget()
    for member in result:
        with pytest.raises(TaskNotFound):
            member.look()


def test_a_member_of_which_nothing_is_known_holds_up_no_other(system: TaskSystem) -> None:
    """All that have ended are forgotten, before it is said that one has not."""
    path = system.path("held up")
    result = group(tasks.add.s(1), tasks.wait_for.s(path), tasks.add.s(2)).delay()
    for number in (0, 2):
        result[number].get(WITHIN_S)
    once(result[1], State.STARTED)
    result[0].forget()
    with pytest.raises(TaskConflict, match="STARTED"):
        result.forget()
    with pytest.raises(TaskNotFound):
        result[2].look()
    assert result.revoke() == ["unknown", "running", "unknown"]
    system.write("held up")
    once(result[1], State.SUCCESS)
    result.forget()
    assert result.revoke() == ["unknown"] * 3


def test_a_group_is_sent_whole_or_not_at_all(system: TaskSystem) -> None:
    """Also if it is only with its callback that one has become too large."""
    note, path = tasks.note.s(system.path("half"), "x"), system.path("half")
    large = chain(tasks.add.s(1), tasks.length.si("z" * 200_000))
    for calls in (
        group(note, chain(tasks.add.s(1), tasks.length.si("z" * 300_000))),
        group(note, large).then(tasks.note.s(path, "y" * 100_000)),
        group(note).then(tasks.note.s(path, "y" * 300_000)),
    ):
        assert "at most 262144 are sent" in str(refusal(calls.delay, InvalidInput))
    assert group(large).delay().get(WITHIN_S) == [200_000]
    assert tasks.add.delay(1).get(WITHIN_S) == 1
    assert not system.lines("half")


def test_a_group_whose_result_cannot_be_kept_calls_nobody_back(system: TaskSystem) -> None:
    """Nor does a chain go on after one: it has failed."""
    result = group(tasks.add.s(1), tasks.give.s("set")).then(tasks.note.s(system.path("set"), "x")).delay()
    after = chain(tasks.give.s("set"), tasks.note.si(system.path("set"), "x")).delay()
    for each in (result[1], after):
        assert isinstance(refusal(lambda: each.get(WITHIN_S)), TaskFailed)  # noqa: B023
    assert tasks.add.delay(1).get(WITHIN_S) == 1
    assert not system.lines("set")


# Redis away or full


@contextmanager
def at_their_end(system: TaskSystem) -> Iterator[list[AsyncResult[Any]]]:
    """The first of a chain and one of a group, which come to their ends when the file `open` is there. After the block
    the chain goes on, and the group calls back.
    """
    waiting = tasks.wait_for.s(system.path("open"))
    called = tasks.note.s(system.path("called"), "all")
    chained, (grouped, other) = (
        chain(waiting, tasks.echo.s()).delay(),
        group(waiting, tasks.add.s(1)).then(called).delay(),
    )
    once(other, State.SUCCESS)
    first = chained.parents[0]
    for each in (first, grouped):
        once(each, State.STARTED)
    yield [first, grouped]
    assert chained.get(WITHIN_S) == grouped.get(WITHIN_S)
    assert eventually(lambda: system.lines("called")) == ["all"]
    assert [once(each, State.SUCCESS).deliveries for each in (first, grouped)] == [1, 1]


def test_what_follows_is_sent_when_redis_has_room_again(tmp_path: Path) -> None:
    """It is refused for longer than a lease lasts; nobody else runs the task meanwhile."""
    with working_system(tmp_path) as system, at_their_end(system) as ending:
        client = system.redis.client()
        client.config_set("maxmemory", "1mb")
        system.write("open")
        assert not threading.Event().wait(LEASE.total_seconds() + 2)
        assert [each.state for each in ending] == [State.STARTED] * 2
        client.config_set("maxmemory", "0")


def test_what_follows_is_sent_when_redis_is_back(tmp_path: Path) -> None:
    """And a group that is sent meanwhile is refused, as any task is."""
    with working_system(tmp_path) as system, at_their_end(system):
        system.redis.kill()
        system.write("open")
        calls = group(tasks.add.s(1), tasks.add.s(2)).then(tasks.note.s(system.path("never"), "x"))
        assert isinstance(refusal(calls.delay), BrokerUnavailable)
        assert not threading.Event().wait(1)
        system.redis.start()


def test_a_body_does_not_wait_for_redis_longer_than_it_said(tmp_path: Path) -> None:
    """For the result of another task; if Redis is back in time, it has it. It asks through its worker, as bodies do."""
    with own_task_system(tmp_path) as system, system.worker() as worker:
        callers = system.callers
        broker = cast(TaskBroker, worker.broker)
        connect(TaskSender(broker, callers.sender.routes, callers.sender.endings, callers.clock))
        other = tasks.wait_for.delay(system.path("other"))
        once(other, State.STARTED)
        short = tasks.wait_for_task.delay(system.path("begin"), other.id, 0.5)
        long = tasks.wait_for_task.delay(system.path("begin"), other.id, 30)
        for each in (short, long):
            once(each, State.STARTED)
        system.write("begin")
        assert not threading.Event().wait(0.2)
        system.redis.kill()
        assert eventually(lambda: system.lines("begin.0.5")) == ["TimeoutError"]
        assert not threading.Event().wait(1)
        system.redis.start()
        once(short, State.SUCCESS)
        system.write("other")
        assert long.get(WITHIN_S) == other.get(WITHIN_S)


def test_the_time_to_wait_for_a_group_is_for_all_of_it(system: TaskSystem) -> None:
    """Not for each."""
    result = group(*[tasks.sleep.s(0.4)] * 4).delay()
    with pytest.raises(TimeoutError):
        result.get(0.2)
    assert result.get(WITHIN_S) == [0.4] * 4


def test_members_of_a_group_begin_at_once(system: TaskSystem) -> None:
    """One with a countdown is refused, before any is sent; so is a callback that has one, or that cannot be sent."""
    note = tasks.note.s(system.path("group"), "x")
    for calls in (group(note, tasks.add.s(1).set(countdown=1)), group(note).then(tasks.add.s(1).set(countdown=1))):
        assert str(refusal(calls.delay, InvalidInput)).startswith("countdown: ")
    for bad in (tasks.add.s("1"), tasks.echo.s("\ud800"), tasks.add.s(1).set(priority=11)):
        refusal(group(note).then(bad).delay, InvalidInput)
    assert tasks.add.delay(1).get(WITHIN_S) == 1
    assert not system.lines("group")


# Large data


@pytest.mark.parametrize("task", [tasks.blob, tasks.blob_in_child], ids=lambda task: task.name)
@pytest.mark.parametrize("size", [64 * KIB - 10, 64 * KIB + 1, MIB])
def test_a_large_result_is_kept_outside_redis(system: TaskSystem, task: Any, size: int) -> None:
    """Beyond 64 KiB, until it is forgotten."""
    result = task.delay(size)
    assert result.get(WITHIN_S) == "x" * size
    assert result.result == "x" * size
    assert len(system.payloads(result.id)) == (size > 64 * KIB)
    assert (result.look().stored is not None) is (size > 64 * KIB)
    result.forget()
    assert system.payloads(result.id) == []


@pytest.mark.parametrize("limit", [None, 60])
@pytest.mark.parametrize("by_name", [False, True])
def test_large_arguments_are_kept_outside_redis_until_the_task_has_ended(
    system: TaskSystem, by_name: bool, limit: float | None
) -> None:
    """By position and by name, into a thread and into a child process."""
    text = "y" * MIB
    args: tuple[str, ...] = () if by_name else (text,)
    result = tasks.length.apply_async(args, {"text": text} if by_name else {}, time_limit=limit, countdown=0.05)
    assert len(system.payloads(result.id)) == 1
    assert result.get(WITHIN_S) == MIB
    eventually(lambda: not system.payloads(result.id))


def test_large_arguments_stay_for_a_retry(system: TaskSystem) -> None:
    """Each run is given them."""
    result = tasks.fail_again.delay("y" * MIB)
    assert str(refusal(lambda: result.get(WITHIN_S))) == f"ValueError: {'y' * 4_000}"
    assert result.retries == 2


def test_large_arguments_go_with_a_task_that_never_runs(system: TaskSystem) -> None:
    """Cancelled or expired; of one that failed they stay, as it may be sent again, until it is forgotten."""
    text = "y" * MIB
    cancelled = tasks.length.apply_async((text,), countdown=600)
    cancelled.revoke()
    assert system.payloads(cancelled.id) == []
    expired = tasks.length.apply_async((text,), expires=0)
    once(expired, State.REVOKED)
    eventually(lambda: not system.payloads(expired.id))
    failed = tasks.fail.delay(text)
    once(failed, State.FAILURE)
    assert len(system.payloads(failed.id)) == 1
    failed.forget()
    assert system.payloads(failed.id) == []


def test_fifty_mebibytes_pass_and_redis_holds_less_than_one_kibibyte_of_them(system: TaskSystem) -> None:
    """Out of a child process, through a chain and back; measured beside the same chain with a small value."""
    system.redis.client().flushall()
    before, seen = chain_of(1), []
    for size in (1, 50 * MIB):
        result = chain_of(size)
        assert len(result.get(60)) == size
        seen.append(memory(system))
        result.forget()
        assert not any(system.payloads(each.id) for each in (*result.parents, result))
    before.get(WITHIN_S)
    small, large = seen
    assert large - small < KIB


def test_a_large_result_is_kept_once(system: TaskSystem) -> None:
    """Though a child process has kept it, and it is passed on as well."""
    result = chain(tasks.blob_in_child.s(MIB), tasks.length.s()).delay()
    assert result.get(WITHIN_S) == MIB
    assert result.parents[0].get(WITHIN_S) == "x" * MIB
    assert len(system.payloads(result.parents[0].id)) == 1


def chain_of(size: int) -> Any:
    return chain(tasks.blob_in_child.s(size), tasks.echo.s(), tasks.echo.s().set(time_limit=60)).delay()


def memory(system: TaskSystem) -> int:
    """Bytes that all keys take."""
    client = system.redis.client()
    return sum(client.memory_usage(key, samples=0) or 0 for key in client.scan_iter())


def test_what_is_too_large_is_refused_before_it_is_sent(system: TaskSystem) -> None:
    """With nothing left behind; a result is a failure that says so."""
    before = sorted(system.folder.glob("store/payloads/*/*"))
    error = refusal(lambda: tasks.length.delay("x" * PAYLOAD_BYTES), InvalidInput)
    assert f"at most {PAYLOAD_BYTES} are sent" in str(error)
    assert sorted(system.folder.glob("store/payloads/*/*")) == before


def test_later_members_of_a_chain_take_up_to_256_kib_along(system: TaskSystem) -> None:
    """In the record of the first. More is refused before anything is sent; results may be as large as any."""
    path = system.path("taken along")
    assert chain(tasks.add.s(1), tasks.echo.si("z" * 200_000)).delay().get(WITHIN_S) == "z" * 200_000
    error = refusal(chain(tasks.note.si(path, "x"), tasks.echo.si("z" * 300_000)).delay, InvalidInput)
    assert "at most 262144 are sent" in str(error)
    assert not system.lines("taken along")
