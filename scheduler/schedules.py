"""What runs when."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from shared.settings import Settings
from shared.tasks.catalog import SEND_DIGEST, SWEEP, Task

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A task sent every `period`, at whole multiples of it on the clock; `arguments` come from the time it was due."""

    task: Task
    period: timedelta
    arguments: Callable[[datetime], tuple[str, ...]]

    def due_at(self, now: datetime) -> datetime:
        """The last time at or before `now` at which it was due."""
        return now - (now - _EPOCH) % self.period


def schedules(settings: Settings) -> tuple[Schedule, ...]:
    return (
        Schedule(task=SEND_DIGEST, period=settings.digest_period, arguments=lambda due_at: (window(due_at),)),
        Schedule(task=SWEEP, period=settings.sweep_period, arguments=lambda _: ()),
    )


def window(due_at: datetime) -> str:
    """The name of a digest: when it was due, as `20261120T104500.000Z`."""
    return f"{due_at:%Y%m%dT%H%M%S}.{due_at.microsecond // 1000:03}Z"
