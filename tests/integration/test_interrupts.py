"""Time limits and cancels that stop a running body: what it feels, what becomes of its task, and of its thread."""

import itertools
import sys
import threading
import time
from collections.abc import Iterator
from threading import Event, Lock
from typing import Any

import dramatiq
import pytest
from dramatiq import Broker, Message, MessageProxy, Middleware
from dramatiq.middleware import TimeLimitExceeded

from shared.broker.broker import TaskBroker, usual_middleware
from shared.broker.interrupts import Interrupts, Revoked
from shared.broker.states import Reason, State
from tests.conftest import ROUNDS
from tests.support.broker_worker import WITHIN_MS, WITHIN_S, StatesSeen, once_over, task_broker, working
from tests.support.redis_server import PrivateRedis
from tests.support.waiting import eventually

# One server will do: this is about threads, and each worker takes a second to stop.
pytestmark = pytest.mark.parametrize("redis_program", ["apt"], indirect=True)

SHORT: dict[str, Any] = {"time_limit": 100, "min_backoff": 1, "max_backoff": 1}


@pytest.fixture
def broker(redis_server: PrivateRedis) -> TaskBroker:
    return task_broker(redis_server)


def spin(until: Event | None = None) -> None:
    """Runs Python, which can be interrupted, until told to stop; fails after WITHIN_S."""
    give_up_at = time.monotonic() + WITHIN_S
    while until is None or not until.is_set():
        assert time.monotonic() < give_up_at, "it was not interrupted"


def interrupts_of(broker: TaskBroker) -> Interrupts:
    (interrupts,) = (each for each in broker.middleware if isinstance(each, Interrupts))
    return interrupts


# Time limits


@pytest.mark.parametrize("in_message", [False, True])
def test_a_body_over_its_time_limit_is_interrupted_and_retried(redis_server: PrivateRedis, in_message: bool) -> None:
    """`time_limit` of the actor or the message: TimeLimitExceeded in the body, then as Retries decides."""
    seen = StatesSeen()
    broker = task_broker(redis_server, [*usual_middleware(), seen])
    felt: list[type[BaseException]] = []
    limit = {"time_limit": SHORT["time_limit"]}
    of_actor: dict[str, Any] = SHORT | ({"time_limit": 600_000} if in_message else limit)

    @dramatiq.actor(broker=broker, max_retries=1, **of_actor)
    def work() -> None:
        try:
            spin()
        except BaseException as error:
            felt.append(type(error))
            raise

    with working(broker, threads=1):
        message = work.send_with_options(**(limit if in_message else {}))
        end = once_over(broker, message)
        eventually(lambda: len(seen.of(message)) == 4)
    assert felt == [TimeLimitExceeded, TimeLimitExceeded]
    assert [state.state for state in seen.of(message)] == [State.STARTED, State.RETRY, State.STARTED, State.FAILURE]
    assert (end.retries, end.deliveries) == (1, 2)
    assert end.error is not None and end.error.traceback is not None
    assert end.error.type == "TimeLimitExceeded"
    assert "in spin" in end.error.traceback


def test_a_body_within_its_limit_is_left_alone(broker: TaskBroker) -> None:
    """Also where a limit of the message is longer than its actor's."""
    may_end = Event()

    @dramatiq.actor(broker=broker, **SHORT)
    def work() -> str:
        spin(may_end)
        return "done"

    with working(broker):
        message = work.send_with_options(time_limit=60_000)
        assert not may_end.wait(0.6)  # six times the actor's limit
        may_end.set()
        assert once_over(broker, message).result == "done"


def test_a_body_that_swallows_its_interrupt_goes_on(broker: TaskBroker) -> None:
    """It is interrupted once; what it returns is its result, and the next task of its thread is not disturbed."""
    felt: list[str] = []

    @dramatiq.actor(broker=broker, **SHORT)
    def stubborn() -> str:
        try:
            spin()
        except TimeLimitExceeded:
            felt.append("limit")
        try:
            Event().wait(0.6)  # two looks of the watch
        except TimeLimitExceeded:
            felt.append("limit again")
        return "done"

    @dramatiq.actor(broker=broker)
    def next_one() -> int:
        return threading.get_ident()

    with working(broker, threads=1) as worker:
        end = once_over(broker, stubborn.send())
        following = once_over(broker, next_one.send())
        assert following.result == worker.workers[0].ident
    assert (end.state, end.result, end.deliveries, felt) == (State.SUCCESS, "done", 1, ["limit"])


def test_a_limit_reached_inside_a_call_is_felt_when_it_returns(broker: TaskBroker) -> None:
    """A call that does not return cannot be interrupted; nothing is lost by that."""
    may_return = Lock()
    may_return.acquire()
    passed = Event()

    @dramatiq.actor(broker=broker, max_retries=0, **SHORT)
    def work() -> None:
        may_return.acquire()
        for _ in range(10):
            passed.wait(0)
        passed.set()

    with working(broker):
        message = work.send()
        eventually(lambda: state_of(broker, message) is State.STARTED)
        assert not passed.wait(0.6)
        may_return.release()
        end = once_over(broker, message)
    assert end.state is State.FAILURE
    assert not passed.is_set()


def state_of(broker: TaskBroker, message: Message[Any]) -> State:
    return broker.engine.look_up(message.message_id).state


# Cancels


def test_a_cancelled_run_is_stopped_and_not_retried(redis_server: PrivateRedis) -> None:
    """REVOKED, terminated; its `finally` has run, its neighbour has not felt anything, nothing follows."""
    broker = task_broker(redis_server)
    entered, cleaned_up, may_end = Event(), Event(), Event()
    felt: list[type[BaseException]] = []

    @dramatiq.actor(broker=broker, min_backoff=1, max_backoff=1)
    def work() -> None:
        entered.set()
        try:
            spin()
        except BaseException as error:
            felt.append(type(error))
            raise
        finally:
            cleaned_up.set()

    @dramatiq.actor(broker=broker)
    def neighbour() -> str:
        spin(may_end)
        return "done"

    with working(broker):
        beside = neighbour.send()
        message = work.send()
        assert entered.wait(WITHIN_S)
        assert broker.engine.cancel([message.message_id], interrupts=True) == ["running"]
        end = once_over(broker, message)
        may_end.set()
        assert once_over(broker, beside).result == "done"
        broker.join("default", timeout=WITHIN_MS)
    assert (end.state, end.reason, end.deliveries) == (State.REVOKED, Reason.TERMINATED, 1)
    assert felt == [Revoked]
    assert cleaned_up.is_set()
    stats = broker.engine.stats(["default"])["default"]
    assert (stats.is_empty, stats.dead) == (True, 0)


def test_a_cancel_without_interrupt_lets_the_run_end(broker: TaskBroker) -> None:
    """It is not felt; what the body returns is its end."""
    entered, may_end = Event(), Event()

    @dramatiq.actor(broker=broker)
    def work() -> str:
        entered.set()
        spin(may_end)
        return "done"

    with working(broker):
        message = work.send()
        assert entered.wait(WITHIN_S)
        assert broker.engine.cancel([message.message_id]) == ["running"]
        may_end.set()
        end = once_over(broker, message)
    assert (end.state, end.result) == (State.SUCCESS, "done")


@pytest.mark.parametrize(
    ("then", "expected"),
    [
        ("return", (State.SUCCESS, None)),
        ("raise another", (State.REVOKED, Reason.CANCELLED)),
        ("raise it from another", (State.REVOKED, Reason.TERMINATED)),
    ],
)
def test_a_cancelled_body_may_have_the_last_word(
    broker: TaskBroker, then: str, expected: tuple[State, Reason | None]
) -> None:
    """It returns: SUCCESS. It raises something that would be retried: it is not, the task is revoked."""
    entered = Event()

    @dramatiq.actor(broker=broker, min_backoff=1, max_backoff=1)
    def work() -> None:
        entered.set()
        try:
            spin()
        except Revoked:
            if then == "raise another":
                raise OSError from None
            if then != "return":
                raise

    with working(broker):
        message = work.send()
        assert entered.wait(WITHIN_S)
        broker.engine.cancel([message.message_id], interrupts=True)
        end = once_over(broker, message)
        broker.join("default", timeout=WITHIN_MS)
    assert (end.state, end.reason) == expected
    assert end.deliveries == 1


@pytest.mark.parametrize("throws", [None, ValueError, (ValueError, KeyError)])
def test_a_cancel_is_no_failure_to_retry_whatever_the_actor_throws(redis_server: PrivateRedis, throws: Any) -> None:
    """Beside `throws` of its own, with Retries and without."""
    none: list[Middleware] = []
    for middleware in (None, none):
        broker = task_broker(redis_server, middleware)
        entered = Event()
        options: dict[str, Any] = {} if throws is None or middleware is none else {"throws": throws}

        def work(entered: Event = entered) -> None:
            entered.set()
            spin()

        actor = dramatiq.actor(broker=broker, actor_name="work", **options)(work)
        with working(broker):
            message = actor.send()
            assert entered.wait(WITHIN_S)
            broker.engine.cancel([message.message_id], interrupts=True)
            end = once_over(broker, message)
        assert (end.state, end.reason, end.deliveries) == (State.REVOKED, Reason.TERMINATED, 1)


# Nothing but bodies


def test_an_interrupt_just_before_the_body_is_left_counts_for_it(broker: TaskBroker) -> None:
    """Asked for during the last call of the body, so that it comes up in its very last step."""
    entered, may_return = Event(), Lock()
    may_return.acquire()

    @dramatiq.actor(broker=broker)
    def work() -> None:
        entered.set()
        may_return.acquire()

    @dramatiq.actor(broker=broker)
    def next_one() -> str:
        return "done"

    with working(broker, threads=1):
        message, following = work.send(), next_one.send()
        assert entered.wait(WITHIN_S)
        interrupts_of(broker).interrupt(message.message_id)
        may_return.release()
        end = once_over(broker, message)
        assert once_over(broker, following).result == "done"
    assert (end.state, end.reason) == (State.REVOKED, Reason.TERMINATED)


@pytest.mark.parametrize("hook", ["after_process_message", "before_ack", "after_ack"])
def test_an_interrupt_just_after_the_body_is_left_is_not_felt(redis_server: PrivateRedis, hook: str) -> None:
    """While middleware has its turn, or while it is acknowledged: the task has succeeded, and so does the next."""
    asked: list[str] = []

    class Late(Middleware):
        """Asks for an interrupt from another thread, and gives it time to come up."""

    def ask(_self: Late, broker: Broker, message: MessageProxy, **_outcome: object) -> None:
        assert isinstance(broker, TaskBroker)
        other = threading.Thread(target=interrupts_of(broker).interrupt, args=(message.message_id,))
        other.start()
        other.join()
        for number in range(1000):
            asked.append(f"{message.message_id} {number}")  # noqa: PERF401 - many steps in which it could come up

    setattr(Late, hook, ask)
    broker = task_broker(redis_server, [Late(), *usual_middleware()])

    @dramatiq.actor(broker=broker)
    def work(number: int) -> int:
        return number

    with working(broker, threads=1):
        ends = [once_over(broker, message) for message in [work.send(number) for number in range(5)]]
        broker.join("default", timeout=WITHIN_MS)
    assert [(end.state, end.result, end.deliveries) for end in ends] == [
        (State.SUCCESS, number, 1) for number in range(5)
    ]
    assert len(asked) == 5_000


def test_an_interrupt_before_the_body_begins_keeps_it_from_running(redis_server: PrivateRedis) -> None:
    """Begun already, but still among the middleware: its body does not run at all."""
    ran: list[str] = []

    class Early(Middleware):
        def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
            assert isinstance(broker, TaskBroker)
            if message.actor_name == "work":
                interrupts_of(broker).interrupt(message.message_id)

    broker = task_broker(redis_server, [*usual_middleware(), Early()])

    @dramatiq.actor(broker=broker)
    def work() -> None:
        ran.append("work")

    @dramatiq.actor(broker=broker)
    def next_one() -> None:
        ran.append("next one")

    with working(broker, threads=1):
        message, following = work.send(), next_one.send()
        end = once_over(broker, message)
        once_over(broker, following)
    assert (end.state, end.reason, ran) == (State.REVOKED, Reason.TERMINATED, ["next one"])


@pytest.fixture
def threads_switch_often() -> Iterator[None]:
    """Every few bytecodes, not every 5 ms."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.rounds
@pytest.mark.usefixtures("threads_switch_often")
def test_interrupts_at_any_moment_cost_no_thread_and_no_task(broker: TaskBroker) -> None:
    """Short bodies are interrupted as often as another thread can: each task ends once, SUCCESS or REVOKED, with what
    it returned; every thread lives on; what comes after is not disturbed.
    """
    running: dict[int, str] = {}  # by thread
    stopping = Event()
    broker.add_middleware(dramatiq.middleware.CurrentMessage())

    @dramatiq.actor(broker=broker)
    def work(number: int) -> int:
        message = dramatiq.middleware.CurrentMessage.get_current_message()
        assert message is not None
        running[threading.get_ident()] = message.message_id
        return sum(1 for _ in range(100 * number))

    def interrupt_all() -> None:
        interrupts = interrupts_of(broker)
        while not stopping.is_set():
            for task_id in list(running.values()):
                interrupts.interrupt(task_id)

    interrupting = threading.Thread(target=interrupt_all)
    with working(broker, threads=4):
        interrupting.start()
        messages = [work.send(number % 50) for number in range(30 * ROUNDS)]
        ends = [once_over(broker, message) for message in messages]
        stopping.set()
        interrupting.join(WITHIN_S)
        calm = [once_over(broker, work.send(number)) for number in range(8)]
        broker.join("default", timeout=WITHIN_MS)
    assert {(end.state, end.reason, end.deliveries) for end in ends} <= {
        (State.SUCCESS, None, 1),
        (State.REVOKED, Reason.TERMINATED, 1),
    }
    assert all(end.result == 100 * (number % 50) for number, end in enumerate(ends) if end.state is State.SUCCESS)
    assert [(end.state, end.result) for end in calm] == [(State.SUCCESS, 100 * number) for number in range(8)]
    assert any(end.state is State.REVOKED for end in ends), "no body was ever hit"


@pytest.mark.rounds
def test_cancels_at_any_moment_are_kept(broker: TaskBroker) -> None:
    """Through Redis, over the control channel: whatever is answered is what happens."""
    starts = itertools.count()

    @dramatiq.actor(broker=broker, min_backoff=1, max_backoff=1)
    def work(steps: int) -> int:
        next(starts)
        for _ in range(steps):
            Event().wait(0)
        return steps

    with working(broker, threads=4):
        messages = [work.send(number % 40) for number in range(10 * ROUNDS)]
        answers = [broker.engine.cancel([message.message_id], interrupts=True)[0] for message in messages]
        ends = [once_over(broker, message) for message in messages]
        broker.join("default", timeout=WITHIN_MS)
    for answer, end in zip(answers, ends, strict=True):
        if answer == "revoked":
            assert (end.state, end.reason, end.deliveries) == (State.REVOKED, Reason.CANCELLED, 0)
        elif answer == "too_late":
            assert (end.state, end.deliveries) == (State.SUCCESS, 1)
        else:
            assert (answer, end.deliveries) == ("running", 1)
            assert end.state in (State.SUCCESS, State.REVOKED)
    assert next(starts) == sum(end.deliveries for end in ends)


# Plain calls


def test_an_actor_called_as_a_function_is_not_limited(broker: TaskBroker) -> None:
    """Outside a worker it is an ordinary function, with its name and its result."""

    @dramatiq.actor(broker=broker, time_limit=1)
    def work(number: int) -> int:
        """Adds one."""
        Event().wait(0.6)
        return number + 1

    with working(broker):
        assert work(1) == 2
    assert (work.fn.__name__, work.fn.__doc__) == ("work", "Adds one.")


@pytest.mark.parametrize("stop", ["time limit", "cancel"])
def test_a_body_that_calls_another_actor_keeps_its_own_limit(broker: TaskBroker, stop: str) -> None:
    """A plain call inside a body belongs to that body: it is interrupted in it, and after it."""
    called, felt = Event(), []

    @dramatiq.actor(broker=broker)
    def inner() -> None:
        called.set()

    @dramatiq.actor(broker=broker, max_retries=0, time_limit=100 if stop == "time limit" else 60_000)
    def outer() -> None:
        inner()
        try:
            spin()
        except BaseException as error:
            felt.append(type(error))
            raise

    with working(broker, threads=1):
        message = outer.send()
        assert called.wait(WITHIN_S)
        if stop == "cancel":
            broker.engine.cancel([message.message_id], interrupts=True)
        end = once_over(broker, message, 2 * WITHIN_S)
    expected = {
        "time limit": (State.FAILURE, None, [TimeLimitExceeded]),
        "cancel": (State.REVOKED, Reason.TERMINATED, [Revoked]),
    }
    assert (end.state, end.reason, felt) == expected[stop]
