"""Slots for tests, with what is common to their runs, and a look at the processes behind them."""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

from tests.support.slot_jobs import job
from worker.slots import Running, Slots

RUNNER = "tests.support.slot_jobs:make"
WITHIN_S = 20.0


class Runs:
    """Jobs on some slots, in this thread or beside it; questions are noted and come back as answers."""

    def __init__(self, slots: Slots, threads: int = 16) -> None:
        self.slots = slots
        self.asked: SimpleQueue[bytes] = SimpleQueue()
        self._pool = ThreadPoolExecutor(threads)

    def run(
        self,
        name: str,
        *arguments: object,
        time_limit_s: float | None = WITHIN_S,
        answer: Callable[[bytes], bytes] | None = None,
        on_start: Callable[[Running], None] = lambda _: None,
    ) -> Any:
        reply = self.slots.run(
            job(name, *arguments), time_limit_s=time_limit_s, answer=answer or self._note, on_start=on_start
        )
        return json.loads(reply)

    def beside(self, name: str, *arguments: object, **options: Any) -> "Future[Any]":
        return self._pool.submit(self.run, name, *arguments, **options)

    def submit(self, what: Callable[[int], None], number: int) -> "Future[None]":
        return self._pool.submit(what, number)

    def next_asked(self) -> Any:
        return json.loads(self.asked.get(timeout=WITHIN_S))

    def close(self) -> None:
        self.slots.close()
        self._pool.shutdown()

    def _note(self, question: bytes) -> bytes:
        self.asked.put(question)
        return question


@contextmanager
def runs(warm: int = 1) -> Iterator[Runs]:
    """With slots that have been started."""
    slots = Slots(RUNNER, warm=warm)
    opened = Runs(slots)
    try:
        slots.start()
        yield opened
    finally:
        opened.close()


def parent_of(pid: int) -> int:
    return int(_fields(pid)[1])


def is_gone(pid: int) -> bool:
    """Dead, be it buried or not."""
    try:
        return _fields(pid)[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def children_of(parent: int) -> set[int]:
    """The dead ones that nobody has buried included."""
    found = set()
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if parent_of(int(name)) == parent:
                found.add(int(name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _fields(pid: int) -> list[str]:
    """State, parent and so on."""
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()
