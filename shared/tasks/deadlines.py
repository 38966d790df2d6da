"""Exams' deadlines as delayed tasks: the alarm clock of the register."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog

from shared.broker.tombstones import Tombstones
from shared.clock import Clock
from shared.errors import BrokerUnavailable
from shared.exams.model import Exam
from shared.tasks.catalog import MARK_ABSENT
from shared.tasks.sender import Sending, TaskSender

_log = structlog.get_logger(__name__)


class DeadlineTasks:
    """DeadlineAlarm on Redis. Redis out of reach is logged and costs nobody more than a wait for the sweep."""

    def __init__(self, sender: TaskSender, tombstones: Tombstones, clock: Clock, settle_margin: timedelta) -> None:
        self._sender = sender
        self._tombstones = tombstones
        self._clock = clock
        self._margin = settle_margin

    def set(self, exams: Sequence[Exam]) -> None:
        now = self._clock.now()
        try:
            self._sender.send_many([self._sending(exam, now) for exam in exams])
        except BrokerUnavailable as error:
            _log.warning("deadline_not_set", exams=len(exams), why=str(error))

    def cancel(self, exams: Sequence[Exam]) -> None:
        now = self._clock.now()
        try:
            self._tombstones.set([(exam.task_id, max(timedelta(), exam.deadline_at - now)) for exam in exams])
        except BrokerUnavailable as error:
            _log.warning("deadline_not_cancelled", exams=len(exams), why=str(error))

    def _sending(self, exam: Exam, now: datetime) -> Sending:
        delay = exam.deadline_at + self._margin - now
        return Sending(MARK_ABSENT, (exam.pk,), exam.task_id, delay)
