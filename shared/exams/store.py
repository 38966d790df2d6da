"""What a record store promises. Every store passes tests/integration/test_store_contract.py.

Writes come in batches, because making one thing last costs nearly as much as making fifty last.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from shared.exams.model import Event, Exam, History, Started


class Scan(msgspec.Struct, frozen=True, kw_only=True):
    """Which exams to walk through, newest first: started from `started_from` up to, not at, `started_to`, of one
    candidate, `before` a pk. `running_only` lets a store skip exams that have ended; it may give some all the same.
    """

    started_from: datetime | None = None
    started_to: datetime | None = None
    candidate: str | None = None
    before: str | None = None
    running_only: bool = False


class ExamStore(Protocol):
    """Exams as numbered events. Raises StoreUnavailable when it cannot be read or written."""

    def start(self, starts: Sequence[tuple[str, Started]]) -> list[bool]:
        """Appends event 1 of each new pk, durably. False: the pk was voided meanwhile, nothing started."""

    def append(self, appends: Sequence[tuple[Exam, Event]]) -> list[bool]:
        """Appends event `exam.version + 1` of each, durably. False: somebody else's event has that number."""

    def read(self, pks: Sequence[str]) -> list[History]:
        """The events of each pk, none for a pk unknown. They may not last yet: see make_durable."""

    def make_durable(self, histories: Sequence[History], now: datetime) -> None:
        """Returns once these events would survive a power cut: to be called before answering from somebody else's."""

    def scan(self, scan: Scan) -> Iterator[History]:
        """Walks lazily, newest first; each step reads at most one exam's record."""

    def sweep(self, until: datetime, limit: int) -> tuple[list[History], int]:
        """Exams undecided whose deadline is at or before `until`, at most `limit` looked at; and how many were.

        On the way it voids starts that never finished and files away exams decided already.
        """

    def finish_stale_writes(self, now: datetime) -> None:
        """Completes or drops what writers that died left half-done."""

    def check_writable(self) -> None:
        """Writes and removes something."""


class DigestStore(Protocol):
    """Which outcome is in which digest, and who has been sent it."""

    def unsent(self) -> list[str]:
        """Windows begun and not yet sent to everybody, oldest first."""

    def collect(self, window: str, limit: int) -> list[History]:
        """The exams whose outcomes are this window's, oldest first. The first call takes at most `limit` waiting
        outcomes into it; every later one, by whomever, gives the same."""

    def recipients_served(self, window: str, recipients: Sequence[str]) -> set[str]: ...

    def note_served(self, window: str, recipient: str) -> None: ...

    def close(self, window: str) -> None:
        """Everybody has been sent this window."""
