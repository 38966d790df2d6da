"""Dramatiq's own command line on our broker: `python -m dramatiq`, its master and its worker processes."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from dramatiq import Message

from shared.broker.broker import TaskBroker
from shared.broker.states import State
from tests.support.broker_worker import once_over, task_broker
from tests.support.parts import END_WITHIN_S, ROOT, START_WITHIN_S
from tests.support.redis_server import PrivateRedis
from tests.support.waiting import eventually

PROCESSES, THREADS = 2, 4


class CommandLine:
    """`python -m dramatiq tests.support.cli_tasks`, running, its workers ready."""

    def __init__(self, redis_url: str, log: Path) -> None:
        self._log = log
        command = ["dramatiq", "tests.support.cli_tasks", "-p", str(PROCESSES), "-t", str(THREADS)]
        programs = Path(sys.executable).parent  # when it reloads it looks for `python`
        with open(log, "wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=ROOT,
                env=os.environ | {"REDIS_URL": redis_url, "PATH": f"{programs}:{os.environ['PATH']}"},
                stdout=output,
                stderr=output,
                start_new_session=True,  # so that its workers can be ended with it
            )
        ready = "Worker process is ready for action."
        eventually(lambda: self.log().count(ready) == PROCESSES, START_WITHIN_S, f"the start: {self.log()}")

    def log(self) -> str:
        return self._log.read_text()

    def end(self, number: signal.Signals) -> int:
        """Its status after this signal."""
        self.process.send_signal(number)
        return self.process.wait(END_WITHIN_S)

    def kill(self) -> None:
        """All of its processes."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def command_line(server: PrivateRedis, folder: Path) -> Iterator[CommandLine]:
    started = CommandLine(server.url, folder / "log")
    try:
        yield started
    finally:
        started.kill()


@pytest.fixture
def broker(own_redis: PrivateRedis) -> TaskBroker:
    """For sending."""
    broker = task_broker(own_redis)
    broker.declare_queue("default")
    return broker


def send(broker: TaskBroker, actor: str, *args: Any, delay: int | None = None) -> Message[Any]:
    message: Message[Any] = Message(queue_name="default", actor_name=actor, args=args, kwargs={}, options={})
    broker.enqueue(message, delay=delay)
    return message


def runs(server: PrivateRedis) -> list[tuple[int, int]]:
    """Process and number of each run that has come to its end."""
    found = [bytes(entry).split() for entry in server.client().lrange("runs", 0, -1)]  # type: ignore[arg-type]
    return [(int(process), int(number)) for process, number in found]


def test_its_processes_share_the_work(tmp_path: Path, own_redis: PrivateRedis, broker: TaskBroker) -> None:
    """Sent before and after its start, for now and for later, failing at first or not: each is run to its end once,
    and every thread of both processes had a part in it.
    """
    messages = [send(broker, "work", number, 0.05) for number in range(20)]
    with command_line(own_redis, tmp_path) as started:
        messages += [send(broker, "work", number, 0.05) for number in range(20, 80)]
        messages += [send(broker, "work", number, 0, delay=100 + number) for number in range(80, 100)]
        messages += [send(broker, "fail_once", number) for number in range(100, 120)]
        ends = [once_over(broker, message) for message in messages]
        assert started.end(signal.SIGTERM) == 0
    assert {end.state for end in ends} == {State.SUCCESS}
    assert [end.result for end in ends[:100]] == list(range(100))
    assert [end.deliveries for end in ends] == 100 * [1] + 20 * [2]
    assert sorted(number for _, number in runs(own_redis)) == list(range(120))
    assert len(Counter(process for process, _ in runs(own_redis))) == PROCESSES
    assert "CRITICAL" not in started.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_amidst_its_work(
    tmp_path: Path, own_redis: PrivateRedis, broker: TaskBroker, number: signal.Signals
) -> None:
    """What runs is finished; what has not begun is left as it was, and run by the next one: none lost, none doubled."""
    messages = [send(broker, "work", each, 0.5) for each in range(40)]
    with command_line(own_redis, tmp_path) as first:
        eventually(lambda: broker.engine.stats(["default"])["default"].leased == PROCESSES * THREADS)
        assert first.end(number) == 0
    stats = broker.engine.stats(["default"])["default"]
    ended = len(runs(own_redis))
    assert PROCESSES * THREADS <= ended < 40
    assert (sum(stats.ready), stats.leased, stats.dead) == (40 - ended, 0, 0)
    assert "CRITICAL" not in first.log()
    with command_line(own_redis, tmp_path):
        ends = [once_over(broker, message) for message in messages]
    assert {(end.state, end.deliveries) for end in ends} == {(State.SUCCESS, 1)}
    assert sorted(number for _, number in runs(own_redis)) == list(range(40))


def test_its_reload_loses_nothing(tmp_path: Path, own_redis: PrivateRedis, broker: TaskBroker) -> None:
    """SIGHUP ends its workers and starts new ones in their place, while tasks wait and run."""
    messages = [send(broker, "work", each, 0.1) for each in range(100)]
    with command_line(own_redis, tmp_path) as started:
        eventually(lambda: len(runs(own_redis)) >= 8)
        started.process.send_signal(signal.SIGHUP)
        ends = [once_over(broker, message, START_WITHIN_S) for message in messages]
        assert started.end(signal.SIGTERM) == 0
    assert {(end.state, end.deliveries) for end in ends} == {(State.SUCCESS, 1)}
    assert len({process for process, _ in runs(own_redis)}) > PROCESSES
