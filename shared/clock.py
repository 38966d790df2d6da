"""Instants: where they come from, and how they are written.

Every instant is an aware UTC datetime on a whole millisecond, so that writing and reading one changes nothing.
Code that decides takes the instant as an argument; only the outermost call asks a Clock.
"""

import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Protocol

MILLISECOND = timedelta(milliseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    """Tells the time and lets it pass; tests pass in one that they turn by hand."""

    def now(self) -> datetime: ...

    def wait(self, duration: timedelta) -> None: ...


class SystemClock:
    """The machine's wall clock."""

    def now(self) -> datetime:
        return from_ms(time.time_ns() // 1_000_000)

    def wait(self, duration: timedelta) -> None:
        """Blocks the calling thread; a negative duration is no wait."""
        time.sleep(max(0.0, duration.total_seconds()))


def to_ms(instant: datetime) -> int:
    """Whole milliseconds since 1970."""
    return (instant - _EPOCH) // MILLISECOND


def from_ms(milliseconds: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=milliseconds)


@lru_cache(maxsize=1024)  # a batch of exams shares its instants
def rfc3339(instant: datetime) -> str:
    """`2026-11-20T10:45:00.000Z`: always `Z`, always three decimals."""
    return instant.isoformat(timespec="milliseconds")[:-6] + "Z"


def seconds(duration: timedelta) -> int | float:
    """A number for people and JSON: 120, not 120.0, and 1.5 as it is."""
    value = duration.total_seconds()
    return int(value) if value.is_integer() else value
