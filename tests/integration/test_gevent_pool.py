"""A worker of greenlets: how many tasks wait in it at once; that they are begun, stopped and ended as in threads."""

import signal
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from dramatiq import Message

from shared.broker.broker import TaskBroker
from shared.broker.dispatch import LEASE
from shared.broker.states import Reason, State, TaskState
from shared.errors import SettingsError, TaskFailed
from shared.services import Services, for_callers
from shared.settings import Settings
from shared.tasks.call import CallOptions
from shared.tasks.catalog import print_message
from shared.tasks.sender import Sending
from shared.tasks.task import Task, task
from tests.support.broker_worker import WITHIN_MS, WITHIN_S, once_over, task_broker
from tests.support.parts import Part, run, settings_of
from tests.support.redis_server import PrivateRedis
from tests.support.waiting import eventually
from worker.__main__ import main
from worker.gevent_pool import check

MANY = 1_000
LEASE_S = LEASE.total_seconds()


@pytest.fixture
def broker(own_redis: PrivateRedis) -> Iterator[TaskBroker]:
    """For sending."""
    broker = task_broker(own_redis)
    broker.declare_queue("default")
    yield broker
    broker.client.close()


def worker(folder: Path, server: PrivateRedis, threads: int, stop_within_ms: int = WITHIN_MS) -> Part:
    command = ("gevent.monkey", "--module", "tests.support.gevent_worker", str(threads), str(stop_within_ms))
    part = Part(folder, *command, environ={"REDIS_URL": server.url, "PULSE": str(folder / "pulse")})
    try:
        part.wait_for_log("worker_started")
    except BaseException:
        part.kill()
        raise
    return part


def send(broker: TaskBroker, actor: str, arguments: Sequence[Sequence[Any]]) -> list[Message[Any]]:
    """One task for each."""
    messages = [
        Message[Any](queue_name="default", actor_name=actor, args=tuple(each), kwargs={}, options={})
        for each in arguments
    ]
    broker.enqueue_many([(message, None) for message in messages])
    return messages


def ends_of(broker: TaskBroker, messages: Sequence[Message[Any]]) -> list[TaskState]:
    return [once_over(broker, message, 3 * WITHIN_S) for message in messages]


def wait_until_all_run(broker: TaskBroker, messages: Sequence[Message[Any]]) -> None:
    def look() -> bool:
        return {broker.engine.look_up(message.message_id).state for message in messages} == {State.STARTED}

    eventually(look, 2 * WITHIN_S, "the start of all")


def test_a_thousand_tasks_sleep_at_once(tmp_path: Path, own_redis: PrivateRedis, broker: TaskBroker) -> None:
    """Each waits for all others in its body, so they are there together; none is run twice for it."""
    messages = send(broker, "meet", [[number] for number in range(MANY)])
    with worker(tmp_path, own_redis, MANY) as part:
        ends = ends_of(broker, messages)
        assert part.end() == 0
    assert [(end.state, end.result, end.deliveries) for end in ends] == [
        (State.SUCCESS, number, 1) for number in range(MANY)
    ]
    assert "Traceback" not in part.errors()


def test_leases_are_kept_and_redis_may_restart_while_a_thousand_run(
    tmp_path: Path, own_redis: PrivateRedis, broker: TaskBroker
) -> None:
    """They sleep longer than a lease lasts, Redis is killed and started meanwhile: each runs once, to its end."""
    with worker(tmp_path, own_redis, MANY) as part:
        messages = send(broker, "sleep", [[LEASE_S + 2]] * MANY)
        wait_until_all_run(broker, messages)
        own_redis.kill()
        own_redis.start()
        ends = ends_of(broker, messages)
        assert part.end() == 0
    assert {(end.state, end.deliveries) for end in ends} == {(State.SUCCESS, 1)}
    assert '"lease_lost"' not in part.errors()


@pytest.mark.parametrize(("number", "stop_within_ms"), [(signal.SIGTERM, WITHIN_MS), (signal.SIGUSR1, 100)])
def test_what_runs_is_finished_when_the_worker_is_told_to_end(
    tmp_path: Path, own_redis: PrivateRedis, broker: TaskBroker, number: signal.Signals, stop_within_ms: int
) -> None:
    """SIGTERM while a thousand sleep, and two thousand wait: those that run end, the others stay as they were. So with
    SIGUSR1, where they take longer than they would be given to stop.
    """
    with worker(tmp_path, own_redis, MANY, stop_within_ms) as part:
        running = send(broker, "sleep", [[3]] * MANY)
        wait_until_all_run(broker, running)
        waiting = send(broker, "sleep", [[0]] * 2 * MANY)
        assert part.end(number) == 0
    assert {(end.state, end.deliveries) for end in ends_of(broker, running)} == {(State.SUCCESS, 1)}
    assert {broker.engine.look_up(message.message_id).state for message in waiting} == {State.PENDING}
    stats = broker.engine.stats(["default"])["default"]
    assert (sum(stats.ready), stats.leased) == (2 * MANY, 0)


def test_all_may_send_at_once_from_their_bodies(tmp_path: Path, own_redis: PrivateRedis, broker: TaskBroker) -> None:
    """More than Redis gets connections: each waits for one that is free."""
    with worker(tmp_path, own_redis, MANY) as part:
        ends = ends_of(broker, send(broker, "send_another", [[]] * MANY))
        assert {(end.state, end.retries) for end in ends} == {(State.SUCCESS, 0)}
        sent = {end.result for end in ends}
        assert len(sent) == MANY
        eventually(lambda: broker.engine.stats(["default"])["default"].is_empty, what="the end of what they have sent")
        assert {broker.engine.look_up(str(task_id)).state for task_id in sent} == {State.SUCCESS}
        assert own_redis.client().info("clients")["connected_clients"] < 100
        assert part.end() == 0
    assert "Error" not in part.errors()


def test_retries_limits_and_cancels_are_as_in_threads(
    tmp_path: Path, own_redis: PrivateRedis, broker: TaskBroker
) -> None:
    """Sooner even: what a greenlet waits in is interrupted at once, and its neighbours do not notice."""
    with worker(tmp_path, own_redis, 20) as part:
        neighbours = send(broker, "sleep", [[4]] * 5)
        retried = send(broker, "fail_once", [[number] for number in range(5)])
        limited = send(broker, "sleep_too_long", [[]] * 3)
        swallowing = send(broker, "swallow_the_limit", [[]] * 2)
        cancelled = send(broker, "sleep", [[100 * WITHIN_S]] * 3)
        wait_until_all_run(broker, cancelled)
        ids = [message.message_id for message in cancelled]
        assert broker.engine.cancel(ids, interrupts=True) == ["running"] * 3
        assert {(end.state, end.reason) for end in ends_of(broker, cancelled)} == {(State.REVOKED, Reason.TERMINATED)}
        for end in ends_of(broker, limited):
            assert (end.state, end.deliveries) == (State.FAILURE, 1)
            assert end.error is not None
            assert end.error.type == "TimeLimitExceeded"
        assert [(end.result, end.retries) for end in ends_of(broker, retried)] == [(number, 1) for number in range(5)]
        assert {end.state for end in ends_of(broker, swallowing)} == {State.SUCCESS}
        assert {(end.state, end.deliveries) for end in ends_of(broker, neighbours)} == {(State.SUCCESS, 1)}
        assert part.end() == 0


def test_its_pulse_shows_and_the_death_of_a_greenlet_ends_it(
    tmp_path: Path, own_redis: PrivateRedis, broker: TaskBroker
) -> None:
    """With a status that has whoever watches it start it again."""
    with worker(tmp_path, own_redis, 20) as part:
        eventually((tmp_path / "pulse").exists, what="the first pulse")
        (end,) = ends_of(broker, send(broker, "end_the_greenlet", [[]]))
        assert end.state is State.SUCCESS
        assert part.wait() == 1
    assert '"thread_died"' in part.errors()


@pytest.fixture
def caller(tmp_path: Path, own_redis: PrivateRedis) -> Iterator[Services]:
    """What sends to `python -m worker`, as an API process would."""
    services = for_callers(Settings.from_environ(settings_of(tmp_path, own_redis.url)))
    yield services
    services.sender.endings.close()
    services.redis.close()


def states_of(services: Services, task_ids: Sequence[str]) -> set[State]:
    return {services.broker.engine.look_up(task_id).state for task_id in task_ids}


def test_the_command_line_runs_a_thousand_tasks_at_once(
    tmp_path: Path, own_redis: PrivateRedis, caller: Services
) -> None:
    """`python -m worker --pool gevent --threads 1000`: all run, each prints its message, and it ends as any worker."""
    environ = settings_of(tmp_path, own_redis.url, MESSAGE_SECONDS="3")
    options = ("--pool", "gevent", "--threads", str(MANY), "--queues", "default")
    with Part(tmp_path / "worker", "worker", *options, environ=environ) as part:
        part.wait_for_log("worker_started")
        ids = caller.sender.send_many([Sending(print_message, (f"message {number}",)) for number in range(MANY)])
        eventually(lambda: states_of(caller, ids) == {State.STARTED}, WITHIN_S, "the start")
        assert part.end() == 0
        assert sorted(part.output().splitlines()) == sorted(f"message {number}" for number in range(MANY))
    assert states_of(caller, ids) == {State.SUCCESS}


def test_a_supervisor_starts_it_like_any_other(tmp_path: Path, own_redis: PrivateRedis, caller: Services) -> None:
    """With `--autoscale`: its processes have the pool, and the number of threads that only this one allows."""
    environ = settings_of(tmp_path, own_redis.url, MESSAGE_SECONDS="0.5")
    options = ("--autoscale", "2,1", "--pool", "gevent", "--threads", "300", "--queues", "default")
    with Part(tmp_path / "supervisor", "worker", *options, environ=environ) as part:
        part.wait_for_log("worker_started")
        ids = [caller.sender.send(print_message, f"message {number}") for number in range(300)]
        eventually(lambda: states_of(caller, ids) == {State.SUCCESS}, WITHIN_S, "the end of all")
        assert part.end() == 0
    assert '"worker_died"' not in part.errors()


def test_a_limit_that_only_a_call_has_is_refused_when_it_runs(
    tmp_path: Path, own_redis: PrivateRedis, caller: Services
) -> None:
    """Its task fails, and says that there is no child process here; nothing runs without the limit it was given."""
    environ = settings_of(tmp_path, own_redis.url)
    with Part(tmp_path / "worker", "worker", "--pool", "gevent", "--queues", "default", environ=environ) as part:
        result = caller.sender.apply_async(print_message, ["never"], options=CallOptions(time_limit=1))
        with pytest.raises(TaskFailed, match="needs a child process"):
            result.get(timeout=2 * WITHIN_S)
        assert part.end() == 0
        assert part.output() == ""


@pytest.mark.parametrize("autoscale", [(), ("--autoscale", "2,1")])
def test_tasks_that_greenlets_cannot_run_are_refused_at_boot(tmp_path: Path, autoscale: Sequence[str]) -> None:
    """One sentence: which tasks, why, and what to do; also where it would start others."""
    environ = settings_of(tmp_path, "redis://127.0.0.1:1")
    ended = run("worker", "--pool", "gevent", "--queues", "exams,mail,default", *autoscale, environ=environ)
    (said,) = ended.stderr.splitlines()
    assert (ended.returncode, ended.stdout) == (1, "")
    assert said.startswith("worker: --pool gevent cannot run")
    assert "send_digest needs a process of its own" in said
    assert "mark_absent writes files" in said
    assert "print_message" not in said
    assert "--pool threads" in said


@task(queue="default")
def plain() -> None:
    """Waits for something."""


@task(queue="default", time_limit=timedelta(seconds=1))
def hard() -> None:
    """Is killed."""


@task(queue="default", soft_time_limit=timedelta(seconds=1))
def soft() -> None:
    """Is interrupted, wherever it is."""


@task(queue="default", isolated=True)
def isolated() -> None:
    """Computes for long."""


@task(queue="default", time_limit=timedelta(seconds=1), in_thread=True)
def limited_in_thread() -> None:
    """Is interrupted where it waits."""


@pytest.mark.parametrize("unfit", [hard, soft, isolated])
def test_a_task_that_needs_a_process_of_its_own_is_refused(unfit: Task[..., Any]) -> None:
    """It alone is named."""
    with pytest.raises(SettingsError, match=f": {unfit.name} needs a process of its own") as refused:
        check([plain, unfit, limited_in_thread])
    assert "plain" not in str(refused.value)


def test_tasks_that_run_in_threads_are_run_by_greenlets() -> None:
    check([plain, limited_in_thread])


def test_where_gevent_is_missing_it_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gevent", None)
    with pytest.raises(SystemExit) as ended:
        main(["--pool", "gevent", "--queues", "default"])
    assert ended.value.code == 2
    assert "pip install --require-hashes -r requirements/gevent.txt" in capsys.readouterr().err


def test_it_takes_more_greenlets_than_threads(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--threads", "257"], ["--pool", "gevent", "--threads", "10001"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        assert "from 1 to 256, or to 10000 with --pool gevent" in capsys.readouterr().err
