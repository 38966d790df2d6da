"""The tasks of task_bodies.py with a worker for them, in this process or in one of its own.

`python -m tests.support.task_worker` is the latter.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import TypeVar

from dramatiq import Worker

from run import redis_program
from shared.broker.states import State, TaskState
from shared.errors import InvigilError, NotConnected
from shared.services import Services, for_callers, for_worker
from shared.settings import Settings
from shared.tasks.connection import connect, connected
from shared.tasks.result import AsyncResult
from shared.tasks.sender import TaskSender
from tests.support import task_bodies
from tests.support.api import Api
from tests.support.parts import Part
from tests.support.redis_server import PrivateRedis
from tests.support.task_bodies import TASKS
from tests.support.waiting import eventually
from worker.bodies import bodies_in
from worker.declaring import declare_actors
from worker.slots import Slots

QUEUES = ("default", "slow")
WITHIN_S = 20.0  # on a machine that is busy

R = TypeVar("R")


class WorkerProcess(Part):
    """A worker in a process of its own."""

    def __enter__(self) -> "WorkerProcess":
        return self

    def freeze(self) -> None:
        """Every thread of it has stopped when this returns."""
        self.signal(Signals.SIGSTOP)
        for stat in Path(f"/proc/{self._process.pid}/task").glob("*/stat"):
            eventually(lambda stat=stat: stat.read_text().rpartition(")")[2].split()[0] == "T")  # type: ignore[misc]


@dataclass
class TaskSystem:
    """`callers`: services that send; `folder`: for files that bodies read and write."""

    redis: PrivateRedis
    callers: Services
    folder: Path
    environ: Mapping[str, str]

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def write(self, name: str, text: str = "go") -> None:
        """As a whole."""
        draft = self.folder / f"{name}.draft"
        draft.write_text(text, encoding="utf-8")
        draft.replace(self.folder / name)

    def lines(self, name: str) -> list[str]:
        """What bodies have noted in a file."""
        path = self.folder / name
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def payloads(self, task_id: str) -> list[str]:
        """The names of files that hold large values of a task."""
        return [path.name for path in self.folder.glob(f"store/payloads/*/{task_id}.*")]

    def is_empty(self) -> bool:
        """Redis holds nothing."""
        return int(self.redis.client().dbsize()) == 0

    def api(self) -> Api:
        """The API of these tasks, to be used in a `with`."""
        environ = {**self.environ, "INVIGIL_KEYS": self.path("keys.json")}
        return Api(Settings.from_environ(environ), tasks=list(TASKS.values()))

    @contextmanager
    def worker(self, threads: int = 4, queues: tuple[str, ...] = QUEUES) -> Iterator[Worker]:
        """A worker with slots, until the block ends."""
        with task_worker(self.environ, threads, queues) as worker:
            yield worker

    def worker_process(self, name: str = "worker") -> "WorkerProcess":
        """One that may be hurt."""
        process = WorkerProcess(self.folder / name, "tests.support.task_worker", environ=self.environ)
        process.wait_for_log("worker_started")
        return process


@contextmanager
def task_worker(
    environ: Mapping[str, str], threads: int = 4, queues: tuple[str, ...] = QUEUES, stop_within_s: float = 5
) -> Iterator[Worker]:
    """In this process. It sends, too."""
    services = for_worker(Settings.from_environ(environ), tasks=list(TASKS.values()))
    slots = Slots(f"{task_bodies.__name__}:runner", [task_bodies.__name__])
    declare_actors(services, bodies_in([task_bodies], TASKS.values()), queues, slots)
    worker = Worker(services.broker, queues=set(queues), worker_threads=threads)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop(timeout=round(stop_within_s * 1000))
        slots.close()
        services.redis.close()


@contextmanager
def task_system(redis: PrivateRedis, folder: Path, **settings: str) -> Iterator[TaskSystem]:
    """Sends through it: `task.delay()` works in the block."""
    environ = {"INVIGIL_REDIS_URL": redis.url, "INVIGIL_STORE": (folder / "store").as_uri()}
    environ |= {f"INVIGIL_{name}": value for name, value in settings.items()}
    environ.setdefault("INVIGIL_ROUTES", "nothing=slow")
    before = {name: os.environ.get(name) for name in environ}
    os.environ.update(environ)  # child processes read theirs
    callers = for_callers(Settings.from_environ(environ), tasks=list(TASKS.values()))
    outer = _sender()
    connect(callers.sender)
    try:
        yield TaskSystem(redis, callers, folder, environ)
    finally:
        connect(outer)
        callers.sender.endings.close()
        callers.redis.close()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _sender() -> TaskSender | None:
    """Of the block around this one, if there is one."""
    try:
        return connected()
    except NotConnected:
        return None


@contextmanager
def own_task_system(folder: Path, **settings: str) -> Iterator[TaskSystem]:
    """With a Redis of its own, which may be hurt."""
    redis = PrivateRedis(redis_program())
    try:
        with task_system(redis, folder, **settings) as system:
            yield system
    finally:
        redis.close()


@contextmanager
def working_system(folder: Path, **settings: str) -> Iterator[TaskSystem]:
    """With a worker, whose first child process is there."""
    with own_task_system(folder, **settings) as system, system.worker():
        task_bodies.add_in_child.delay(1).get(WITHIN_S)
        yield system


def once(result: AsyncResult[R], state: State, within_s: float = WITHIN_S) -> TaskState:
    """All that is known of a task as soon as it is in this state."""
    seen: list[TaskState] = []

    def look() -> bool:
        seen.append(result.look())
        return seen[-1].state is state

    eventually(look, within_s, f"{state} of {result}")
    return seen[-1]


def refusal(call: Callable[[], object], kind: type[InvigilError] = InvigilError) -> InvigilError:
    """What it raises."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} was raised")
