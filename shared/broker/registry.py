"""Which worker processes live: each says so every few seconds, and takes its name off when it ends."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Literal

import msgspec
import structlog
from dramatiq.threading import is_gevent_active

from shared.broker.deliveries import Held
from shared.broker.dispatch import Dispatch
from shared.broker.loops import Loop
from shared.clock import from_ms
from shared.errors import BrokerUnavailable

ANNOUNCED_EVERY = timedelta(seconds=6)
DEAD_AFTER = timedelta(seconds=14)  # two of them have been missed
MOST_WORKERS = 1_000

_log = structlog.get_logger(__name__)


class Announcement(msgspec.Struct, frozen=True, array_like=True):
    """What a worker says of itself. `running`: how many of its `threads` run a task."""

    host: str
    pid: int
    kind: Literal["threads", "gevent"]
    queues: list[str]
    threads: int
    running: int


class WorkerProcess(msgspec.Struct, frozen=True):
    """A worker process as it was seen last, by Redis's clock."""

    id: str
    seen_at: datetime
    started_at: datetime
    said: Announcement


def worker_processes(rows: Iterable[tuple[bytes, int, int, bytes]]) -> list[WorkerProcess]:
    """From what lua/workers.lua answers, the longest-lived first; without those that say what this version does not
    understand.
    """
    found = []
    for process, seen_ms, began_ms, said in rows:
        try:
            announcement = msgspec.msgpack.decode(said, type=Announcement)
            found.append(WorkerProcess(process.decode(), from_ms(seen_ms), from_ms(began_ms), announcement))
        except (msgspec.MsgspecError, ValueError, OverflowError) as error:
            _log.warning("announcement_unreadable", worker=repr(process), why=str(error))
    return sorted(found, key=lambda worker: (worker.started_at, worker.id))


class Announcer(Loop):
    """Says that this process lives. `threads`: how many it has."""

    def __init__(
        self, dispatch: Dispatch, queues: Callable[[], Sequence[str]], threads: Callable[[], int], held: Held
    ) -> None:
        super().__init__()
        self._dispatch = dispatch
        self._queues = queues
        self._threads = threads
        self._held = held
        self._began_ms = 0

    def turn(self) -> None:
        said = Announcement(
            host=socket.gethostname(),
            pid=os.getpid(),
            kind="gevent" if is_gevent_active() else "threads",  # type: ignore[no-untyped-call]
            queues=list(self._queues()),
            threads=self._threads(),
            running=sum(delivery.has_begun for delivery in self._held.all()),
        )
        self._announce(msgspec.msgpack.encode(said))
        self.stopping.wait(ANNOUNCED_EVERY.total_seconds())

    def run(self) -> None:
        """To the end, which it tells too: else the process would be taken for alive a while longer."""
        super().run()
        with contextlib.suppress(BrokerUnavailable):
            self._announce(b"")

    def _announce(self, said: bytes) -> None:
        self._began_ms = self._dispatch.announce(2 * DEAD_AFTER, MOST_WORKERS, self._began_ms, said)
