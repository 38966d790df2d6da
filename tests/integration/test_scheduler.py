"""The scheduler: APScheduler, our table and a real Redis."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from scheduler.__main__ import build, send, watch
from scheduler.schedules import schedules, window
from shared.services import Services, for_callers
from shared.settings import Settings
from shared.tasks import catalog
from shared.tasks.task import Task
from tests.support.clock import NOON, ManualClock
from tests.support.exam_files import present
from tests.support.parts import Part, run, settings_of
from tests.support.redis_server import PrivateRedis
from tests.support.tasks import TasksInRedis
from tests.support.waiting import eventually

HALF_A_SECOND = {"DIGEST_SECONDS": "0.5", "SWEEP_SECONDS": "0.5"}


@pytest.fixture
def services_for(tmp_path: Path, redis_server: PrivateRedis) -> Iterator[Callable[..., Services]]:
    """Makes a scheduler's services, of a clock or None for the machine's, and of settings."""
    with ExitStack() as stack:

        def make(clock: ManualClock | None, **more: str) -> Services:
            services = for_callers(Settings.from_environ(settings_of(tmp_path, redis_server.url, **more)), clock)
            stack.callback(services.redis.close)
            return services

        yield make


def waiting(redis: PrivateRedis, task: Task[..., Any]) -> list[tuple[str, ...]]:
    """The arguments of each message of this task that waits in Redis, in order."""
    messages = TasksInRedis(redis.client()).ready(task.queue)
    return [tuple(message.args) for message in messages if message.actor_name == task.name]


@contextmanager
def scheduling(services: Services) -> Iterator[None]:
    scheduler = build(schedules(services.settings), services.sender, services.clock)
    scheduler.start()
    try:
        yield
    finally:
        scheduler.shutdown()


def test_every_tick_sends_each_task(services_for: Callable[..., Services], redis_server: PrivateRedis) -> None:
    """Digest windows follow the clock, each once; sweeps come beside them."""
    with scheduling(services_for(None, **HALF_A_SECOND)):
        eventually(lambda: len(waiting(redis_server, catalog.send_digest)) >= 4, what="four digests")
        eventually(lambda: len(waiting(redis_server, catalog.sweep)) >= 4, what="four sweeps")
    windows = [datetime.strptime(name, "%Y%m%dT%H%M%S.%f%z") for (name,) in waiting(redis_server, catalog.send_digest)]
    assert windows == sorted(set(windows))
    assert {window.microsecond for window in windows} <= {0, 500_000}
    assert timedelta() <= datetime.now(UTC) - windows[-1] < timedelta(seconds=5)
    assert set(waiting(redis_server, catalog.sweep)) == {()}


def test_the_first_tick_is_the_next_whole_period(
    services_for: Callable[..., Services], redis_server: PrivateRedis
) -> None:
    """A scheduler that starts between two ticks does not send the one before again."""
    services = services_for(ManualClock(NOON + timedelta(seconds=1)))
    scheduler = build(schedules(services.settings), services.sender, services.clock)
    first = {job.id: job.trigger.start_date for job in scheduler.get_jobs()}
    assert first == {
        "send_digest": NOON + timedelta(minutes=5),
        "sweep": NOON + timedelta(seconds=10),
        "clear_away": NOON + timedelta(hours=1),
    }


@pytest.mark.parametrize("late_s", [0, 0.001, 60, 299.999])
def test_a_tick_that_comes_late_sends_the_window_that_was_due(
    services_for: Callable[..., Services], redis_server: PrivateRedis, late_s: float
) -> None:
    """A busy machine moves no window."""
    clock = present()
    services = services_for(clock)
    digest, *_ = schedules(services.settings)
    due_at = digest.due_at(clock.now())
    clock.set(due_at + timedelta(seconds=late_s))
    send(digest, services.sender, clock)
    assert waiting(redis_server, catalog.send_digest) == [(window(due_at),)]


def test_two_schedulers_send_one_message_a_tick(
    services_for: Callable[..., Services], redis_server: PrivateRedis
) -> None:
    """Beside each other, whatever the one is late behind the other, and again at the next tick."""
    clocks = [present(), present()]
    both = [services_for(clock) for clock in clocks]
    rows = schedules(both[0].settings)
    first = rows[0].due_at(clocks[0].now())
    for tick in range(3):
        due_at = first + tick * both[0].settings.digest_period
        for late_s, clock, services in zip((0, 4), clocks, both, strict=True):
            clock.set(due_at + timedelta(seconds=late_s))
            for row in rows:
                send(row, services.sender, clock)
    windows = [(window(first + tick * both[0].settings.digest_period),) for tick in range(3)]
    assert waiting(redis_server, catalog.send_digest) == windows
    assert waiting(redis_server, catalog.sweep) == [()] * 3
    hours = {rows[2].due_at(first + tick * both[0].settings.digest_period) for tick in range(3)}
    assert waiting(redis_server, catalog.clear_away) == [()] * len(hours)


def test_two_running_schedulers_send_one_message_a_tick(
    services_for: Callable[..., Services], redis_server: PrivateRedis
) -> None:
    """As a rolling restart has them for a moment, or an operator for good."""
    first, second = (services_for(None, **HALF_A_SECOND) for _ in range(2))
    with scheduling(first), scheduling(second):
        eventually(lambda: len(waiting(redis_server, catalog.send_digest)) >= 5, what="five digests")
    windows = [name for (name,) in waiting(redis_server, catalog.send_digest)]
    assert windows == sorted(set(windows))
    assert abs(len(waiting(redis_server, catalog.sweep)) - len(windows)) <= 1


def test_a_scheduler_started_again_does_not_send_a_tick_twice(
    services_for: Callable[..., Services], redis_server: PrivateRedis
) -> None:
    """The worker may even have run it by then."""
    clock = present()
    for _ in range(2):
        services = services_for(clock)
        for row in schedules(services.settings):
            send(row, services.sender, clock)
        services.broker.flush("exams")
    assert (len(waiting(redis_server, catalog.send_digest)), waiting(redis_server, catalog.sweep)) == (1, [])


def test_a_tick_of_days_ago_is_not_sent_and_that_is_logged(
    services_for: Callable[..., Services], redis_server: PrivateRedis
) -> None:
    """It may have been sent then, which is forgotten by now. It takes a clock that is far behind to come to this."""
    clock = present()
    clock.move(days=-2, seconds=-1)
    services = services_for(clock)
    with capture_logs() as logged:
        for row in schedules(services.settings):
            send(row, services.sender, clock)
    assert waiting(redis_server, catalog.send_digest) == waiting(redis_server, catalog.sweep) == []
    assert [(line["event"], line["task"]) for line in logged] == [
        ("tick_too_old", "send_digest"),
        ("tick_too_old", "sweep"),
        ("tick_too_old", "clear_away"),
    ]


def test_a_tick_without_redis_is_logged_and_the_next_one_works(tmp_path: Path, own_redis: PrivateRedis) -> None:
    """The scheduler stays up and needs no restart; what was missed is in the next digest and sweep."""
    environ = settings_of(tmp_path, own_redis.url, **HALF_A_SECOND)
    with Part(tmp_path / "scheduler", "scheduler", environ=environ) as part:
        eventually(lambda: waiting(own_redis, catalog.sweep), 20, "the first sweep")
        own_redis.kill()
        part.wait_for_log("not_sent")
        own_redis.start()
        own_redis.client().flushall()
        eventually(
            lambda: waiting(own_redis, catalog.sweep) and waiting(own_redis, catalog.send_digest), 10, "the next tick"
        )
        assert part.end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_scheduler_beats_at_once_and_ends_cleanly(
    tmp_path: Path, own_redis: PrivateRedis, number: signal.Signals
) -> None:
    """Its pulse shows from the start; after either signal it says nothing more and ends with status 0."""
    environ = settings_of(tmp_path, own_redis.url)
    with Part(tmp_path / "scheduler", "scheduler", environ=environ) as part:
        eventually((tmp_path / "pulse").exists, 20, "the first pulse")
        assert run("shared.pulse", "10", environ=environ).returncode == 0
        assert part.end(number) == 0
        assert (part.output(), "Traceback" in part.errors()) == ("", False)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"INVIGIL_DIGEST_SECONDS": "0"}, "INVIGIL_DIGEST_SECONDS"),
        ({"INVIGIL_STORE": "postgres://secret@host"}, "INVIGIL_STORE"),
    ],
)
def test_a_scheduler_names_the_setting_that_stops_it(tmp_path: Path, change: dict[str, str], named: str) -> None:
    """One sentence on standard error without the value, and status 1."""
    ended = run("scheduler", environ=settings_of(tmp_path, "redis://127.0.0.1:1") | change)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"scheduler: {named}")
    assert "secret" not in ended.stderr


def test_a_scheduler_that_stands_still_ends() -> None:
    """Nothing has run for as long as is allowed: whatever started it starts it again."""
    stopping, beaten = threading.Event(), threading.Event()
    beaten.set()
    assert not watch(stopping, beaten, 0.001)


def test_a_scheduler_that_runs_ends_when_told() -> None:
    """Its beats keep it going."""
    stopping, beaten = threading.Event(), threading.Event()
    beaten.set()
    stopping.set()
    assert watch(stopping, beaten, 0.001)
