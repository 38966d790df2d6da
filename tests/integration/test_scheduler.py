"""The scheduler: APScheduler, our table and a real Redis."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dramatiq import Message

from scheduler.__main__ import build, send, watch
from scheduler.schedules import schedules
from shared.redis_keys import RedisKeys
from shared.services import Services, for_callers
from shared.settings import Settings
from shared.tasks.catalog import SEND_DIGEST, SWEEP, Task
from tests.support.clock import NOON, ManualClock
from tests.support.parts import Part, run, settings_of
from tests.support.redis_server import PrivateRedis
from tests.support.waiting import eventually

HALF_A_SECOND = {"DIGEST_SECONDS": "0.5", "SWEEP_SECONDS": "0.5"}


def services_for(folder: Path, redis: PrivateRedis, clock: ManualClock | None = None, **more: str) -> Services:
    return for_callers(Settings.from_environ(settings_of(folder, redis.url, **more)), clock)


def waiting(redis: PrivateRedis, task: Task) -> list[tuple[str, ...]]:
    """The arguments of each message of this task that waits in Redis, in order."""
    queue = f"{RedisKeys('invigil').dramatiq}:{task.queue}"
    client = redis.client()
    raw = [client.hget(f"{queue}.msgs", name) for name in client.lrange(queue, 0, -1)]
    messages = [Message.decode(each) for each in raw if isinstance(each, bytes)]
    return [tuple(message.args) for message in messages if message.actor_name == task.name]


@contextmanager
def scheduling(services: Services) -> Iterator[None]:
    scheduler = build(schedules(services.settings), services.sender, services.clock)
    scheduler.start()
    try:
        yield
    finally:
        scheduler.shutdown()


def test_every_tick_sends_each_task(tmp_path: Path, redis_server: PrivateRedis) -> None:
    """Digest windows follow the clock, each once; sweeps come beside them."""
    with scheduling(services_for(tmp_path, redis_server, None, **HALF_A_SECOND)):
        eventually(lambda: len(waiting(redis_server, SEND_DIGEST)) >= 4, what="four digests")
        eventually(lambda: len(waiting(redis_server, SWEEP)) >= 4, what="four sweeps")
    windows = [datetime.strptime(name, "%Y%m%dT%H%M%S.%f%z") for (name,) in waiting(redis_server, SEND_DIGEST)]
    assert windows == sorted(set(windows))
    assert {window.microsecond for window in windows} <= {0, 500_000}
    assert timedelta() <= datetime.now(UTC) - windows[-1] < timedelta(seconds=5)
    assert set(waiting(redis_server, SWEEP)) == {()}


def test_the_first_tick_is_the_next_whole_period(tmp_path: Path, redis_server: PrivateRedis) -> None:
    """A scheduler that starts between two ticks does not send the one before again."""
    services = services_for(tmp_path, redis_server, ManualClock(NOON + timedelta(seconds=1)))
    scheduler = build(schedules(services.settings), services.sender, services.clock)
    first = {job.id: job.trigger.start_date for job in scheduler.get_jobs()}
    assert first == {"send_digest": NOON + timedelta(minutes=5), "sweep": NOON + timedelta(seconds=10)}


@pytest.mark.parametrize("late_s", [0, 0.001, 60, 299.999])
def test_a_tick_that_comes_late_sends_the_window_that_was_due(
    tmp_path: Path, redis_server: PrivateRedis, late_s: float
) -> None:
    """A busy machine moves no window."""
    services = services_for(tmp_path, redis_server, ManualClock(NOON + timedelta(seconds=late_s)))
    digest, _ = schedules(services.settings)
    send(digest, services.sender, services.clock)
    assert waiting(redis_server, SEND_DIGEST) == [("20261120T120000.000Z",)]


def test_a_tick_without_redis_is_logged_and_the_next_one_works(tmp_path: Path, own_redis: PrivateRedis) -> None:
    """The scheduler stays up and needs no restart; what was missed is in the next digest and sweep."""
    environ = settings_of(tmp_path, own_redis.url, **HALF_A_SECOND)
    with Part(tmp_path / "scheduler", "scheduler", environ=environ) as part:
        eventually(lambda: waiting(own_redis, SWEEP), 20, "the first sweep")
        own_redis.kill()
        part.wait_for_log("not_sent")
        own_redis.start()
        own_redis.client().flushall()
        eventually(lambda: waiting(own_redis, SWEEP) and waiting(own_redis, SEND_DIGEST), 10, "the next tick")
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
