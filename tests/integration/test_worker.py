"""Dramatiq's worker with our tasks, middleware and services, on a real Redis: inside this process."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import pytest
from dramatiq import Broker, MessageProxy, Middleware
from dramatiq.middleware import TimeLimitExceeded

from shared.broker.record import pack_id
from shared.broker.states import State, error_of
from shared.clock import Clock
from shared.errors import TaskIdTaken, TaskNotFound
from shared.exams.model import Ended, Exam, Status
from shared.redis_keys import RedisKeys
from shared.services import Services, for_worker
from shared.settings import Settings
from shared.tasks import catalog
from shared.tasks.sender import Sending
from shared.tasks.task import Task
from tests.support.clock import ManualClock
from tests.support.engines import dead_letters
from tests.support.exam_files import a_result, a_start, started
from tests.support.parts import settings_of
from tests.support.redis_server import PrivateRedis
from tests.support.smtp_server import SmtpServer
from tests.support.waiting import eventually
from worker.__main__ import start
from worker.bodies import Body, bodies_of_catalog
from worker.declaring import declare_actors
from worker.slots import Slots

WITHIN_S = 10
STOP_WITHIN_MS = 10_000
HOUR_MS = 3_600_000
EXAMS_TOGETHER = 250


class Run(NamedTuple):
    """What became of one delivery: done, skipped, or failed."""

    task: str
    message_id: str
    end: str


class RunLog(Middleware):
    """Remembers the end of each run, in order."""

    def __init__(self) -> None:
        self.runs: list[Run] = []

    def after_process_message(
        self, _broker: Broker, message: MessageProxy, *, result: object = None, exception: BaseException | None = None
    ) -> None:
        self._add(message, error_of(exception).type if exception else "done")

    def after_skip_message(self, _broker: Broker, message: MessageProxy) -> None:
        self._add(message, "skipped")

    def _add(self, message: MessageProxy, end: str) -> None:
        self.runs.append(Run(message.actor_name, message.message_id, end))

    def wait_for(self, number: int) -> list[Run]:
        eventually(lambda: len(self.runs) >= number, what=f"{number} runs, of which there are {self.runs}")
        return self.runs


def services_for(folder: Path, redis: PrivateRedis, clock: Clock | None = None, **settings: str) -> Services:
    return for_worker(Settings.from_environ(settings_of(folder, redis.url, **settings)), clock)


@contextmanager
def working(services: Services, threads: int = 4) -> Iterator[RunLog]:
    """A worker for what has been declared, as `python -m worker` starts it, until the end of the `with`."""
    log = RunLog()
    services.broker.add_middleware(log)
    queues = {actor.queue_name for actor in services.broker.actors.values()}
    worker = start(services.broker, queues, threads)
    try:
        yield log
    finally:
        worker.stop(STOP_WITHIN_MS)
        services.redis.close()


def body_of(services: Services, task: Task[..., Any]) -> Callable[..., Any]:
    return bodies_of_catalog()[task.name].make(services)


def declare(services: Services, task: Task[..., Any], function: Callable[..., Any], slots: Slots | None = None) -> None:
    """One task with this body, which a child process finds by itself."""
    declare_actors(services, {task.name: Body(task, lambda _services: function, False)}, [task.queue], slots)


def stored_end(services: Services, exam: Exam) -> Ended | None:
    """How it ended, without settling it as every reader does."""
    (history,) = services.exams.read([exam.pk])
    event = history.events[-1]
    return event if isinstance(event, Ended) else None


def test_an_exam_becomes_absent_by_its_delayed_task(tmp_path: Path, redis_server: PrivateRedis) -> None:
    """Nobody reads it, no sweep runs: the message that its start has sent ends it, soon after the deadline."""
    services = services_for(tmp_path, redis_server)
    declare_actors(services, bodies_of_catalog(), ["exams"])
    (exam,) = started(services.register, a_start(seconds=1))
    with working(services) as log:
        assert log.wait_for(1) == [Run("mark_absent", exam.task_id, "done")]
    end = stored_end(services, exam)
    assert end is not None
    assert (end.status, end.ended_at) == (Status.ABSENT, exam.deadline_at)
    assert timedelta() <= end.recorded_at - exam.deadline_at < timedelta(seconds=3)


def test_the_task_of_a_decided_exam_never_runs(tmp_path: Path, redis_server: PrivateRedis) -> None:
    """Its tombstone keeps the id from being used again, and outlives the deadline by an hour."""
    services = services_for(tmp_path, redis_server)
    declare_actors(services, bodies_of_catalog(), ["exams"])
    passed, running = started(services.register, a_start(seconds=60), a_start(seconds=0.5))
    services.register.record_results([a_result(passed.pk, services.clock.now())])
    with working(services) as log:
        for _ in range(2):
            with pytest.raises(TaskIdTaken, match="REVOKED"):
                services.sender.send(catalog.mark_absent, passed.pk, task_id=passed.task_id)
        assert log.wait_for(1) == [Run("mark_absent", running.task_id, "done")]
    left_ms = redis_server.client().pttl(RedisKeys("invigil").key("ended", pack_id(passed.task_id)))
    assert HOUR_MS + 50_000 < left_ms <= HOUR_MS + 60_000


def test_exams_due_together_become_absent_in_batches(tmp_path: Path, redis_server: PrivateRedis) -> None:
    """One run of the body settles many; each of their tasks has its own state, and each exam its own outcome."""
    services = services_for(tmp_path, redis_server)
    batches: list[int] = []
    body = body_of(services, catalog.mark_absent)

    def counted(pks: Sequence[str]) -> None:
        batches.append(len(pks))
        body(pks)

    declare(services, catalog.mark_absent, counted)
    exams = started(services.register, *[a_start(seconds=3)] * EXAMS_TOGETHER)
    decided = exams[::10]
    services.register.record_results([a_result(exam.pk, services.clock.now()) for exam in decided])
    silent = [exam for exam in exams if exam not in decided]
    with working(services):
        eventually(lambda: sum(batches) == len(silent), what=f"the end of {len(silent)} exams")
        services.broker.join(catalog.mark_absent.queue, timeout=STOP_WITHIN_MS)
    assert max(batches) <= catalog.mark_absent.together
    assert len(batches) <= len(silent) / 10
    states = [services.broker.engine.look_up(exam.task_id) for exam in silent]
    assert [(state.state, state.deliveries, state.retries) for state in states] == [(State.SUCCESS, 1, 0)] * len(silent)
    ends = [stored_end(services, exam) for exam in exams]
    assert [end and end.status for end in ends] == [Status.PASS if exam in decided else Status.ABSENT for exam in exams]


def test_no_overdue_exam_waits_for_an_early_one_of_its_batch(tmp_path: Path, redis_server: PrivateRedis) -> None:
    """At the moment of the wait the overdue ones have ended in the store; the early one ends after it."""
    at_the_wait: list[list[bool]] = []

    class WatchedClock(ManualClock):
        def wait(self, duration: timedelta) -> None:
            at_the_wait.append([stored_end(services, exam) is not None for exam in exams])
            super().wait(duration)

    clock = WatchedClock()
    services = services_for(tmp_path, redis_server, clock)
    exams = started(services.register, a_start(seconds=60), a_start(seconds=62), a_start(seconds=61))
    clock.move(seconds=61)
    settled = services.register.settle([exam.pk for exam in exams])
    services.redis.close()
    assert at_the_wait == [[True, False, True]]
    assert len(clock.waits) == 1
    assert {exam.status for exam in settled if isinstance(exam, Exam)} == {Status.ABSENT}
    assert all(stored_end(services, exam) for exam in exams)


def test_one_damaged_exam_of_a_batch_fails_alone(tmp_path: Path, redis_server: PrivateRedis) -> None:
    """The others are absent at once; after it they are tried once more, each by itself, and have nothing left to do."""
    services = services_for(tmp_path, redis_server)
    quick = replace(catalog.mark_absent, max_retries=2, min_backoff=timedelta(milliseconds=20))
    declare(services, quick, body_of(services, catalog.mark_absent))
    exams = started(services.register, *[a_start(seconds=0.5)] * 20)
    damaged = exams[7]
    next(tmp_path.rglob(f"{damaged.pk}.1")).write_text("{")
    with working(services):
        services.broker.join(catalog.mark_absent.queue, timeout=STOP_WITHIN_MS)
    states = {exam.pk: services.broker.engine.look_up(exam.task_id) for exam in exams}
    failed = states.pop(damaged.pk)
    assert (failed.state, failed.retries, failed.error and failed.error.type) == (
        State.FAILURE,
        2,
        "StoreDamaged",
    )
    assert {state.state for state in states.values()} == {State.SUCCESS}
    assert {end and end.status for exam in exams if exam != damaged for end in [stored_end(services, exam)]} == {
        Status.ABSENT
    }
    assert [state.id for state in dead_letters(services.broker.engine, "exams")] == [damaged.task_id]


def test_how_a_task_ended_is_known_for_as_long_as_is_set(tmp_path: Path, redis_server: PrivateRedis) -> None:
    """INVIGIL_RESULT_SECONDS, but for tasks that the catalog gives a time of their own."""
    services = services_for(tmp_path, redis_server, RESULT_SECONDS="90", MESSAGE_SECONDS="0.5")
    declare_actors(services, bodies_of_catalog(), ["default", "exams"])
    with working(services) as log:
        ids = [services.sender.send(catalog.print_message, "hello"), services.sender.send(catalog.sweep)]
        log.wait_for(2)
        services.broker.join(catalog.print_message.queue, timeout=STOP_WITHIN_MS)
    assert [services.broker.engine.look_up(task_id).state for task_id in ids] == [State.SUCCESS] * 2
    message_ms, sweep_ms = (
        redis_server.client().pttl(RedisKeys("invigil").key("ended", pack_id(task_id))) for task_id in ids
    )
    assert 60_000 < message_ms <= 90_000
    assert HOUR_MS - 30_000 < sweep_ms <= HOUR_MS


def test_how_a_task_ended_is_forgotten_after_that(tmp_path: Path, redis_server: PrivateRedis) -> None:
    """Of a task that has ended only its id is left in Redis then, among those of its queue that ended last."""
    services = services_for(tmp_path, redis_server, RESULT_SECONDS="0.5", MESSAGE_SECONDS="0.5")
    declare_actors(services, bodies_of_catalog(), ["default"])
    with working(services) as log:
        task_id = services.sender.send(catalog.print_message, "hello")
        log.wait_for(1)
    eventually(lambda: not _is_known(services, task_id), what="its end is forgotten")
    keys = RedisKeys("invigil")
    assert set(redis_server.client().keys()) == {keys.key("turns", "default"), keys.key("recent", "default")}


class Mailing(NamedTuple):
    """A mail server, and a worker's parts with child processes that send to it."""

    smtp: SmtpServer
    services: Services
    slots: Slots


@pytest.fixture
def mailing(tmp_path: Path, redis_server: PrivateRedis, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailing]:
    smtp, slots = SmtpServer(), Slots("worker.child:runner", ["worker.child"])
    environ = settings_of(tmp_path, redis_server.url, MAIL_URL=smtp.url.geturl())
    for name, value in environ.items():  # from where a child process reads them
        monkeypatch.setenv(name, value)
    yield Mailing(smtp, for_worker(Settings.from_environ(environ)), slots)
    slots.close()
    smtp.close()


def test_a_digest_that_fails_is_retried_with_backoff_until_it_is_sent(mailing: Mailing) -> None:
    """Twice no, then yes: the same message comes back, each time later, and the mail arrives once."""
    smtp, services, slots = mailing
    smtp.fail("MAIL", "421 closing", "421 closing")
    quick = replace(
        catalog.send_digest, min_backoff=timedelta(milliseconds=20), max_backoff=timedelta(milliseconds=100)
    )
    declare(services, quick, body_of(services, catalog.send_digest), slots)
    with working(services) as log:
        task_id = services.sender.send(catalog.send_digest, "20261120T120500.000Z")
        ends = [run.end for run in log.wait_for(3) if run.message_id == task_id]
    assert ends == ["MailError", "MailError", "done"]
    assert (smtp.commands.count("MAIL"), len(smtp.deliveries)) == (3, 1)


def test_a_digest_is_given_up_after_its_retries_and_sent_by_the_next(mailing: Mailing) -> None:
    """Its message is dead; what it should have told of is not lost."""
    smtp, services, slots = mailing
    smtp.fail("MAIL", *["421 closing"] * 2)
    hasty = replace(catalog.send_digest, max_retries=1, min_backoff=timedelta(milliseconds=20))
    declare(services, hasty, body_of(services, catalog.send_digest), slots)
    with working(services) as log:
        services.sender.send(catalog.send_digest, "20261120T120500.000Z")
        log.wait_for(2)
        services.sender.send(catalog.send_digest, "20261120T121000.000Z")
        assert [run.end for run in log.wait_for(3)] == ["MailError", "MailError", "done"]
    assert [delivery.message["Message-ID"].partition(".invigil")[0] for delivery in smtp.deliveries] == [
        "<digest.20261120T120500.000Z",
        "<digest.20261120T121000.000Z",
    ]


def test_a_task_over_its_time_limit_is_ended_and_its_thread_goes_on(tmp_path: Path, redis_server: PrivateRedis) -> None:
    """Of a task that is declared to run in a thread all the same: there the limit reaches the body as an exception."""
    services = services_for(tmp_path, redis_server)
    stuck = Event()

    def body(message: str) -> None:
        if message == "slow":
            while not stuck.wait(0.01):
                pass

    limited = replace(catalog.print_message, time_limit=timedelta(milliseconds=100), in_thread=True)
    declare(services, limited, body)
    with working(services, threads=1) as log:
        for message in ("slow", "quick"):
            services.sender.send(catalog.print_message, message, task_id=message)
        try:
            runs = log.wait_for(2)
        finally:
            stuck.set()
    assert sorted((run.message_id, run.end) for run in runs) == [
        ("quick", "done"),
        ("slow", TimeLimitExceeded.__name__),
    ]


def test_the_sweep_settles_what_an_emptied_redis_has_forgotten(
    tmp_path: Path, redis_server: PrivateRedis, clock: ManualClock
) -> None:
    """No message is left of three exams; one sweep ends those that are overdue and leaves the one that is not."""
    services = services_for(tmp_path, redis_server, clock)
    declare_actors(services, bodies_of_catalog(), ["exams"])
    *overdue, running = started(services.register, *[a_start(seconds=120)] * 3, a_start(seconds=600))
    redis_server.client().flushall()
    clock.move(seconds=121)
    with working(services) as log:
        task_id = services.sender.send(catalog.sweep)
        assert log.wait_for(1) == [Run("sweep", task_id, "done")]
    ends = [stored_end(services, exam) for exam in overdue]
    assert [end and (end.status, end.ended_at) for end in ends] == [
        (Status.ABSENT, exam.deadline_at) for exam in overdue
    ]
    assert stored_end(services, running) is None


def test_a_sweep_goes_ahead_of_the_deadlines_that_wait(tmp_path: Path, redis_server: PrivateRedis) -> None:
    """All threads are busy: the sweep, sent last, is run before the deadlines that were sent before it."""
    services = services_for(tmp_path, redis_server)
    has_begun, may_end = Event(), Event()
    order: list[str] = []

    def deadlines(pks: Sequence[str]) -> None:
        has_begun.set()
        assert may_end.wait(WITHIN_S)
        order.extend(pks)

    declare(services, catalog.mark_absent, deadlines)
    declare(services, catalog.sweep, lambda: order.append("sweep"))
    with working(services, threads=1) as log:
        services.sender.send(catalog.mark_absent, "first")
        assert has_begun.wait(WITHIN_S)
        services.sender.send_many([Sending(catalog.mark_absent, (f"waiting {number}",)) for number in range(3)])
        services.sender.send(catalog.sweep)
        may_end.set()
        log.wait_for(3)
    assert order == ["first", "sweep", "waiting 0", "waiting 1", "waiting 2"]


def _is_known(services: Services, task_id: str) -> bool:
    try:
        return services.broker.engine.look_up(task_id).is_over
    except TaskNotFound:
        return False
