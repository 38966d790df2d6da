"""The file store beside the same system calls in bare Python, interleaved, at 1 and 8 threads."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from benchmarks.report import RUNS, head, line, scratch
from shared.clock import SystemClock
from shared.exams.disk import Disk
from shared.exams.files import FileExamStore
from shared.exams.model import Ended, Exam, History, Started, Status
from shared.exams.pk import new_pk

T = TypeVar("T")

TURNS = 10  # how often the two take turns: what the disk is like at a moment falls on both
EACH = 100  # operations a thread and turn
EVENT = b"x" * 260  # about as long as an event


def main() -> None:
    head("The store: exams a second, and the same system calls without it")
    for threads in (1, 8):
        figures: dict[str, list[float]] = {}
        for _ in range(RUNS):
            for what, per_s in measure(scratch(), threads).items():
                figures.setdefault(what, []).append(per_s)
        for what in ("starts", "outcomes"):
            ours, bare = figures[what], figures[f"bare {what}"]
            line(f"{what}, {threads} threads: the store", ours, "/s", higher_is_better=True)
            line(f"{what}, {threads} threads: bare calls", bare, "/s", higher_is_better=True)
            shares = [100 * one / other for one, other in zip(ours, bare, strict=True)]
            line(f"{what}, {threads} threads: share reached", shares, "%", higher_is_better=True)


def measure(folder: Path, threads: int) -> dict[str, float]:
    """Rates of one run."""
    store = FileExamStore(Disk(str(folder / "store"), halt=print))
    store.prepare()
    bare = BareCalls(folder / "bare")
    took = dict.fromkeys(("starts", "bare starts", "outcomes", "bare outcomes"), 0.0)
    for turn in range(TURNS):
        exams = [[_exam() for _ in range(EACH)] for _ in range(threads)]
        names = [[f"{turn}-{thread}-{number}" for number in range(EACH)] for thread in range(threads)]
        took["starts"] += seconds(exams, lambda exam: store.start([(exam[0].pk, exam[1])]))
        took["bare starts"] += seconds(names, bare.start)
        took["outcomes"] += seconds(exams, lambda exam: store.append([(exam[0], _outcome())]))
        took["bare outcomes"] += seconds(names, bare.end)
    return {what: TURNS * threads * EACH / spent for what, spent in took.items()}


def seconds(shares: Sequence[Sequence[T]], work: Callable[[T], object]) -> float:
    """How long it takes to work through all shares, with a thread for each."""

    def work_through(share: Sequence[T]) -> None:
        for thing in share:
            work(thing)

    running = [threading.Thread(target=work_through, args=(share,)) for share in shares]
    began = time.perf_counter()
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return time.perf_counter() - began


class BareCalls:
    """What a start and an outcome ask of the kernel, and nothing else."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        for name in ("tmp", "open", "exams", "outbox"):
            (folder / name).mkdir(parents=True)

    def start(self, name: str) -> None:
        temp = self._write(f"{name}.1")
        self._link(temp, f"open/{name}")
        self._link(temp, f"exams/{name}.1")
        os.unlink(temp)

    def end(self, name: str) -> None:
        temp = self._write(f"{name}.2")
        self._link(temp, f"exams/{name}.2")
        os.rename(f"{self._folder}/open/{name}", f"{self._folder}/outbox/{name}.2")
        os.unlink(temp)

    def _write(self, name: str) -> str:
        temp = f"{self._folder}/tmp/{name}"
        handle = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        os.write(handle, EVENT)
        os.fsync(handle)
        os.close(handle)
        return temp

    def _link(self, temp: str, path: str) -> None:
        target = f"{self._folder}/{path}"
        os.link(temp, target)
        handle = os.open(target.rpartition("/")[0], os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(handle)
        os.close(handle)


def _exam() -> tuple[Exam, Started]:
    now = SystemClock().now()
    pk = new_pk(now)
    event = Started(
        recorded_at=now, candidate=None, title=None, started_at=now, deadline_at=now + timedelta(seconds=120)
    )
    exam = History(pk, [event]).fold()
    assert exam is not None
    return exam, event


def _outcome() -> Ended:
    now = SystemClock().now()
    return Ended(recorded_at=now, status=Status.PASS, ended_at=now, reason=None)
