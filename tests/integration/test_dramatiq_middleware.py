"""Dramatiq's middleware hooks, worker and broker methods, as its user guide has them, on our broker."""

import asyncio
import threading
from datetime import timedelta
from functools import partial
from threading import Event
from typing import Any

import dramatiq
import pytest
from dramatiq import Actor, Broker, Message, MessageProxy, Middleware, Worker
from dramatiq.errors import QueueJoinTimeout
from dramatiq.middleware import (
    AgeLimit,
    AsyncIO,
    CurrentMessage,
    Retries,
    Shutdown,
    ShutdownNotifications,
    SkipMessage,
    TimeLimitExceeded,
)

from shared.broker.broker import TaskBroker, usual_middleware
from shared.broker.interrupts import TimeLimits
from shared.broker.record import pack_id
from shared.broker.states import Reason, State
from shared.errors import TaskIdTaken, TaskNotFound
from shared.redis_keys import RedisKeys
from tests.support.broker_worker import WITHIN_MS, WITHIN_S, once_over, task_broker, working
from tests.support.engines import dead_letters, dead_message
from tests.support.redis_server import PrivateRedis
from tests.support.waiting import eventually

# One server will do: this is about Dramatiq above our scripts, and each worker takes a second to stop.
pytestmark = pytest.mark.parametrize("redis_program", ["apt"], indirect=True)

SOON: dict[str, Any] = {"min_backoff": 1, "max_backoff": 1}


class Hooks(Middleware):
    """Notes every hook that is called for a message, and those of the worker."""

    def __init__(self) -> None:
        self.of_messages: list[tuple[str, str]] = []
        self.of_worker: list[str] = []

    def of(self, message: Message[Any]) -> list[str]:
        return [hook for hook, message_id in self.of_messages if message_id == message.message_id]

    def _note(self, hook: str, message: Message[Any] | MessageProxy) -> None:
        self.of_messages.append((hook, message.message_id))

    def before_enqueue(self, _broker: Broker, message: Message[Any], delay: int | None) -> None:
        self._note(f"before_enqueue {delay}", message)

    def after_enqueue(self, _broker: Broker, message: Message[Any], delay: int | None) -> None:
        self._note(f"after_enqueue {delay}", message)

    def before_delay_message(self, _broker: Broker, message: MessageProxy) -> None:
        self._note("before_delay_message", message)

    def before_process_message(self, _broker: Broker, message: MessageProxy) -> None:
        self._note("before_process", message)

    def after_process_message(
        self,
        _broker: Broker,
        message: MessageProxy,
        *,
        result: object = None,
        exception: BaseException | None = None,
    ) -> None:
        self._note(f"after_process {result if exception is None else type(exception).__name__}", message)

    def after_skip_message(self, _broker: Broker, message: MessageProxy) -> None:
        self._note("after_skip", message)

    def before_ack(self, _broker: Broker, message: MessageProxy) -> None:
        self._note("before_ack", message)

    def after_ack(self, _broker: Broker, message: MessageProxy) -> None:
        self._note("after_ack", message)

    def before_nack(self, _broker: Broker, message: MessageProxy) -> None:
        self._note("before_nack", message)

    def after_nack(self, _broker: Broker, message: MessageProxy) -> None:
        self._note("after_nack", message)

    def before_worker_boot(self, _broker: Broker, _worker: Worker) -> None:
        self.of_worker.append("before_worker_boot")

    def after_worker_boot(self, _broker: Broker, _worker: Worker) -> None:
        self.of_worker.append("after_worker_boot")

    def before_worker_shutdown(self, _broker: Broker, _worker: Worker) -> None:
        self.of_worker.append("before_worker_shutdown")

    def after_worker_shutdown(self, _broker: Broker, _worker: Worker) -> None:
        self.of_worker.append("after_worker_shutdown")


@pytest.fixture
def hooks() -> Hooks:
    return Hooks()


@pytest.fixture
def broker(redis_server: PrivateRedis, hooks: Hooks) -> TaskBroker:
    """`hooks` come after all others."""
    return task_broker(redis_server, [*usual_middleware(), hooks])


@pytest.fixture
def ran() -> list[object]:
    """What `note` has run with."""
    return []


@pytest.fixture
def note(broker: TaskBroker, ran: list[object]) -> Actor[[object], None]:
    @dramatiq.actor(broker=broker)
    def note(what: object) -> None:
        ran.append(what)

    return note


# Hooks


def test_the_hooks_of_a_success(broker: TaskBroker, hooks: Hooks) -> None:
    """In Dramatiq's order, each once; a delay adds none."""

    @dramatiq.actor(broker=broker)
    def work() -> str:
        return "done"

    with working(broker):
        at_once, delayed = work.send(), work.send_with_options(delay=50)
        for message in (at_once, delayed):
            once_over(broker, message)
        broker.join("default", timeout=WITHIN_MS)
        eventually(lambda: len(hooks.of(delayed)) == 6)
    run = ["before_process", "after_process done", "before_ack", "after_ack"]
    assert hooks.of(at_once) == ["before_enqueue None", "after_enqueue None", *run]
    assert hooks.of(delayed) == ["before_enqueue 50", "after_enqueue 50", *run]
    boot, shutdown = hooks.of_worker[:2], hooks.of_worker[2:]
    assert boot == ["before_worker_boot", "after_worker_boot"]
    assert shutdown == ["before_worker_shutdown", "after_worker_shutdown"]


def test_the_hooks_of_a_failure(broker: TaskBroker, hooks: Hooks) -> None:
    """It is rejected instead of acknowledged."""

    @dramatiq.actor(broker=broker, max_retries=0)
    def work() -> None:
        raise OSError

    with working(broker):
        message = work.send()
        once_over(broker, message)
    assert hooks.of(message)[2:] == ["before_process", "after_process OSError", "before_nack", "after_nack"]


def test_the_hooks_of_a_retry(redis_server: PrivateRedis, hooks: Hooks) -> None:
    """It is enqueued again with its delay, then acknowledged."""
    broker = task_broker(redis_server, [hooks, Retries()])
    runs: list[int] = []

    @dramatiq.actor(broker=broker, min_backoff=4, max_backoff=4)
    def work() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise OSError

    with working(broker, threads=1):
        message = work.send()
        once_over(broker, message)
    first, second = hooks.of(message)[2:8], hooks.of(message)[8:]
    assert [name.split()[0] for name in first] == [
        "before_process",
        "before_enqueue",
        "after_enqueue",
        "after_process",
        "before_ack",
        "after_ack",
    ]
    assert 2 <= int(first[1].split()[1]) <= 4
    assert second == ["before_process", "after_process None", "before_ack", "after_ack"]


def test_a_skipped_message_is_ignored(broker: TaskBroker, hooks: Hooks, ran: list[object]) -> None:
    """Its body does not run; it is acknowledged, and its state says IGNORED."""

    class Skipping(Middleware):
        def before_process_message(self, _broker: Broker, message: MessageProxy) -> None:
            if message.args == ("skip",):
                raise SkipMessage

    broker.add_middleware(Skipping())

    @dramatiq.actor(broker=broker)
    def note(what: object) -> None:
        ran.append(what)

    with working(broker):
        skipped, other = note.send("skip"), note.send("run")
        assert once_over(broker, skipped).state is State.IGNORED
        assert once_over(broker, other).state is State.SUCCESS
        eventually(lambda: len(hooks.of(skipped)) == 6)
    assert hooks.of(skipped)[2:] == ["before_process", "after_skip", "before_ack", "after_ack"]
    assert ran == ["run"]


def test_a_message_that_middleware_fails_is_a_failure(broker: TaskBroker, hooks: Hooks, ran: list[object]) -> None:
    """`message.fail()` before the body: it does not run, and its message becomes a dead letter."""

    class Failing(Middleware):
        def before_process_message(self, _broker: Broker, message: MessageProxy) -> None:
            message.fail()

    broker.add_middleware(Failing())

    @dramatiq.actor(broker=broker)
    def note(what: object) -> None:
        ran.append(what)

    with working(broker):
        message = note.send(1)
        end = once_over(broker, message)
        eventually(lambda: "after_nack" in hooks.of(message))
    assert (end.state, ran) == (State.FAILURE, [])
    assert end.error is not None and end.error.type == "Rejected"
    assert broker.engine.stats(["default"])["default"].dead == 1


def test_middleware_that_puts_a_message_off_loses_nothing(broker: TaskBroker, ran: list[object]) -> None:
    """Enqueued again with a delay and skipped, as throttles do it: it runs later, once, and under its id."""
    put_off: list[str] = []

    class Throttle(Middleware):
        def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
            if message.message_id not in put_off:
                put_off.append(message.message_id)
                broker.enqueue(message.copy() if message.args == ("copy",) else message, delay=10)  # type: ignore[arg-type]
                raise SkipMessage

    broker.add_middleware(Throttle())

    @dramatiq.actor(broker=broker)
    def note(what: object) -> None:
        ran.append(what)

    with working(broker):
        ends = [once_over(broker, note.send(what)) for what in ("itself", "copy")]
        broker.join("default", timeout=WITHIN_MS)
    assert ran == ["itself", "copy"]
    assert {(end.state, end.deliveries) for end in ends} == {(State.SUCCESS, 2)}


@pytest.mark.parametrize("hook", ["before_nack", "after_nack"])
def test_what_middleware_enqueues_when_a_task_is_over_is_not_lost_in_silence(
    redis_server: PrivateRedis, hook: str
) -> None:
    """Before it is told to Redis it is a retry like that of Retries; afterwards its id is taken."""
    refused: list[TaskIdTaken] = []

    class Again(Middleware):
        pass

    def enqueue(_self: Again, broker: Broker, message: MessageProxy) -> None:
        try:
            if "second" not in message.options:
                message.options["second"] = True
                broker.enqueue(message, delay=1)  # type: ignore[arg-type]
        except TaskIdTaken as error:
            refused.append(error)

    setattr(Again, hook, enqueue)
    broker = task_broker(redis_server, [*usual_middleware(), Again()])

    @dramatiq.actor(broker=broker, max_retries=0)
    def work() -> None:
        raise OSError

    with working(broker):
        message = work.send()
        end = once_over(broker, message)
        broker.join("default", timeout=WITHIN_MS)
        eventually(lambda: hook == "before_nack" or refused)
    assert end.state is State.FAILURE
    assert (end.deliveries, len(refused)) == {"before_nack": (2, 0), "after_nack": (1, 1)}[hook]


def test_middleware_may_add_options_to_what_is_sent(broker: TaskBroker) -> None:
    """What `before_enqueue` writes into the options arrives."""
    arrived: list[object] = []

    class Tracing(Middleware):
        def before_enqueue(self, _broker: Broker, message: Message[Any], _delay: int | None) -> None:
            message.options["trace"] = "t-1"

        def before_process_message(self, _broker: Broker, message: MessageProxy) -> None:
            arrived.append(message.options.get("trace"))

    broker.add_middleware(Tracing())

    @dramatiq.actor(broker=broker)
    def work() -> None:
        pass

    with working(broker):
        once_over(broker, work.send())
    assert arrived == ["t-1"]


def test_a_revoked_message_reaches_no_other_middleware(broker: TaskBroker, hooks: Hooks, ran: list[object]) -> None:
    """Cancelled while it waits in this process: no hook says that it is processed, and its body does not run."""

    @dramatiq.actor(broker=broker)
    def note(what: object) -> None:
        ran.append(what)

    with working(broker, threads=1) as worker:
        (thread,) = worker.workers
        pause(thread)
        message = note.send(1)
        eventually(lambda: worker.work_queue.qsize() == 1)
        assert broker.engine.cancel([message.message_id]) == ["revoked"]
        thread.resume()
        worker.join()
        end = once_over(broker, message)
    assert (end.state, end.reason, ran) == (State.REVOKED, Reason.CANCELLED, [])
    assert "before_process" not in hooks.of(message)


def pause(*threads: Any) -> None:
    """Dramatiq's worker or consumer threads; they finish what they are at."""
    for thread in threads:
        thread.pause()
    for thread in threads:
        assert thread.paused_event.wait(WITHIN_S)


# Dramatiq's other middleware


@pytest.mark.parametrize("in_message", [False, True])
def test_a_message_past_its_age_limit_is_not_run(broker: TaskBroker, ran: list[object], in_message: bool) -> None:
    """`max_age`, of the actor or the message: a dead letter, as with stock."""
    limit: dict[str, Any] = {"max_age": 1}

    @dramatiq.actor(broker=broker, **({} if in_message else limit))
    def note(what: object) -> None:
        ran.append(what)

    message = note.send_with_options(args=(1,), delay=50, **(limit if in_message else {}))
    with working(broker):
        end = once_over(broker, message)
    assert (end.state, ran) == (State.FAILURE, [])
    assert end.error is not None and end.error.type == "dramatiq.middleware.middleware.SkipMessage"
    assert end.error.message == "Message age limit exceeded"
    assert any(isinstance(middleware, AgeLimit) for middleware in broker.middleware)


def test_a_body_finds_its_message(broker: TaskBroker) -> None:
    """With CurrentMessage, as it was sent; outside there is none."""
    broker.add_middleware(CurrentMessage())
    found: list[tuple[str, tuple[object, ...], object]] = []

    @dramatiq.actor(broker=broker)
    def work(_what: str) -> None:
        message = CurrentMessage.get_current_message()
        assert message is not None
        found.append((message.message_id, message.args, message.options["colour"]))

    with working(broker):
        message = work.send_with_options(args=("bread",), colour="blue")
        once_over(broker, message)
    assert found == [(message.message_id, ("bread",), "blue")]
    assert CurrentMessage.get_current_message() is None


def test_asyncio_actors_run_on_one_loop(broker: TaskBroker) -> None:
    """With AsyncIO: their results are kept, their errors retried, their time limited."""
    broker.add_middleware(AsyncIO())
    loops: set[object] = set()
    runs: list[str] = []
    cleaned_up = Event()

    @dramatiq.actor(broker=broker, max_retries=1, **SOON)
    async def work(what: str) -> str:
        loops.add(asyncio.get_running_loop())
        runs.append(what)
        await asyncio.sleep(0)
        if what == "shaky" and runs.count("shaky") == 1:
            raise OSError
        return what.upper()

    @dramatiq.actor(broker=broker, max_retries=0, time_limit=100)
    async def stuck() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            cleaned_up.set()

    with working(broker):
        ends = [once_over(broker, work.send(what)) for what in ("plain", "shaky")]
        end = once_over(broker, stuck.send())
    assert [(each.state, each.result) for each in ends] == [(State.SUCCESS, "PLAIN"), (State.SUCCESS, "SHAKY")]
    assert len(loops) == 1
    assert end.error is not None and end.error.type.endswith(TimeLimitExceeded.__name__)
    assert cleaned_up.is_set()


def test_a_body_is_told_of_the_shutdown(redis_server: PrivateRedis) -> None:
    """With stock ShutdownNotifications: Shutdown in the body, a retry as Retries decides, and nothing lost."""
    broker = task_broker(redis_server, [ShutdownNotifications(), Retries()])
    entered = Event()
    told: list[str] = []

    @dramatiq.actor(broker=broker, notify_shutdown=True, min_backoff=60_000)
    def work() -> None:
        entered.set()
        try:
            spin_until(Event())
        except Shutdown:
            told.append("shutdown")
            raise

    with working(broker, threads=1):
        message = work.send()
        assert entered.wait(WITHIN_S)
    state = broker.engine.look_up(message.message_id)
    assert (told, state.state, state.retries) == (["shutdown"], State.RETRY, 1)


def spin_until(event: Event) -> None:
    """In Python, where a thread can be interrupted; fails after WITHIN_S."""
    never = Event()
    for _ in range(100 * WITHIN_S):
        if event.is_set():
            return
        never.wait(0.01)
    raise AssertionError("it was not interrupted")


# What cannot be run


def test_an_unknown_actor_is_a_dead_letter(broker: TaskBroker, note: Actor[[object], None], ran: list[object]) -> None:
    """Its message stays to be looked at, and the worker goes on."""
    unknown: Message[Any] = Message(queue_name="default", actor_name="nobody", args=(1,), kwargs={}, options={})
    with working(broker, threads=1):
        broker.enqueue(unknown)
        end = once_over(broker, unknown)
        once_over(broker, note.send(2))
        (dead,) = dead_letters(broker.engine, "default")
    assert (end.state, end.deliveries, ran) == (State.FAILURE, 0, [2])
    assert end.error is not None and end.error.type.endswith("ActorNotFound")
    assert dead == end
    assert dead_message(broker.engine, end.id, "default") == unknown


@pytest.mark.parametrize("delay", [None, 200])
@pytest.mark.parametrize("damage", [b"", b"5", b"\xff" * 40, b"5\x07default0123ABCDEFnot a list"])
def test_a_damaged_record_is_a_dead_letter(
    broker: TaskBroker,
    redis_server: PrivateRedis,
    note: Actor[[object], None],
    ran: list[object],
    damage: bytes,
    delay: int | None,
) -> None:
    """Whatever it has been overwritten with: buried, and its neighbours run."""
    first, damaged, last = (note.send_with_options(args=(number,), delay=delay) for number in range(3))
    records = RedisKeys("test").key("messages")
    client = redis_server.client()
    client.hset(records, pack_id(damaged.message_id), damage)
    with working(broker):
        for message in (first, last):
            assert once_over(broker, message).state is State.SUCCESS
        (dead,) = eventually(lambda: dead_letters(broker.engine, "default"))
        broker.join("default", timeout=WITHIN_MS)
    end = broker.engine.look_up(damaged.message_id)
    assert sorted(ran, key=str) == [0, 2]
    assert end.state is State.FAILURE
    assert end.error is not None and end.error.type.endswith("DecodeError")
    assert (dead.id, dead_message(broker.engine, dead.id, "default")) == (damaged.message_id, None)


# Broker and worker


def test_join_waits_for_everything_of_a_queue(broker: TaskBroker) -> None:
    """What is delayed, what runs and what will be retried; QueueJoinTimeout where that takes too long."""
    may_end, runs = Event(), []

    @dramatiq.actor(broker=broker, **SOON)
    def work() -> None:
        assert may_end.wait(WITHIN_S)
        runs.append(1)
        if len(runs) == 1:
            raise OSError

    broker.join("default", timeout=1)
    with working(broker) as worker:
        work.send_with_options(delay=100)
        with pytest.raises(QueueJoinTimeout):
            broker.join("default", interval=10, timeout=50)
        eventually(lambda: broker.engine.stats(["default"])["default"].leased == 1)
        with pytest.raises(QueueJoinTimeout):
            broker.join("default", interval=10, timeout=50)
        may_end.set()
        broker.join("default", interval=10, timeout=WITHIN_MS)
        worker.join()
        assert len(runs) == 2


def test_flush_drops_what_waits(broker: TaskBroker, note: Actor[[object], None], ran: list[object]) -> None:
    """Of one queue, ready or delayed; `flush_all` of every queue. Nothing is known of it afterwards."""

    @dramatiq.actor(broker=broker, queue_name="other")
    def elsewhere() -> None:
        ran.append("elsewhere")

    dropped = [note.send(1), note.send_with_options(args=(2,), delay=60_000)]
    kept = elsewhere.send()
    broker.flush("default")
    for message in dropped:
        with pytest.raises(TaskNotFound):
            broker.engine.look_up(message.message_id)
    assert broker.engine.look_up(kept.message_id).state is State.PENDING
    broker.flush_all()
    assert all(stats.is_empty for stats in broker.engine.stats(["default", "other"]).values())
    with working(broker):
        once_over(broker, note.send(3))
    assert ran == [3]


def test_what_is_flushed_while_it_runs_ends_unheard(broker: TaskBroker) -> None:
    """Its body goes on; no state is made of it, and the worker takes the next."""
    entered, may_end = Event(), Event()

    @dramatiq.actor(broker=broker)
    def work() -> None:
        entered.set()
        assert may_end.wait(WITHIN_S)

    with working(broker, threads=1) as worker:
        flushed = work.send()
        assert entered.wait(WITHIN_S)
        broker.flush("default")
        may_end.set()
        worker.join()
        assert once_over(broker, work.send()).state is State.SUCCESS
    with pytest.raises(TaskNotFound):
        broker.engine.look_up(flushed.message_id)


def test_a_paused_worker_runs_nothing_until_it_is_resumed(
    broker: TaskBroker, note: Actor[[object], None], ran: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sent meanwhile waits, and is run then."""
    monkeypatch.setattr(dramatiq.worker, "CONSUMER_RESTART_DELAY_SECS", 0.1)  # a pause costs that
    with working(broker) as worker:
        once_over(broker, note.send(1))
        worker.pause()
        messages = [note.send(2), note.send_with_options(args=(3,), delay=10)]
        assert broker.engine.look_up(messages[0].message_id).state is State.PENDING
        with pytest.raises(QueueJoinTimeout):
            broker.join("default", timeout=500)
        assert ran == [1]
        worker.resume()
        for message in messages:
            once_over(broker, message)
    assert sorted(ran, key=str) == [1, 2, 3]


def test_a_higher_priority_goes_first(broker: TaskBroker, note: Actor[[object], None], ran: list[object]) -> None:
    """The option `priority` of a message: 9 before 5, the usual one, before 0; within one the order of sending."""
    for number, priority in enumerate((0, 5, 9, 0, 5, 9)):
        note.send_with_options(args=((priority, number),), priority=priority)
    note.send((5, 6))
    with working(broker, threads=1):
        broker.join("default", timeout=WITHIN_MS)
    assert ran == [[9, 2], [9, 5], [5, 1], [5, 4], [5, 6], [0, 0], [0, 3]]


def test_an_actors_priority_orders_what_a_worker_has_fetched(broker: TaskBroker, ran: list[object]) -> None:
    """Dramatiq's own, where the lowest goes first: it does not decide what is fetched."""
    actors = [
        dramatiq.actor(broker=broker, actor_name=f"p{priority}", priority=priority)(ran.append)
        for priority in (20, 0, 10)
    ]
    with working(broker, threads=3) as worker:
        pause(*worker.workers)
        messages = [actor.send(actor.priority) for actor in actors]
        eventually(lambda: worker.work_queue.qsize() == 3)
        worker.workers[0].resume()
        for message in messages:
            once_over(broker, message)
        for thread in worker.workers[1:]:
            thread.resume()
    assert ran == [0, 10, 20]


def test_a_queue_declared_while_a_worker_runs_is_consumed(broker: TaskBroker, ran: list[object]) -> None:
    """At once and for delays."""
    with working(broker):

        @dramatiq.actor(broker=broker, queue_name="late")
        def late(what: object) -> None:
            ran.append(what)

        messages = [late.send(1), late.send_with_options(args=(2,), delay=50)]
        for message in messages:
            assert once_over(broker, message).state is State.SUCCESS
    assert ran == [1, 2]


def test_other_queues_are_left_alone(broker: TaskBroker, note: Actor[[object], None], ran: list[object]) -> None:
    """Of a worker with a list of queues: what is in another waits, due or ready, until somebody consumes it."""

    @dramatiq.actor(broker=broker, queue_name="other")
    def elsewhere() -> None:
        ran.append("elsewhere")

    at_once, delayed = elsewhere.send(), elsewhere.send_with_options(delay=1)
    with working(broker, queues=["default"]):
        once_over(broker, note.send("here"))
        stats = broker.engine.stats(["other"])["other"]
        assert (sum(stats.ready), stats.overdue, stats.leased) == (1, 1, 0)
    assert ran == ["here"]
    with working(broker, queues=["other"]):
        for message in (at_once, delayed):
            assert once_over(broker, message).state is State.SUCCESS


def test_two_namespaces_share_a_redis(redis_server: PrivateRedis) -> None:
    """The same ids, queues and actors in both: each worker runs its own."""
    brokers = {name: task_broker(redis_server, namespace=name) for name in ("here", "there")}
    ran: list[str] = []
    for name, broker in brokers.items():
        dramatiq.actor(broker=broker, actor_name="work")(partial(ran.append, name))
    message: Message[Any] = Message(queue_name="default", actor_name="work", args=(), kwargs={}, options={})
    for broker in brokers.values():
        broker.enqueue(message)
    with working(brokers["here"]):
        once_over(brokers["here"], message)
        assert brokers["there"].engine.look_up(message.message_id).state is State.PENDING
    with working(brokers["there"]):
        once_over(brokers["there"], message)
    assert ran == ["here", "there"]


def test_a_worker_can_follow_another_in_one_process(
    broker: TaskBroker, note: Actor[[object], None], ran: list[object]
) -> None:
    """Three, one after the other, on one broker; no thread of any is left."""
    before = set(threading.enumerate())
    for number in range(3):
        with working(broker):
            once_over(broker, note.send(number))
        waiting = note.send_with_options(args=(number + 10,), delay=1)
        assert broker.engine.look_up(waiting.message_id).state is State.PENDING
    eventually(lambda: not {thread for thread in threading.enumerate() if thread.name != "TimeLimits"} - before)
    assert sorted(ran, key=str) == [0, 1, 10, 11, 2]


def test_time_limits_begin_and_end_with_their_worker(broker: TaskBroker) -> None:
    """Beside the other loops: none is left of a worker that has ended."""
    for _ in range(2):
        with working(broker):
            parts = broker.lifecycle.parts
            assert parts is not None
            (limits,) = (loop for loop in parts.loops if isinstance(loop, TimeLimits))
            assert limits.is_alive()
        assert not limits.is_alive()
        assert [thread for thread in threading.enumerate() if isinstance(thread, TimeLimits)] == []


def test_a_stopping_worker_finishes_what_it_runs_and_leaves_the_rest(broker: TaskBroker) -> None:
    """What it has fetched and not begun is back in its place; the next worker runs it."""
    entered, may_end = Event(), Event()
    order: list[int] = []

    @dramatiq.actor(broker=broker)
    def work(number: int) -> None:
        entered.set()
        assert may_end.wait(WITHIN_S)
        order.append(number)

    messages = [work.message(number) for number in range(4)]
    with working(broker, threads=1):
        for message in messages:
            broker.enqueue(message)
        assert entered.wait(WITHIN_S)
        parts = broker.lifecycle.parts
        assert parts is not None

        def let_end_once_stopping() -> None:
            eventually(lambda: parts.room.is_closed)
            may_end.set()

        stopping = threading.Thread(target=let_end_once_stopping)
        stopping.start()
    stopping.join(WITHIN_S)
    stats = broker.engine.stats(["default"])["default"]
    assert (order, sum(stats.ready), stats.leased) == ([0], 3, 0)
    with working(broker, threads=1):
        ends = [once_over(broker, message) for message in messages]
    assert order == [0, 1, 2, 3]
    assert {(end.state, end.deliveries) for end in ends} == {(State.SUCCESS, 1)}


def test_delays_are_as_long_as_anybody_likes(broker: TaskBroker, note: Actor[[object], None]) -> None:
    """Stock stops at seven days."""
    message = note.send_with_options(args=(1,), delay=timedelta(days=400))
    state = broker.engine.look_up(message.message_id)
    assert state.due_at is not None and state.enqueued_at is not None
    assert state.due_at - state.enqueued_at >= timedelta(days=400) - timedelta(seconds=1)
