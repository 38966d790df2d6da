"""Processes that write exams: real ones, made by a fork of a warm parent, that can be killed."""

import contextlib
import multiprocessing
import random
from collections.abc import Iterator
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier as BarrierType
from pathlib import Path
from typing import NamedTuple, NoReturn

from shared.clock import SystemClock
from shared.errors import ExamConflict
from shared.exams.disk import Disk
from shared.exams.model import Ended, Exam, Status
from shared.exams.register import Start
from tests.support.clock import ManualClock
from tests.support.exam_files import ExamProcess, a_result, open_process

WITHIN_S = 30

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload([__name__])


class Acknowledged(NamedTuple):
    """What a writer answered: an exam as it stood, or (`window` given) the exams of a digest."""

    pks: list[str]
    status: Status | None = None
    window: str | None = None


class Writer:
    """A process that writes exams below `root` until it is killed, sending each acknowledgement up a pipe."""

    def __init__(self, root: Path, name: str, seed: int) -> None:
        self.answers, theirs = processes.Pipe(duplex=False)
        self._process = processes.Process(target=_write_for_ever, args=(str(root), name, seed, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def next(self) -> Acknowledged:
        """The next acknowledgement; it must come soon."""
        assert self.answers.poll(WITHIN_S), "the writer hangs"
        answer: Acknowledged = self.answers.recv()
        return answer

    def kill(self) -> list[Acknowledged]:
        """`kill -9`; what it acknowledged that nobody has read yet."""
        self._process.kill()
        self._process.join(WITHIN_S)
        left: list[Acknowledged] = []
        with contextlib.suppress(EOFError):  # a message cut off in its midst was never sent
            while True:
                left.append(self.answers.recv())
        self.answers.close()
        self._process.close()
        return left


def _write_for_ever(root: str, name: str, seed: int, answers: Connection) -> None:
    chance = random.Random(seed)
    process = open_process(Disk(root, _no_halt), SystemClock())
    exams: list[Exam] = []
    number = 0
    while True:
        number += 1
        act = chance.choices(["start", "result", "sweep", "digest"], [5, 4, 2, 1])[0]
        if act == "start":
            for answer in _start_some(process, chance, name, exams):
                answers.send(answer)
        elif act == "result" and exams:
            for answer in _end_some(process, chance, exams):
                answers.send(answer)
        elif act == "sweep":
            process.register.sweep()
        else:
            window = f"{name}-{number:06}"
            answers.send(Acknowledged(process.digest(window), window=window))


def _start_some(process: ExamProcess, chance: random.Random, name: str, exams: list[Exam]) -> Iterator[Acknowledged]:
    """Half of them are over in moments, so that sweeps and results race for them."""
    starts = [
        Start(candidate=name, title=None, duration=timedelta(milliseconds=chance.choice([5, 20, 60_000, 3_600_000])))
        for _ in range(chance.randint(1, 4))
    ]
    for exam in process.register.start(starts):
        if isinstance(exam, Exam):
            exams.append(exam)
            yield Acknowledged([exam.pk])


def _end_some(process: ExamProcess, chance: random.Random, exams: list[Exam]) -> Iterator[Acknowledged]:
    chosen = [exams.pop(chance.randrange(len(exams))) for _ in range(min(len(exams), 3))]
    status = chance.choice([Status.PASS, Status.FAIL])
    received_at = SystemClock().now()
    for answer in process.register.record_results([a_result(exam.pk, received_at, status) for exam in chosen]):
        exam = answer.exam if isinstance(answer, ExamConflict) else answer
        if isinstance(exam, Exam) and exam.is_decided:
            yield Acknowledged([exam.pk], exam.status)


class Racer:
    """A process that tries to end every one of `exams` in its own way, at the same time as the others."""

    def __init__(self, root: Path, exams: list[Exam], way: str, barrier: BarrierType) -> None:
        self._answers, theirs = processes.Pipe(duplex=False)
        self._process = processes.Process(target=_race, args=(str(root), exams, way, barrier, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def answers(self) -> dict[str, Status | None]:
        """By pk: the outcome this process was told; None where it only appended, and lost."""
        assert self._answers.poll(WITHIN_S), "the racer hangs"
        answers: dict[str, Status | None] = self._answers.recv()
        self._process.join(WITHIN_S)
        self._answers.close()
        self._process.close()
        return answers


def _race(root: str, exams: list[Exam], way: str, barrier: BarrierType, answers: Connection) -> None:
    """At the deadline of all of them; a result was received a moment before."""
    clock = ManualClock(exams[0].deadline_at)
    process = open_process(Disk(root, _no_halt), clock)
    barrier.wait(WITHIN_S)
    told: dict[str, Status | None] = {}
    for exam in exams:
        if way == "read":
            told[exam.pk] = process.register.read(exam.pk).status
        elif way == "sweep":
            process.register.sweep()
            told[exam.pk] = process.register.read(exam.pk).status
        elif way.startswith("append"):
            status = Status(way.removeprefix("append "))
            ended = Ended(status=status, ended_at=exam.started_at, recorded_at=clock.now(), reason=None)
            told[exam.pk] = status if process.exams.append([(exam, ended)]) == [True] else None
        else:
            (answer,) = process.register.record_results([a_result(exam.pk, exam.started_at, Status(way))])
            told[exam.pk] = answer.exam.status if isinstance(answer, ExamConflict) else _exam(answer).status
    answers.send(told)


def _exam(answer: object) -> Exam:
    assert isinstance(answer, Exam), answer
    return answer


def _no_halt(error: OSError) -> NoReturn:
    raise AssertionError(f"the disk is broken: {error}")
