"""Bodies of the tasks that end exams."""

import threading
from collections.abc import Callable
from datetime import timedelta

import structlog

from shared.clock import Clock
from shared.errors import ExamNotFound
from shared.exams.register import ExamRegister
from shared.tasks.catalog import MARK_ABSENT, SWEEP
from shared.tasks.sender import TaskSender

_log = structlog.get_logger(__name__)


def mark_absent(
    register: ExamRegister, sender: TaskSender, clock: Clock, settle_margin: timedelta
) -> Callable[[str], None]:
    """Ends one exam at its deadline. Never returns with it undecided: a body much too early sends itself again."""

    def body(pk: str) -> None:
        try:
            exam = register.settle(pk)
        except ExamNotFound:
            _log.warning("exam_not_found", pk=pk)  # its start was given up after the task had been sent
            return
        if not exam.is_decided:
            delay = exam.deadline_at + settle_margin - clock.now()
            sender.send(MARK_ABSENT, pk, task_id=exam.task_id, delay=delay)

    return body


def sweep(register: ExamRegister, sender: TaskSender) -> Callable[[], None]:
    """Settles overdue exams and finishes what crashes left, a batch a run, one run at a time."""
    running = threading.Lock()

    def body() -> None:
        if not running.acquire(blocking=False):
            return
        try:
            is_more_left = register.sweep()
        finally:
            running.release()
        if is_more_left:
            sender.send(SWEEP)

    return body
