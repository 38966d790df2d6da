"""Real exams on this disk: starting them, and when their end had been stored."""

import os
from collections.abc import Sequence
from datetime import datetime

from benchmarks.engine.ground import Ground
from shared.broker.engine import Engine
from shared.clock import SystemClock
from shared.errors import InvigilError
from shared.exams.disk import Disk
from shared.exams.files import FileExamStore, event_path
from shared.exams.model import Exam, Status
from shared.exams.register import ExamRegister, Start
from tests.support.waiting import eventually

BATCH = 250


def start_exams(register: ExamRegister, deadlines: Sequence[datetime]) -> list[Exam]:
    """Exams that end then, give or take the moment that it takes to start a batch."""
    exams: list[Exam] = []
    for begin in range(0, len(deadlines), BATCH):
        now = SystemClock().now()
        starts = [Start(candidate=None, title=None, duration=at - now) for at in deadlines[begin : begin + BATCH]]
        for exam in register.start(starts):
            assert not isinstance(exam, InvigilError), exam
            exams.append(exam)
    return exams


def stored_after_deadline_s(ground: Ground, exams: Sequence[Exam], within_s: float) -> list[float]:
    """Of each exam, sorted: seconds from its deadline until all that its end takes was on disk and filed away.

    That is when its file was last linked or unlinked, by the kernel's clock, which goes in ticks of some 4 ms.
    """
    engine = ground.caller().broker.engine
    last = max(exam.deadline_at for exam in exams)
    eventually(lambda: SystemClock().now() > last and is_done(engine), within_s, "the end of all exams")
    disk = Disk(f"{ground.folder}/store", halt=print)
    for history in FileExamStore(disk).read([exam.pk for exam in exams]):
        ended = history.fold()
        assert ended is not None and ended.status is Status.ABSENT, ended
    return sorted(
        os.stat(f"{disk.root}/{event_path(exam.pk, 2)}").st_ctime - exam.deadline_at.timestamp() for exam in exams
    )


def is_done(engine: Engine) -> bool:
    """Nothing is due that has not been done; others may be due later."""
    stats = engine.stats(["exams"])["exams"]
    return not (stats.overdue or stats.alone or stats.leased or any(stats.ready))
