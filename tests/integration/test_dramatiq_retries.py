"""What Dramatiq's user guide says of sending, delays and retries, on our broker."""

import logging
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any

import dramatiq
import pytest
from dramatiq import Message
from dramatiq.middleware import AgeLimit, Callbacks, Pipelines, Retries

from shared.broker.broker import TaskBroker
from shared.broker.states import State, TaskState
from shared.errors import InvalidInput
from tests.support.broker_worker import WITHIN_MS, WITHIN_S, StatesSeen, once_over, task_broker, working
from tests.support.engines import dead_letters, dead_message
from tests.support.redis_server import PrivateRedis
from tests.support.waiting import eventually

SOON: dict[str, Any] = {"min_backoff": 1, "max_backoff": 1}
MINUTE = timedelta(minutes=1)
SLACK = timedelta(seconds=20)


class Broken(Exception):
    """What bodies here raise."""


class TwiceBroken(Broken):
    """A kind of it."""


@pytest.fixture
def seen() -> StatesSeen:
    return StatesSeen()


@pytest.fixture
def broker(redis_server: PrivateRedis, seen: StatesSeen) -> TaskBroker:
    return task_broker(redis_server, [AgeLimit(), Callbacks(), Pipelines(), Retries(), seen])


def failing(times: int) -> tuple[Callable[[], str], list[int]]:
    """A body that raises so often and then returns "done", and the threads that ran it."""
    runs: list[int] = []

    def body() -> str:
        runs.append(threading.get_ident())
        if len(runs) <= times:
            raise Broken(f"run {len(runs)}")
        return "done"

    return body, runs


def test_a_task_is_run_once_with_its_arguments(broker: TaskBroker) -> None:
    """Positional and named; its body sees what was sent, and what it returns is kept."""
    calls: list[tuple[object, object]] = []

    @dramatiq.actor(broker=broker)
    def add(left: int, right: int = 0) -> int:
        calls.append((left, right))
        return left + right

    with working(broker):
        messages = [add.send(1, 2), add.send(3, right=4), add.send_with_options(args=(5,), kwargs={"right": 6})]
        ends = [once_over(broker, message) for message in messages]
    assert [(end.state, end.result, end.deliveries, end.retries) for end in ends] == [
        (State.SUCCESS, 3, 1, 0),
        (State.SUCCESS, 7, 1, 0),
        (State.SUCCESS, 11, 1, 0),
    ]
    assert sorted(calls) == [(1, 2), (3, 4), (5, 6)]


@pytest.mark.parametrize("delay", [500, timedelta(milliseconds=500)])
def test_a_delayed_task_waits_and_is_not_early(broker: TaskBroker, delay: int | timedelta) -> None:
    """PENDING and due in half a second by what is known of it; it starts then, after one sent later for at once."""

    @dramatiq.actor(broker=broker)
    def work() -> None:
        pass

    with working(broker):
        delayed = work.send_with_options(delay=delay)
        pending = broker.engine.look_up(delayed.message_id)
        at_once = once_over(broker, work.send())
        end = once_over(broker, delayed)
    assert pending.state is State.PENDING
    assert pending.due_at is not None and pending.enqueued_at is not None
    assert end.started_at is not None and at_once.started_at is not None
    assert at_once.started_at < pending.due_at <= end.started_at < pending.due_at + timedelta(seconds=5)
    assert "eta" not in delayed.options


def test_a_failing_task_is_retried_until_it_succeeds(broker: TaskBroker, seen: StatesSeen) -> None:
    """Each state is seen in its turn, with the counts, and with the error until the next run."""
    body, runs = failing(times=2)
    work = dramatiq.actor(broker=broker, actor_name="work", **SOON)(body)
    message = work.message()
    with working(broker, threads=1):
        broker.enqueue(message, delay=300)
        assert broker.engine.look_up(message.message_id).state is State.PENDING
        once_over(broker, message)
        states = eventually(lambda: len(seen.of(message)) == 6 and seen.of(message))
        assert isinstance(states, list)
        broker.join("default", timeout=WITHIN_MS)
    assert [(each.state, each.retries, each.deliveries, error_in(each)) for each in states] == [
        (State.STARTED, 0, 1, None),
        (State.RETRY, 1, 1, "run 1"),
        (State.STARTED, 1, 2, None),
        (State.RETRY, 2, 2, "run 2"),
        (State.STARTED, 2, 3, None),
        (State.SUCCESS, 2, 3, None),
    ]
    assert len(runs) == 3
    assert states[-1].result == "done"
    assert broker.engine.stats(["default"])["default"].dead == 0


def error_in(state: TaskState) -> str | None:
    return None if state.error is None else state.error.message


def test_a_task_out_of_retries_is_a_dead_letter(broker: TaskBroker, seen: StatesSeen) -> None:
    """FAILURE with the last error and where it was raised; its message stays, as Retries has left it."""
    body, runs = failing(times=9)
    work = dramatiq.actor(broker=broker, actor_name="work", max_retries=2, **SOON)(body)
    with working(broker, threads=1):
        message = work.send()
        end = once_over(broker, message)
        eventually(lambda: len(seen.of(message)) == 6)
        (dead,) = dead_letters(broker.engine, "default")
    assert len(runs) == 3
    assert (end.state, end.retries, end.deliveries) == (State.FAILURE, 2, 3)
    assert end.error is not None and end.error.traceback is not None
    assert end.error.message == "run 3"
    assert end.error.type.endswith(".Broken")
    assert 'raise Broken(f"run {len(runs)}")' in end.error.traceback
    assert dead == end
    message_kept = dead_message(broker.engine, end.id, "default")
    assert message_kept is not None
    assert message_kept.options["retries"] == 2
    assert "run 2" in message_kept.options["traceback"]
    assert [each.state for each in seen.of(message)][-2:] == [State.STARTED, State.FAILURE]


def test_the_body_sees_how_often_it_was_retried_and_why(broker: TaskBroker) -> None:
    """`message.options`, as the guide has it: retries, traceback and the time of the failure."""
    options: list[dict[str, Any]] = []

    class Looking(dramatiq.Middleware):
        def before_process_message(self, _broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
            options.append(dict(message.options))

    body, _ = failing(times=2)
    broker.add_middleware(Looking())
    work = dramatiq.actor(broker=broker, actor_name="work", **SOON)(body)
    with working(broker):
        once_over(broker, work.send_with_options(colour="blue"))
    assert [each.get("retries") for each in options] == [None, 1, 2]
    assert {each["colour"] for each in options} == {"blue"}
    assert "Broken: run 1" in options[1]["traceback"]
    assert "Broken: run 2" in options[2]["traceback"]
    assert options[2]["requeue_timestamp"] >= options[1]["requeue_timestamp"] > 0
    assert not {"eta", "redis_message_id"} & set(options[2])


@pytest.mark.parametrize(
    ("of_actor", "of_message", "runs_expected"),
    [
        ({"max_retries": 0}, {}, 1),
        ({"max_retries": 1}, {}, 2),
        ({"max_retries": 9}, {"max_retries": 2}, 3),
        ({"max_retries": 0, "retry_when": lambda retries, error: retries < 3 and isinstance(error, Broken)}, {}, 4),
        ({"retry_when": lambda _retries, error: isinstance(error, TwiceBroken)}, {}, 1),
        ({"throws": Broken}, {}, 1),
        ({"throws": (OSError, Broken)}, {}, 1),
        ({"throws": TwiceBroken, "max_retries": 1}, {}, 2),
    ],
)
def test_actor_and_message_say_what_is_retried(
    broker: TaskBroker, of_actor: dict[str, Any], of_message: dict[str, Any], runs_expected: int
) -> None:
    """max_retries, retry_when and throws: as many runs as stock Dramatiq makes, then a dead letter."""
    body, runs = failing(times=99)
    work = dramatiq.actor(broker=broker, actor_name="work", **SOON, **of_actor)(body)
    with working(broker):
        end = once_over(broker, work.send_with_options(**of_message))
        broker.join("default", timeout=WITHIN_MS)
    assert (end.state, end.deliveries, len(runs)) == (State.FAILURE, runs_expected, runs_expected)
    assert broker.engine.stats(["default"])["default"].dead == 1


@pytest.mark.parametrize(
    ("options", "least", "most"),
    [
        ({"min_backoff": 60_000, "max_backoff": 60_000}, MINUTE / 2, MINUTE),
        ({"min_backoff": 60_000}, MINUTE, 2 * MINUTE),
        ({}, timedelta(seconds=15), timedelta(seconds=30)),
    ],
)
def test_a_retry_waits_for_its_backoff(
    broker: TaskBroker, options: dict[str, Any], least: timedelta, most: timedelta
) -> None:
    """The due time is what Retries has chosen; moved to now it runs at once, and only once."""
    body, runs = failing(times=1)
    work = dramatiq.actor(broker=broker, actor_name="work", **options)(body)
    with working(broker):
        before = datetime.now(UTC)
        message = work.send()
        waiting = eventually(lambda: in_state(broker, message, State.RETRY))
        assert waiting is not None and waiting.due_at is not None
        assert least <= waiting.due_at - before <= most + SLACK
        assert len(runs) == 1
        assert broker.engine.move(message.message_id, None) == "moved"
        assert once_over(broker, message).state is State.SUCCESS
    assert len(runs) == 2


def in_state(broker: TaskBroker, message: Message[Any], state: State) -> TaskState | None:
    known = broker.engine.look_up(message.message_id)
    return known if known.state is state else None


def test_a_body_may_ask_for_its_retry_and_say_when(broker: TaskBroker) -> None:
    """`raise dramatiq.Retry(delay=)`: due then, whatever the back-off, and counted as a retry."""
    runs: list[int] = []

    @dramatiq.actor(broker=broker, min_backoff=600_000)
    def work() -> None:
        runs.append(len(runs))
        if len(runs) == 1:
            raise dramatiq.Retry("later", delay=60_000)
        if len(runs) == 2:
            raise dramatiq.Retry("soon", delay=0)

    with working(broker):
        before = datetime.now(UTC)
        message = work.send()
        waiting = eventually(lambda: in_state(broker, message, State.RETRY))
        assert waiting is not None and waiting.due_at is not None
        assert MINUTE <= waiting.due_at - before <= MINUTE + SLACK
        broker.engine.move(message.message_id, None)
        end = once_over(broker, message)
    assert (end.state, end.retries, len(runs)) == (State.SUCCESS, 2, 3)


def test_exhausted_retries_are_told_to_another_actor(broker: TaskBroker) -> None:
    """`on_retry_exhausted` gets the message and how often it was tried, once."""
    told: list[tuple[dict[str, Any], dict[str, Any]]] = []

    @dramatiq.actor(broker=broker)
    def mourn(message: dict[str, Any], retries: dict[str, Any]) -> None:
        told.append((message, retries))

    @dramatiq.actor(broker=broker, max_retries=1, on_retry_exhausted="mourn", **SOON)
    def work(what: str) -> None:
        raise Broken(what)

    with working(broker):
        message = work.send("bread")
        assert once_over(broker, message).state is State.FAILURE
        broker.join("default", timeout=WITHIN_MS)
    ((about, retries),) = told
    assert (about["message_id"], about["args"], about["options"]["retries"]) == (message.message_id, ["bread"], 2)
    assert retries == {"retries": 1, "max_retries": 1}


def test_without_retries_middleware_an_exception_is_a_failure(redis_server: PrivateRedis) -> None:
    """Stock Dramatiq calls such a message done; here it is FAILURE with its error, and a dead letter."""
    broker = task_broker(redis_server, [])

    @dramatiq.actor(broker=broker)
    def work() -> None:
        raise Broken("bread")

    with working(broker):
        end = once_over(broker, work.send())
    assert (end.state, end.deliveries, error_in(end)) == (State.FAILURE, 1, "bread")
    assert broker.engine.stats(["default"])["default"].dead == 1


def test_many_failing_tasks_are_each_run_as_often_as_due(broker: TaskBroker) -> None:
    """A hundred that fail twice, on eight threads: three runs each, none lost, none doubled."""
    runs: list[int] = []

    @dramatiq.actor(broker=broker, **SOON)
    def work(number: int) -> None:
        runs.append(number)
        if runs.count(number) < 3:
            raise Broken(number)

    with working(broker, threads=8):
        messages = [work.send(number) for number in range(100)]
        ends = [once_over(broker, message) for message in messages]
        broker.join("default", timeout=WITHIN_MS)
    assert {(end.state, end.retries, end.deliveries) for end in ends} == {(State.SUCCESS, 2, 3)}
    assert sorted(runs) == sorted(3 * list(range(100)))


def test_a_retry_that_has_grown_too_large_fails_with_its_own_error(broker: TaskBroker) -> None:
    """With a traceback the message no longer fits: the end says what the body raised, and nothing is run again."""
    body, runs = failing(times=9)
    work = dramatiq.actor(broker=broker, actor_name="work", **SOON)(body)
    with working(broker):
        end = once_over(broker, work.send_with_options(filling="x" * (256 * 1024 - 200)))
    assert (end.state, error_in(end), len(runs)) == (State.FAILURE, "run 1", 1)


class Unspeakable(Exception):
    """It cannot be put into words."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


ODD = pytest.mark.parametrize("error", [ValueError("not text: \udcff"), Unspeakable()], ids=["not text", "no words"])


@pytest.fixture
def unlogged() -> Iterator[None]:
    """Dramatiq logs what bodies raise; what is not text breaks the report of a test run in several processes."""

    def is_to_be_logged(record: logging.LogRecord) -> bool:
        return not record.msg.startswith("Failed to process message")

    logger = logging.getLogger("dramatiq.worker.WorkerThread")
    logger.addFilter(is_to_be_logged)
    yield
    logger.removeFilter(is_to_be_logged)


@ODD
@pytest.mark.usefixtures("unlogged")
def test_an_exception_whose_text_cannot_be_kept_is_retried_as_any_other(
    broker: TaskBroker, seen: StatesSeen, error: Exception
) -> None:
    """A file name, quoted, may hold what is not text."""
    runs: list[int] = []

    @dramatiq.actor(broker=broker, **SOON)
    def work() -> str:
        runs.append(len(runs))
        if len(runs) < 3:
            raise error
        return "done"

    with working(broker, threads=1):
        message = work.send()
        end = once_over(broker, message)
        eventually(lambda: len(seen.of(message)) == 6)
    assert (end.state, end.result, end.retries, end.deliveries) == (State.SUCCESS, "done", 2, 3)
    between = [each.error for each in seen.of(message) if each.state is State.RETRY]
    assert [each is not None and each.type.endswith(type(error).__name__) for each in between] == [True, True]


@ODD
@pytest.mark.usefixtures("unlogged")
def test_an_exception_whose_text_cannot_be_kept_ends_a_task_for_good(broker: TaskBroker, error: Exception) -> None:
    """FAILURE, and a dead letter: it is not left STARTED until its lease runs out."""
    runs: list[int] = []

    @dramatiq.actor(broker=broker, max_retries=1, **SOON)
    def work() -> None:
        runs.append(len(runs))
        raise error

    with working(broker):
        end = once_over(broker, work.send())
        (dead,) = dead_letters(broker.engine, "default")
    assert (end.state, end.deliveries, len(runs)) == (State.FAILURE, 2, 2)
    assert end.error is not None and end.error.type.endswith(type(error).__name__)
    assert dead == end


def test_a_cancelled_task_is_not_retried(broker: TaskBroker) -> None:
    """Cancelled while its failing body runs: this run ends, REVOKED, and none follows."""
    entered, may_fail = Event(), Event()

    @dramatiq.actor(broker=broker, **SOON)
    def work() -> None:
        entered.set()
        assert may_fail.wait(WITHIN_S)
        raise Broken

    with working(broker):
        message = work.send()
        assert entered.wait(WITHIN_S)
        assert broker.engine.cancel([message.message_id]) == ["running"]
        may_fail.set()
        end = once_over(broker, message)
        broker.join("default", timeout=WITHIN_MS)
    assert (end.state, end.deliveries) == (State.REVOKED, 1)


def test_a_body_may_send_itself_again(broker: TaskBroker) -> None:
    """Enqueued from inside its run, as it is to be next: that runs later, under the same id, also in another queue."""
    broker.add_middleware(dramatiq.middleware.CurrentMessage())
    runs: list[int] = []

    @dramatiq.actor(broker=broker)
    def work(step: int) -> None:
        runs.append(step)
        message = dramatiq.middleware.CurrentMessage.get_current_message()
        assert message is not None
        if len(runs) < 3:
            broker.enqueue(message.copy(args=(step + 1,), queue_name="other"), delay=1)

    broker.declare_queue("other")
    with working(broker):
        message = work.send(0)
        end = once_over(broker, message)
        for queue in ("default", "other"):
            broker.join(queue, timeout=WITHIN_MS)
    assert runs == [0, 1, 2]
    assert (end.state, end.deliveries, end.queue) == (State.SUCCESS, 3, "other")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"args": ({1},)}, "args"),
        ({"queue_name": "nowhere"}, "queue"),
        ({"options": {"priority": 10}}, "priority"),
        ({"options": {"eta": 1}}, "options.eta"),
    ],
)
def test_what_cannot_be_sent_is_refused_to_the_body_that_sends_it(
    broker: TaskBroker, change: dict[str, Any], named: str
) -> None:
    """Also when it would be its own next run; whether it fails then is for the body to say."""
    broker.add_middleware(dramatiq.middleware.CurrentMessage())
    errors: list[str] = []

    @dramatiq.actor(broker=broker)
    def work(_what: object) -> None:
        message = dramatiq.middleware.CurrentMessage.get_current_message()
        assert message is not None
        try:
            broker.enqueue(message.copy(**change))
        except InvalidInput as error:
            errors.append(error.errors[0].field)

    with working(broker):
        end = once_over(broker, work.send(0))
    assert (end.state, end.deliveries) == (State.SUCCESS, 1)
    assert errors[0].startswith(named)
