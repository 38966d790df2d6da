"""A clock that tests turn by hand."""

import threading
from datetime import UTC, datetime, timedelta

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


class ManualClock:
    """Stands still until it is moved; waiting moves it, and is remembered. Safe to use from several threads."""

    def __init__(self, now: datetime = NOON) -> None:
        self._now = now
        self._lock = threading.Lock()
        self.waits: list[timedelta] = []

    def now(self) -> datetime:
        with self._lock:
            return self._now

    def wait(self, duration: timedelta) -> None:
        with self._lock:
            self.waits.append(duration)
            self._now += max(timedelta(), duration)

    def move(self, **duration: float) -> None:
        """`move(seconds=120)`"""
        with self._lock:
            self._now += timedelta(**duration)

    def set(self, now: datetime) -> None:
        with self._lock:
            self._now = now
