"""Clearing away what nobody needs any more: on a real file system and a real Redis, by a clock turned by hand."""

import os
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from shared.broker.states import Outcome, State, TaskError
from shared.clock import MILLISECOND
from shared.errors import BrokerUnavailable
from shared.exams.pk import new_pk
from shared.idempotency import Attempt
from shared.services import Services, for_worker
from shared.settings import Settings
from shared.tasks import catalog
from shared.tasks.payloads import CLEARED_TOGETHER, ORPHANED_AFTER
from tests.support.clock import ManualClock
from tests.support.engines import FAR, EngineOnRedis
from tests.support.exam_files import files_below, present
from tests.support.parts import settings_of
from tests.support.redis_server import PrivateRedis
from worker.bodies import bodies_of_catalog

PACKED = b"[[],{}]"
WITHIN_S = 30


@pytest.fixture
def clock() -> ManualClock:
    """Of the true time at first, as files have their stamps by that."""
    return present()


@pytest.fixture
def services(tmp_path: Path, clock: ManualClock, redis_server: PrivateRedis) -> Iterator[Services]:
    """A worker's."""
    made = for_worker(Settings.from_environ(settings_of(tmp_path, redis_server.url)), clock)
    yield made
    made.redis.close()


@pytest.fixture
def bench(services: Services, redis_server: PrivateRedis) -> EngineOnRedis:
    return EngineOnRedis(redis_server, services.settings.namespace)


def clear_away(services: Services) -> None:
    bodies_of_catalog()[catalog.clear_away.name].make(services)()


def kept(services: Services) -> list[str]:
    """The references of all payloads there are."""
    root = Path(str(services.settings.store))
    return sorted(Path(name).name for name in files_below(root, "payloads"))


def test_what_belongs_to_a_task_that_is_known_stays(
    services: Services, bench: EngineOnRedis, clock: ManualClock
) -> None:
    """One that waits for its time, is ready, runs, has a result, or is a dead letter; all others' are removed."""
    bench.send(task_id="due", due=FAR)
    bench.worker.finish([bench.run(task_id="ended")], Outcome(State.SUCCESS, result=1))
    failure = Outcome(State.FAILURE, error=TaskError("ValueError", "no", ""))
    bench.worker.finish([bench.run(task_id="dead")], failure, is_dead=True)
    bench.run(task_id="running")
    bench.send(task_id="ready")
    known = [
        services.payloads.keep(task_id, "args", PACKED) for task_id in ("due", "ended", "dead", "running", "ready")
    ]
    services.payloads.keep("gone", "args", PACKED)
    services.payloads.keep("gone", "result", PACKED)
    clock.move(seconds=(ORPHANED_AFTER + timedelta(seconds=1)).total_seconds())
    clear_away(services)
    assert kept(services) == sorted(known)


def test_a_payload_whose_task_is_still_being_sent_stays_for_an_hour(services: Services, clock: ManualClock) -> None:
    """It is written before its task is known."""
    reference = services.payloads.keep("soon", "args", PACKED)
    clock.move(seconds=ORPHANED_AFTER.total_seconds() - 1)
    clear_away(services)
    assert kept(services) == [reference]
    clock.move(seconds=2)
    clear_away(services)
    assert kept(services) == []


def test_idempotency_keys_go_when_they_are_no_longer_valid(
    services: Services, clock: ManualClock, tmp_path: Path
) -> None:
    """Their days as a whole; those that still hold stay."""
    root = Path(str(services.settings.store))
    claim(services, "first")
    clock.move(days=3)
    claim(services, "second")
    assert len(files_below(root, "idempotency")) == 4
    clear_away(services)
    assert len(files_below(root, "idempotency")) == 2
    assert not claim(services, "second")


def claim(services: Services, key: str) -> bool:
    """Whether it was the first under this key."""
    attempt = Attempt("a-caller", "POST /v1/exams", key, b"{}")
    (made,) = services.idempotency.claim([attempt], lambda: new_pk(services.clock.now()))
    assert isinstance(made, tuple)
    return made.is_new


def test_a_run_goes_on_until_nothing_is_left(services: Services, clock: ManualClock) -> None:
    """More than one batch of it."""
    folder = Path(str(services.settings.store)) / "payloads"
    reference = services.payloads.keep("gone", "args", PACKED)
    (path,) = folder.rglob(reference)
    for number in range(CLEARED_TOGETHER + 1):
        os.link(path, path.with_name(f"gone.args.{number:016x}"))
    clock.move(hours=2)
    clear_away(services)
    assert kept(services) == []


def test_two_runs_at_once_remove_what_one_would(services: Services, bench: EngineOnRedis, clock: ManualClock) -> None:
    """The task may be delivered twice, or sent again while one is slow."""
    bench.send(task_id="ready")
    reference = services.payloads.keep("ready", "args", PACKED)
    for number in range(200):
        services.payloads.keep(f"gone-{number}", "args", PACKED)
        claim(services, f"key {number}")
    clock.move(days=3)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            clear_away(services)
        except BaseException as error:  # noqa: BLE001 - shown below
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WITHIN_S)
    assert failed == []
    assert kept(services) == [reference]
    assert files_below(Path(str(services.settings.store)), "idempotency") == []


def test_nothing_is_removed_where_redis_does_not_say_whose_it_is(
    tmp_path: Path, clock: ManualClock, own_redis: PrivateRedis
) -> None:
    """No answer is not the answer that nobody knows it."""
    services = for_worker(Settings.from_environ(settings_of(tmp_path, own_redis.url)), clock)
    reference = services.payloads.keep("task", "args", PACKED)
    clock.move(hours=2)
    own_redis.kill()
    with pytest.raises(BrokerUnavailable):
        clear_away(services)
    assert kept(services) == [reference]
    services.redis.close()


def test_a_run_ends_before_the_next_one_is_due() -> None:
    """As the scheduler sends one an hour."""
    limit = catalog.clear_away.time_limit
    assert limit is not None
    assert MILLISECOND < limit < timedelta(hours=1)
    assert not catalog.clear_away.needs_child
