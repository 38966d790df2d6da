"""A worker that may be hurt: Dramatiq's on our engine, with tasks that write down when they begin and end.

`python -m tests.support.engine_worker <redis url> <threads> <journal> <seconds to stop within>`, or in this process.
"""

import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import dramatiq
import structlog
from dramatiq import Message, Worker
from dramatiq.errors import Retry
from dramatiq.middleware import CurrentMessage

from shared.broker.asking import Asking, Due
from shared.broker.broker import TaskBroker, usual_middleware
from shared.broker.connection import patient_client
from shared.broker.engine import Engine
from shared.broker.record import USUAL_PRIORITY, pack_id
from shared.broker.scripts import through_pool
from shared.broker.states import State
from shared.logs import configure_logs
from shared.redis_keys import RedisKeys
from tests.support.parts import Part
from tests.support.waiting import eventually

KEYS = RedisKeys("engine")
KEEP = timedelta(hours=1)
QUEUE = "default"
END_WITHIN_S = 30.0


class Entry(NamedTuple):
    """`at`: monotonic seconds, the same in every process of this machine."""

    what: str
    task_id: str
    pid: int
    at: float


class Journal:
    """What bodies did, in one file for all processes; an entry outlives the process that makes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch()

    def note(self, what: str, task_id: str) -> None:
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(file, f"{what} {task_id} {os.getpid()} {time.monotonic()}\n".encode())
        finally:
            os.close(file)

    def entries(self, what: str) -> list[Entry]:
        """The first one first."""
        lines = [line.split() for line in self._path.read_text().splitlines()]
        return [Entry(first, task_id, int(pid), float(at)) for first, task_id, pid, at in lines if first == what]

    @contextmanager
    def noting(self) -> Iterator[Message[Any]]:
        """Around a body; gives the message that it runs. A body that raises has no end."""
        message = CurrentMessage.get_current_message()
        assert message is not None
        self.note("begin", message.message_id)
        yield message
        self.note("end", message.message_id)

    def begun(self) -> list[str]:
        """Ids, one for each run."""
        return [entry.task_id for entry in self.entries("begin")]

    def ended(self) -> list[str]:
        return [entry.task_id for entry in self.entries("end")]


def broker_at(url: str, journal: Journal, kind: type[TaskBroker] = TaskBroker) -> TaskBroker:
    """Knows the tasks; sends them, and runs them where a Worker is put on it."""
    client = patient_client(url)
    engine = Engine(Asking(through_pool(client), KEYS), KEEP)
    broker = kind(engine, client, KEYS, [*usual_middleware(), CurrentMessage()])
    declare_good_tasks(broker, journal)
    declare_bad_tasks(broker, journal)
    return broker


def declare_good_tasks(broker: TaskBroker, journal: Journal) -> None:
    """Each returns the process that has run it to its end."""

    @dramatiq.actor(broker=broker, queue_name=QUEUE)
    def quick() -> int:
        with journal.noting():
            return os.getpid()

    @dramatiq.actor(broker=broker, queue_name=QUEUE)
    def long(seconds: float) -> int:
        with journal.noting():
            threading.Event().wait(seconds)
            return os.getpid()

    @dramatiq.actor(broker=broker, queue_name=QUEUE)
    def gated(gate: str) -> int:
        """Until a file of this name is there."""
        with journal.noting():
            eventually(Path(gate).exists, 600, "the opening of the gate")
            return os.getpid()

    @dramatiq.actor(broker=broker, queue_name=QUEUE)
    def spinning(seconds: float) -> int:
        """In Python, where it can be interrupted."""
        with journal.noting():
            end_at = time.monotonic() + seconds
            while time.monotonic() < end_at:
                pass
            return os.getpid()


def declare_bad_tasks(broker: TaskBroker, journal: Journal) -> None:
    @dramatiq.actor(broker=broker, queue_name=QUEUE)
    def failing(times: int, retry_ms: int, seconds: float = 0) -> int:
        """The first `times` runs; each is tried again after `retry_ms`."""
        with journal.noting() as message:
            threading.Event().wait(seconds)
            if message.options.get("retries", 0) < times:
                raise Retry("not yet", delay=retry_ms)
            return os.getpid()

    @dramatiq.actor(broker=broker, queue_name=QUEUE, max_retries=0)
    def hopeless(seconds: float) -> None:
        with journal.noting():
            threading.Event().wait(seconds)
            raise RuntimeError("always")

    @dramatiq.actor(broker=broker, queue_name=QUEUE)
    def killer() -> None:
        with journal.noting():
            os.kill(os.getpid(), signal.SIGKILL)


def send(broker: TaskBroker, task: str, *args: object, due: Due = None) -> str:
    """Its id."""
    return send_many(broker, task, 1, *args, due=due)[0]


def send_many(broker: TaskBroker, task: str, number: int, *args: object, due: Due = None) -> list[str]:
    messages = [broker.get_actor(task).message(*args) for _ in range(number)]
    broker.enqueue_many([(message, due) for message in messages])
    return [message.message_id for message in messages]


def wait_for(broker: TaskBroker, task_ids: Sequence[str], within_s: float = 10, state: State = State.SUCCESS) -> None:
    """Until each has ended, in this state."""
    waiting = list(task_ids)

    def is_over() -> bool:
        while waiting and broker.engine.look_up(waiting[-1]).is_over:
            waiting.pop()
        return not waiting

    eventually(is_over, within_s, f"the end of {len(task_ids)} tasks")
    assert Counter(broker.engine.look_up(task_id).state for task_id in task_ids) == {state: len(task_ids)}


def send_alone(broker: TaskBroker, task: str, *args: object) -> str:
    """One that is to run with nothing beside it, as if two runs of it had been lost with their workers."""
    task_id = send(broker, task, *args, due=timedelta(days=1))
    packed_id = pack_id(task_id)
    place = time.time_ns() // 1000
    with broker.client.pipeline() as pipeline:
        pipeline.zrem(KEYS.key("due_set", QUEUE), packed_id)
        pipeline.hset(KEYS.key("live", packed_id), mapping={"lost": 2, "home": USUAL_PRIORITY, "place": place})
        pipeline.zadd(KEYS.key("alone", QUEUE), {packed_id: place})
        pipeline.rpush(KEYS.key("signal", QUEUE), "")
        pipeline.execute()
    return task_id


@contextmanager
def worker_on(broker: TaskBroker, threads: int, stop_within_s: float = END_WITHIN_S) -> Iterator[Worker]:
    """In this process."""
    worker = Worker(broker, worker_threads=threads, worker_timeout=100)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop(timeout=int(stop_within_s * 1000))


class EngineWorker(Part):
    """In a process of its own, which is there and about to run tasks."""

    def __init__(self, folder: Path, url: str, journal: Path, threads: int = 4, stop_within_s: float = 25) -> None:
        program = "tests.support.engine_worker"
        super().__init__(folder, program, url, str(threads), str(journal), str(stop_within_s), environ={})
        try:
            self.wait_for_log("worker_starts")
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> "EngineWorker":
        return self

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self, within_s: float = END_WITHIN_S) -> int:
        """Its status."""
        return self._process.wait(within_s)


def main(arguments: Sequence[str]) -> None:
    url, threads, journal, stop_within_s = arguments
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    configure_logs("json", "engine-worker")
    broker = broker_at(url, Journal(Path(journal)))
    worker = Worker(broker, worker_threads=int(threads))
    structlog.get_logger(__name__).info("worker_starts")  # before the first task, which may kill it
    worker.start()
    stopping.wait()
    worker.stop(timeout=int(float(stop_within_s) * 1000))


if __name__ == "__main__":
    main(sys.argv[1:])
