"""An exam as its readers see it."""

from datetime import datetime

import msgspec

from shared.clock import rfc3339, seconds
from shared.exams.model import Event, Exam


def exam_json(exam: Exam, now: datetime) -> dict[str, object]:
    """All its fields, and how much time is left as of `now`."""
    return {
        "pk": exam.pk,
        "status": exam.status,
        "candidate": exam.candidate,
        "title": exam.title,
        "duration_s": seconds(exam.duration),
        "started_at": rfc3339(exam.started_at),
        "deadline_at": rfc3339(exam.deadline_at),
        "ended_at": _instant(exam.ended_at),
        "recorded_at": _instant(exam.recorded_at),
        "reason": exam.reason,
        "version": exam.version,
        "task_id": exam.task_id,
        "server_now": rfc3339(now),
        "seconds_remaining": seconds(exam.remaining(now)),
    }


def event_json(number: int, event: Event) -> dict[str, object]:
    """An event under its number, with the fields that its kind has."""
    fields = {
        name: rfc3339(value) if isinstance(value, datetime) else value
        for name, value in msgspec.structs.asdict(event).items()
    }
    return {"number": number, "event": event.__struct_config__.tag, **fields}


def _instant(instant: datetime | None) -> str | None:
    return None if instant is None else rfc3339(instant)
