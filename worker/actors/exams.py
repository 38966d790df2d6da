"""Bodies of the tasks that end exams."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import structlog

from shared.clock import Clock, rfc3339
from shared.errors import ExamNotFound, InvigilError
from shared.exams.register import ExamRegister
from shared.services import Services
from shared.tasks import catalog
from shared.tasks.sender import TaskSender
from worker.bodies import made_for

_log = structlog.get_logger(__name__)


@made_for(catalog.mark_absent)
def _mark_absent(services: Services) -> Callable[[Sequence[str]], None]:
    return mark_absent(services.register, services.sender, services.settings.settle_margin)


@made_for(catalog.sweep)
def _sweep(services: Services) -> Callable[[], None]:
    return sweep(services.register, services.sender, services.clock)


def mark_absent(
    register: ExamRegister, sender: TaskSender, settle_margin: timedelta
) -> Callable[[Sequence[str]], None]:
    """Ends exams at their deadline. Never returns with one undecided: a task much too early sends itself again."""

    def body(pks: Sequence[str]) -> None:
        failed: list[InvigilError] = []
        for pk, exam in zip(pks, register.settle(pks), strict=True):
            if isinstance(exam, ExamNotFound):
                _log.warning("exam_not_found", pk=pk)  # its start was given up after the task had been sent
            elif isinstance(exam, InvigilError):
                failed.append(exam)
            elif not exam.is_decided:
                sender.send(catalog.mark_absent, pk, task_id=exam.task_id, due=exam.deadline_at + settle_margin)
        if failed:
            raise failed[0]  # each is tried again by itself

    return body


def sweep(register: ExamRegister, sender: TaskSender, clock: Clock) -> Callable[[], None]:
    """Settles overdue exams and finishes what crashes left, a batch a run, one run at a time."""
    began_at: datetime | None = None

    def body() -> None:
        nonlocal began_at
        now = clock.now()
        # A run that has been ended by its time limit may not have come to say so. Two at once do no harm.
        if began_at is not None and now - began_at < catalog.SWEPT_WITHIN:
            _log.info("sweep_skipped", running_since=rfc3339(began_at))
            return
        began_at = now
        try:
            is_more_left = register.sweep()
        finally:
            began_at = None
        if is_more_left:
            sender.send(catalog.sweep)

    return body
