"""Exams' deadlines as tasks that are due then: the alarm clock of the register."""

from collections.abc import Sequence
from datetime import timedelta

import structlog

from shared.broker.engine import Engine
from shared.errors import BrokerUnavailable, TaskIdTaken
from shared.exams.model import Exam
from shared.tasks.catalog import mark_absent
from shared.tasks.sender import Sending, TaskSender

_log = structlog.get_logger(__name__)


class DeadlineTasks:
    """DeadlineAlarm on Redis. Redis out of reach is logged and costs nobody more than a wait for the sweep."""

    def __init__(self, sender: TaskSender, engine: Engine, settle_margin: timedelta) -> None:
        self._sender = sender
        self._engine = engine
        self._margin = settle_margin

    def set(self, exams: Sequence[Exam]) -> None:
        try:
            self._sender.send_many(
                [Sending(mark_absent, (exam.pk,), exam.task_id, exam.deadline_at + self._margin) for exam in exams]
            )
        except (BrokerUnavailable, TaskIdTaken) as error:
            _log.warning("deadline_not_set", exams=len(exams), why=str(error))

    def cancel(self, exams: Sequence[Exam]) -> None:
        try:
            self._engine.cancel([exam.task_id for exam in exams], keep=mark_absent.keep)
        except BrokerUnavailable as error:
            _log.warning("deadline_not_cancelled", exams=len(exams), why=str(error))
