"""Dramatiq's results, pipelines and groups, as its user guide has them, on our broker."""
# mypy: allow-untyped-calls
# Dramatiq has no types for pipelines and groups.

from collections import Counter
from collections.abc import Callable
from threading import Barrier, Event, Semaphore
from typing import Any

import dramatiq
import pytest
from dramatiq import Actor, group, pipeline
from dramatiq.middleware import GroupCallbacks, SkipMessage
from dramatiq.rate_limits.backends import RedisBackend
from dramatiq.results import ResultFailure, ResultMissing, ResultTimeout

from shared.broker.broker import TaskBroker
from shared.broker.following import GroupCalls
from shared.broker.record import pack_id
from shared.broker.states import Reason, State, TaskState
from shared.errors import TaskIdTaken
from shared.redis_keys import RedisKeys
from tests.support.broker_worker import WITHIN_MS, WITHIN_S, once_over, task_broker, working
from tests.support.redis_server import PrivateRedis
from tests.support.waiting import eventually

# One server will do: this is about Dramatiq above our scripts, and each worker takes a second to stop.
pytestmark = pytest.mark.parametrize("redis_program", ["apt"], indirect=True)

BLOCKING: dict[str, Any] = {"block": True, "timeout": WITHIN_MS}


class Broken(Exception):
    """What bodies here raise."""


@pytest.fixture
def broker(redis_server: PrivateRedis, monkeypatch: pytest.MonkeyPatch) -> TaskBroker:
    """Dramatiq's global broker: results are asked from it, and `|` makes pipelines for it."""
    broker = task_broker(redis_server)
    monkeypatch.setattr(dramatiq.broker, "global_broker", broker)
    return broker


@pytest.fixture
def add(broker: TaskBroker) -> Actor[[int, int], int]:
    @dramatiq.actor(broker=broker)
    def add(left: int, right: int) -> int:
        return left + right

    return add


@pytest.fixture
def broken(broker: TaskBroker) -> Actor[..., None]:
    @dramatiq.actor(broker=broker, max_retries=0)
    def broken(*_args: object) -> None:
        raise Broken("bread")

    return broken


# Results


@pytest.mark.parametrize("result", [None, True, 0, -1.5, "Ольга", [1, [2, None]], {"a": {"b": [1]}}, 2**63])
def test_a_result_is_what_the_body_returned(broker: TaskBroker, result: object) -> None:
    """Waited for, and asked for again."""

    @dramatiq.actor(broker=broker)
    def work() -> object:
        return result

    with working(broker):
        message = work.send()
        assert message.get_result(**BLOCKING) == result
        assert message.get_result() == result
        assert message.get_result(backend=broker.get_results_backend()) == result


def test_a_result_that_is_not_there_is_missing_and_then_in_time(
    broker: TaskBroker, add: Actor[[int, int], int]
) -> None:
    """Before any worker runs: ResultMissing without waiting, ResultTimeout after it; once there is one, the result."""
    message = add.send(1, 2)
    with pytest.raises(ResultMissing):
        message.get_result()
    with pytest.raises(ResultTimeout):
        message.get_result(block=True, timeout=150)
    with pytest.raises(ResultMissing):
        add.message(1, 2).get_result()
    with working(broker):
        assert message.get_result(**BLOCKING) == 3


def test_a_failure_is_raised_where_the_result_is_asked_for(broker: TaskBroker, broken: Actor[..., None]) -> None:
    """With the type and the words of the error."""
    with working(broker):
        message = broken.send()
        with pytest.raises(ResultFailure) as failure:
            message.get_result(**BLOCKING)
    assert (failure.value.orig_exc_type, failure.value.orig_exc_msg) == ("Broken", "bread")
    assert str(failure.value) == "actor raised Broken: bread"


def test_the_result_of_a_retried_task_comes_at_its_end(broker: TaskBroker) -> None:
    """Missing between its runs."""
    failed = Event()

    @dramatiq.actor(broker=broker, min_backoff=60_000)
    def work() -> str:
        if not failed.is_set():
            failed.set()
            raise Broken
        return "done"

    with working(broker):
        message = work.send()
        assert failed.wait(WITHIN_S)
        with pytest.raises(ResultTimeout):
            message.get_result(block=True, timeout=200)
        assert broker.engine.move(message.message_id, None) == "moved"
        assert message.get_result(**BLOCKING) == "done"


@pytest.mark.parametrize("in_message", [False, True])
def test_a_result_that_nobody_wants_is_not_kept(broker: TaskBroker, in_message: bool) -> None:
    """`store_results=False`, of the actor or the message: SUCCESS all the same, and its result is None."""

    @dramatiq.actor(broker=broker, store_results=in_message)
    def work() -> str:
        return "unwanted"

    with working(broker):
        message = work.send_with_options(store_results=False)
        end = once_over(broker, message)
    assert (end.state, end.result) == (State.SUCCESS, None)
    assert message.get_result() is None


@pytest.mark.parametrize("in_message", [False, True])
def test_an_end_is_known_as_long_as_the_result_is_to_live(
    broker: TaskBroker, redis_server: PrivateRedis, in_message: bool
) -> None:
    """Dramatiq's option `result_ttl`, of the actor or the message."""
    options: dict[str, Any] = {"result_ttl": 30_000} if in_message else {}

    @dramatiq.actor(broker=broker, result_ttl=50_000)
    def work() -> None:
        pass

    with working(broker):
        once_over(broker, work.send_with_options(**options))
    client = redis_server.client()
    (lives_ms,) = [client.pttl(key) for key in client.keys("{test}=*")]
    assert 20_000 < lives_ms - (0 if in_message else 20_000) <= 30_000


def test_a_result_that_cannot_be_kept_is_a_failure(broker: TaskBroker) -> None:
    """Not a success without it; said why, to who asks for it."""

    @dramatiq.actor(broker=broker)
    def work() -> object:
        return {1, 2}

    with working(broker):
        message = work.send()
        with pytest.raises(ResultFailure, match="a set cannot be sent"):
            message.get_result(**BLOCKING)


def test_other_ends_are_failures_to_who_asks(broker: TaskBroker, add: Actor[[int, int], int]) -> None:
    """A revoked task and a skipped one have no result, and none will come: nobody waits for it."""

    class Skipping(dramatiq.Middleware):
        def before_process_message(self, _broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
            raise SkipMessage

    broker.add_middleware(Skipping())
    revoked = add.send_with_options(args=(1, 2), delay=60_000)
    assert broker.engine.cancel([revoked.message_id]) == ["revoked"]
    with pytest.raises(ResultFailure, match="REVOKED"):
        revoked.get_result()
    with working(broker), pytest.raises(ResultFailure, match="IGNORED"):
        add.send(1, 2).get_result(**BLOCKING)


# Pipelines


def test_a_pipeline_feeds_each_result_to_the_next(broker: TaskBroker, add: Actor[[int, int], int]) -> None:
    """Written with `|`: its result is the last one's; all are there, in order; nothing is left over."""
    pipe = add.message(1, 2) | add.message(3) | add.message(4)  # type: ignore[call-arg]
    with working(broker):
        assert pipe.run() is pipe
        assert pipe.get_result(**BLOCKING) == 10
        assert list(pipe.get_results(**BLOCKING)) == [3, 6, 10]
        assert (pipe.completed, pipe.completed_count, len(pipe)) == (True, 3, 3)
        broker.join("default", timeout=WITHIN_MS)
    assert {once_over(broker, message).deliveries for message in pipe.messages} == {1}


def test_a_pipeline_that_has_not_run_has_no_results(broker: TaskBroker, add: Actor[[int, int], int]) -> None:
    """Neither of a step that waits nor of one that has not been sent."""
    pipe = add.message(1, 2) | add.message(3)  # type: ignore[call-arg]
    pipe.run()
    assert (pipe.completed, pipe.completed_count) == (False, 0)
    with pytest.raises(ResultMissing):
        pipe.get_result()
    with pytest.raises(ResultTimeout):
        list(pipe.get_results(block=True, timeout=150))


def test_a_pipeline_runs_once(broker: TaskBroker, add: Actor[[int, int], int]) -> None:
    """Its messages have ids, and an id is for one task: stock would run it again."""
    pipe = add.message(1, 2) | add.message(3)  # type: ignore[call-arg]
    pipe.run()
    with pytest.raises(TaskIdTaken):
        pipe.run()
    with working(broker):
        assert pipe.get_result(**BLOCKING) == 6
        with pytest.raises(TaskIdTaken):
            pipe.run()
        broker.join("default", timeout=WITHIN_MS)
    assert {once_over(broker, message).deliveries for message in pipe.messages} == {1}


@pytest.mark.parametrize("by_actor", [False, True])
def test_a_step_may_ignore_the_result_before_it(
    broker: TaskBroker, add: Actor[[int, int], int], by_actor: bool
) -> None:
    """`pipe_ignore`, of the step's message, or of the actor whose result is not to be handed on."""

    @dramatiq.actor(broker=broker, pipe_ignore=by_actor)
    def alone() -> int:
        return 1

    options: dict[str, Any] = {} if by_actor else {"pipe_ignore": True}
    pipe = alone.message() | add.message_with_options(args=(3, 4), **options)
    with working(broker):
        assert pipe.run().get_result(**BLOCKING) == 7


def test_a_step_may_wait(broker: TaskBroker, add: Actor[[int, int], int]) -> None:
    """`delay` in a step's options delays that step; `run(delay=)` the first one, whichever is longer."""
    first = add.message_with_options(args=(1, 2), delay=100)
    pipe = first | add.message_with_options(args=(3,), delay=60_000)
    with working(broker):
        pipe.run(delay=300)
        waiting = broker.engine.look_up(pipe.messages[0].message_id)
        began = once_over(broker, pipe.messages[0])
        second = broker.engine.look_up(pipe.messages[1].message_id)
        assert waiting.due_at is not None and waiting.enqueued_at is not None and began.started_at is not None
        assert (waiting.due_at - waiting.enqueued_at).total_seconds() >= 0.29
        assert began.started_at >= waiting.due_at
        assert second.state is State.PENDING
        assert second.due_at is not None and began.ended_at is not None
        assert 50 < (second.due_at - began.ended_at).total_seconds() < 65
        assert broker.engine.move(second.id, None) == "moved"
        assert pipe.get_result(**BLOCKING) == 6


def test_a_pipeline_stops_at_a_step_that_fails(
    broker: TaskBroker, add: Actor[[int, int], int], broken: Actor[..., None]
) -> None:
    """What comes after it is never sent."""
    pipe = add.message(1, 2) | broken.message() | add.message(3)  # type: ignore[call-arg]
    with working(broker):
        pipe.run()
        with pytest.raises(ResultFailure):
            pipe.messages[1].get_result(**BLOCKING)
        broker.join("default", timeout=WITHIN_MS)
        with pytest.raises(ResultMissing):
            pipe.get_result()


def test_a_step_that_is_retried_sends_the_next_once(broker: TaskBroker, add: Actor[[int, int], int]) -> None:
    """Only the run that succeeds hands its result on."""
    runs: list[int] = []

    @dramatiq.actor(broker=broker, min_backoff=1, max_backoff=1)
    def shaky(number: int) -> int:
        runs.append(number)
        if len(runs) < 3:
            raise Broken
        return number

    pipe = shaky.message(1) | add.message(2)  # type: ignore[call-arg]
    with working(broker):
        assert pipe.run().get_result(**BLOCKING) == 3
        broker.join("default", timeout=WITHIN_MS)
    assert runs == [1, 1, 1]
    assert once_over(broker, pipe.messages[1]).deliveries == 1


def test_a_pipeline_crosses_queues_and_is_long(broker: TaskBroker) -> None:
    """Forty steps, each the other queue's; every message carries the rest of the pipeline."""

    def one_more(number: int) -> int:
        return number + 1

    here = dramatiq.actor(broker=broker, actor_name="here", queue_name="here")(one_more)
    there = dramatiq.actor(broker=broker, actor_name="there", queue_name="there")(one_more)
    steps = [here.message(0), *((there, here)[number % 2].message() for number in range(39))]  # type: ignore[call-arg]
    with working(broker):
        assert pipeline(steps, broker=broker).run().get_result(**BLOCKING) == 40


# Groups


def test_a_group_runs_side_by_side(broker: TaskBroker) -> None:
    """All at once, each on a thread of its own; results in the order of its children."""
    together = Barrier(3)

    @dramatiq.actor(broker=broker)
    def meet(number: int) -> int:
        together.wait(WITHIN_S)
        return number

    jobs = group([meet.message(number) for number in range(3)], broker=broker)
    assert (jobs.run() is jobs, len(jobs), jobs.completed_count, jobs.completed) == (True, 3, 0, False)
    with pytest.raises(ResultTimeout):
        jobs.wait(timeout=150)
    with working(broker, threads=3):
        jobs.wait(timeout=WITHIN_MS)
        assert list(jobs.get_results()) == [0, 1, 2]
    assert (jobs.completed_count, jobs.completed) == (3, True)


def test_groups_hold_groups_and_pipelines(broker: TaskBroker, add: Actor[[int, int], int]) -> None:
    """Each child's result in its place."""
    jobs = group(
        [
            add.message(1, 1),
            add.message(1, 2) | add.message(3),  # type: ignore[call-arg]
            group([add.message(2, 2), add.message(3, 3)], broker=broker),
        ],
        broker=broker,
    )
    with working(broker):
        jobs.run()
        assert list(jobs.get_results(**BLOCKING)) == [2, 6, [4, 6]]
        assert jobs.completed


def test_a_delayed_group_waits(broker: TaskBroker, add: Actor[[int, int], int]) -> None:
    """All of its messages."""
    jobs = group([add.message(1, 2), add.message(3, 4)], broker=broker).run(delay=60_000)
    stats = broker.engine.stats(["default"])["default"]
    assert (stats.due, sum(stats.ready)) == (2, 0)
    assert jobs.completed_count == 0


def test_a_failed_child_fails_the_waiting_for_its_group(
    broker: TaskBroker, add: Actor[[int, int], int], broken: Actor[..., None]
) -> None:
    """As soon as its turn comes; the others have run."""
    jobs = group([add.message(1, 2), broken.message(), add.message(3, 4)], broker=broker)
    with working(broker):
        jobs.run()
        with pytest.raises(ResultFailure, match="bread"):
            jobs.wait(timeout=WITHIN_MS)
        assert jobs.children[2].get_result(**BLOCKING) == 7


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_group_calls_back_once_all_have_succeeded(
    broker: TaskBroker, redis_server: PrivateRedis, add: Actor[[int, int], int], is_ours: bool
) -> None:
    """After the last one, once, and with a retried child too; also with Dramatiq's own barrier beside us in Redis."""
    stock = GroupCallbacks(RedisBackend(client=redis_server.client()))
    broker.add_middleware(GroupCalls(broker.engine) if is_ours else stock)
    ended, called, shaken = Event(), [], Event()

    @dramatiq.actor(broker=broker)
    def finalize(name: str) -> None:
        called.append((name, all(child.get_result() is not None for child in jobs.children[:2])))
        ended.set()

    @dramatiq.actor(broker=broker, min_backoff=1, max_backoff=1)
    def shaky() -> int:
        if not shaken.is_set():
            shaken.set()
            raise Broken
        return 1

    jobs = group([add.message(1, 2), shaky.message(), add.message(1, 2) | add.message(3)], broker=broker)  # type: ignore[call-arg]
    jobs.add_completion_callback(finalize.message("bread"))
    with working(broker):
        jobs.run()
        assert ended.wait(WITHIN_S)
        broker.join("default", timeout=WITHIN_MS)
    assert called == [("bread", True)]


def test_group_callbacks_need_their_middleware(broker: TaskBroker, add: Actor[[int, int], int]) -> None:
    """Said when it is run, before anything is sent."""
    jobs = group([add.message(1, 2)], broker=broker)
    jobs.add_completion_callback(add.message(1, 2))
    with pytest.raises(RuntimeError, match="GroupCallbacks"):
        jobs.run()
    assert broker.engine.stats(["default"])["default"].is_empty


# Callbacks


@pytest.mark.parametrize("by_message", [False, True])
def test_success_and_failure_are_told_to_other_actors(broker: TaskBroker, by_message: bool) -> None:
    """`on_success` and `on_failure`, of the actor or the message: with the message, and its result or its error."""
    told: list[tuple[str, list[Any], object]] = []

    def teller(kind: str) -> Callable[[dict[str, Any], object], None]:
        return lambda message, what: told.append((kind, message["args"], what))

    rejoice = dramatiq.actor(broker=broker, actor_name="rejoice")(teller("rejoice"))
    mourn = dramatiq.actor(broker=broker, actor_name="mourn")(teller("mourn"))
    options: dict[str, Any] = {"on_success": "rejoice", "on_failure": "mourn"}

    @dramatiq.actor(broker=broker, max_retries=1, min_backoff=1, max_backoff=1, **({} if by_message else options))
    def work(number: int) -> int:
        if number == 2:
            raise Broken("bread")
        return 10 * number

    own: dict[str, Any] = {"on_success": rejoice, "on_failure": mourn} if by_message else {}
    with working(broker):
        ends = [once_over(broker, work.send_with_options(args=(number,), **own)) for number in (1, 2)]
        broker.join("default", timeout=WITHIN_MS)
    assert [end.state for end in ends] == [State.SUCCESS, State.FAILURE]
    error = {"type": "Broken", "message": "bread"}
    assert sorted(told, key=str) == [("mourn", [2], error), ("mourn", [2], error), ("rejoice", [1], 10)]


# Tasks that run together


def ends_of(broker: TaskBroker, messages: "list[dramatiq.Message[Any]]") -> list[TaskState]:
    """Sends these in one call, so that one look finds them all: how they end."""
    broker.enqueue_many([(message, None) for message in messages])
    return [once_over(broker, message) for message in messages]


def test_tasks_with_options_of_their_own_run_by_themselves(broker: TaskBroker, redis_server: PrivateRedis) -> None:
    """What one message says holds for it, and for no other: how long its end is known, and where its result goes."""
    batches: list[list[str]] = []
    piped: list[object] = []

    @dramatiq.actor(broker=broker, together=10)
    def work(names: list[str]) -> list[str]:
        batches.append(names)
        return names

    @dramatiq.actor(broker=broker)
    def then(names: object) -> None:
        piped.append(names)

    plain = [work.message(name) for name in ("a", "b", "c")]  # type: ignore[arg-type]
    short = work.message_with_options(args=("short",), result_ttl=60_000)
    next_step = then.message_with_options()
    pipe = pipeline([work.message_with_options(args=("piped",)), next_step], broker=broker)
    with working(broker, threads=1):
        ends_of(broker, [pipe.messages[0], short, *plain])
        once_over(broker, pipe.messages[1])
    assert [batch for batch in batches if {"piped", "short"} & set(batch)] == [["piped"], ["short"]]
    assert sorted(name for batch in batches for name in batch) == ["a", "b", "c", "piped", "short"]
    assert piped == [["piped"]]
    left_ms = {message.message_id: kept_ms(redis_server, message) for message in [short, *plain]}
    assert left_ms.pop(short.message_id) <= 60_000
    assert min(left_ms.values()) > 3_600_000


def kept_ms(server: PrivateRedis, message: "dramatiq.Message[Any]") -> int:
    left = server.client().pttl(RedisKeys("test").key("ended", pack_id(message.message_id)))
    assert isinstance(left, int)
    return left


def test_tasks_that_failed_together_are_retried_each_by_itself(broker: TaskBroker) -> None:
    """With options of its own, and none of another's: else one that has been retried often spends the others' tries."""
    batches: list[list[str]] = []
    options: dict[str, dict[str, Any]] = {}

    class Looking(dramatiq.Middleware):
        def before_process_message(self, _broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
            if message.actor_name == "work" and len(message.args[0]) == 1:
                options[message.args[0][0]] = dict(message.options)

    broker.add_middleware(Looking())

    @dramatiq.actor(broker=broker, together=10, min_backoff=1, max_backoff=1, max_retries=3)
    def work(names: list[str]) -> None:
        batches.append(names)
        if len(names) > 1 or names == ["worn"]:
            raise Broken

    plain = [work.message(name) for name in ("a", "b")]  # type: ignore[arg-type]
    worn = work.message_with_options(args=("worn",), retries=3)
    coloured = work.message_with_options(args=("coloured",), colour="blue")
    with working(broker, threads=1):
        ends = ends_of(broker, plain) + ends_of(broker, [worn, coloured])
    assert [(end.state, end.retries) for end in ends] == [
        (State.SUCCESS, 1),
        (State.SUCCESS, 1),
        (State.FAILURE, 3),
        (State.SUCCESS, 0),
    ]
    assert sorted(batches) == [["a"], ["a", "b"], ["b"], ["coloured"], ["worn"]]
    assert {name: (each.get("retries"), each.get("colour")) for name, each in options.items()} == {
        "worn": (3, None),
        "coloured": (None, "blue"),
        "a": (1, None),
        "b": (1, None),
    }


@pytest.mark.parametrize("number", [1, 3])
def test_only_a_run_of_a_single_task_is_interrupted(broker: TaskBroker, number: int) -> None:
    """Cancelled with interrupts. A run of several goes on: the others have not been cancelled."""
    entered, may_end = Event(), Event()

    @dramatiq.actor(broker=broker, together=10)
    def work(_names: list[str]) -> None:
        entered.set()
        while not may_end.wait(0.01):
            pass

    messages = [work.message(str(each)) for each in range(number)]  # type: ignore[arg-type]
    with working(broker, threads=1):
        broker.enqueue_many([(message, None) for message in messages])
        assert entered.wait(WITHIN_S)
        assert broker.engine.cancel([messages[0].message_id], interrupts=True) == ["running"]
        if number > 1:
            assert not Event().wait(4.0)  # longer than until the next renewal, which says it again
            assert broker.engine.look_up(messages[0].message_id).state is State.STARTED
            may_end.set()
        ends = [once_over(broker, message) for message in messages]
        may_end.set()
    expected = (State.REVOKED, Reason.TERMINATED) if number == 1 else (State.SUCCESS, None)
    assert {(end.state, end.reason, end.deliveries) for end in ends} == {(*expected, 1)}


def test_a_worker_gives_back_what_it_has_no_thread_for(broker: TaskBroker, redis_server: PrivateRedis) -> None:
    """It looked for batches and found single tasks, so others can run what is left."""
    other = task_broker(redis_server)
    entered, may_end = Semaphore(0), Event()

    def work(_names: list[str]) -> None:
        entered.release()
        assert may_end.wait(WITHIN_S)

    here = dramatiq.actor(broker=broker, actor_name="work", together=100)(work)
    dramatiq.actor(broker=other, actor_name="work", together=100)(lambda _names: None)
    messages = [here.message_with_options(args=(number,), colour="blue") for number in range(20)]
    broker.enqueue_many([(message, None) for message in messages])
    with working(broker, threads=2):
        assert entered.acquire(timeout=WITHIN_S) and entered.acquire(timeout=WITHIN_S)
        parts = broker.lifecycle.parts
        assert parts is not None
        eventually(lambda: broker.engine.stats(["default"])["default"].leased == 2, what="the return of the others")
        assert len(parts.held.all()) == 2
        stats = broker.engine.stats(["default"])["default"]
        assert (sum(stats.ready), stats.leased) == (18, 2)
        with working(other, threads=2):
            eventually(lambda: broker.engine.stats(["default"])["default"].ready[5] == 0, what="the others' runs")
            eventually(lambda: broker.engine.stats(["default"])["default"].leased == 2, what="the others' end")
        may_end.set()
        ends = [once_over(broker, message) for message in messages]
    assert {(end.state, end.deliveries) for end in ends} == {(State.SUCCESS, 1)}


@pytest.mark.parametrize(("together", "threads"), [(100, 2), (300, 4)])
def test_many_single_tasks_of_a_batching_actor_all_run(broker: TaskBroker, together: int, threads: int) -> None:
    """None is fetched and given back so often that it is taken for one that kills its workers."""

    @dramatiq.actor(broker=broker, together=together)
    def work(_names: list[str]) -> None:
        pass

    messages = [work.message_with_options(args=(number,), colour="blue") for number in range(2 * together * threads)]
    broker.enqueue_many([(message, None) for message in messages])
    with working(broker, threads):
        broker.join("default", timeout=3 * WITHIN_MS)
    ends = Counter(broker.engine.look_up(message.message_id).state for message in messages)
    assert ends == {State.SUCCESS: len(messages)}
