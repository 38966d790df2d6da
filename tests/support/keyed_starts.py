"""One process's starts under idempotency keys, and processes that are killed or raced while they start."""

import os
import signal
from collections.abc import Callable, Sequence
from datetime import datetime
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier as BarrierType
from pathlib import Path
from typing import NamedTuple

from shared.clock import Clock, SystemClock
from shared.exams.keyed_starts import KeyedStart, KeyedStarts, Sitting
from shared.exams.model import Exam
from shared.exams.register import ListQuery
from shared.idempotency import Attempt, IdempotencyKeys
from tests.support.clock import ManualClock
from tests.support.disk import WatchedDisk
from tests.support.exam_files import ExamProcess, a_start, listed, open_process
from tests.support.exam_writers import WITHIN_S, processes

ROUTE = "POST /v1/exams"


class KeyedProcess(NamedTuple):
    """What an API process holds of the store for keyed starts."""

    process: ExamProcess
    keys: IdempotencyKeys
    starts: KeyedStarts

    def start(self, key: str = "key", seconds: float = 120) -> Sitting:
        """A start that cannot fail; its length is its body."""
        (sitting,) = self.start_all([(key, seconds)])
        return sitting

    def start_all(self, wanted: Sequence[tuple[str, float]]) -> list[Sitting]:
        answers = self.starts.start([keyed_start(key, seconds) for key, seconds in wanted])
        sittings = [answer for answer in answers if isinstance(answer, Sitting)]
        assert len(sittings) == len(answers), answers
        return sittings

    def exams(self) -> list[Exam]:
        return listed(self.process.register, ListQuery())


def open_keyed(disk: WatchedDisk, clock: Clock) -> KeyedProcess:
    process = open_process(disk, clock)
    keys = IdempotencyKeys(disk, clock)
    keys.prepare()
    return KeyedProcess(process, keys, KeyedStarts(process.register, keys, clock))


def an_attempt(key: str = "key", body: bytes = b"", caller: str = "ada", route: str = ROUTE) -> Attempt:
    return Attempt(caller, route, key, body)


def keyed_start(key: str = "key", seconds: float = 120) -> KeyedStart:
    return KeyedStart(a_start("ada", seconds), an_attempt(key, str(seconds).encode()))


def killed_at(root: Path, at: int, now: datetime) -> bool:
    """A process starts an exam under the key and is killed before its `at`th system call. False: it got through."""
    process = processes.Process(target=_start_and_die, args=(root, at, now), daemon=True)
    process.start()
    process.join(WITHIN_S)
    status = process.exitcode
    process.close()
    assert status in (0, -signal.SIGKILL), status
    return status != 0


def _start_and_die(root: Path, at: int, now: datetime) -> None:
    disk = WatchedDisk(root)
    keyed = open_keyed(disk, ManualClock(now))
    left = at

    def watch(_call: Callable[..., object]) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    disk.watch = watch
    keyed.start()


class KeyedRacer:
    """A process that starts an exam under each of `keys`, in this order, at the same time as the others."""

    def __init__(self, root: Path, keys: Sequence[str], together: int, barrier: BarrierType) -> None:
        self._answers, theirs = processes.Pipe(duplex=False)
        arguments = (root, keys, together, barrier, theirs)
        self._process = processes.Process(target=_race, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def answers(self) -> dict[str, Sitting]:
        """By key."""
        assert self._answers.poll(WITHIN_S), "the racer hangs"
        answers: dict[str, Sitting] = self._answers.recv()
        self._process.join(WITHIN_S)
        self._answers.close()
        self._process.close()
        return answers


def _race(root: Path, keys: Sequence[str], together: int, barrier: BarrierType, answers: Connection) -> None:
    keyed = open_keyed(WatchedDisk(root), SystemClock())
    barrier.wait(WITHIN_S)
    sittings: dict[str, Sitting] = {}
    for begin in range(0, len(keys), together):
        batch = keys[begin : begin + together]
        sittings.update(zip(batch, keyed.start_all([(key, 120) for key in batch]), strict=True))
    answers.send(sittings)
