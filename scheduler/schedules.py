"""What runs when."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from shared.settings import Settings
from shared.tasks import catalog
from shared.tasks.task import Task

CLEARED_EVERY = timedelta(hours=1)  # what it removes is an hour old at least, and does no harm meanwhile

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A task sent every `period`, at whole multiples of it on the clock; `arguments` come from the time it was due."""

    task: Task[..., Any]
    period: timedelta
    arguments: Callable[[datetime], tuple[str, ...]]

    def due_at(self, now: datetime) -> datetime:
        """The last time at or before `now` at which it was due."""
        return now - (now - _EPOCH) % self.period


def schedules(settings: Settings) -> tuple[Schedule, ...]:
    return (
        Schedule(task=catalog.send_digest, period=settings.digest_period, arguments=lambda due_at: (window(due_at),)),
        Schedule(task=catalog.sweep, period=settings.sweep_period, arguments=lambda _: ()),
        Schedule(task=catalog.clear_away, period=CLEARED_EVERY, arguments=lambda _: ()),
    )


def window(due_at: datetime) -> str:
    """The name of a digest: when it was due, as `20261120T104500.000Z`."""
    return f"{due_at:%Y%m%dT%H%M%S}.{due_at.microsecond // 1000:03}Z"
