"""Exam keys: UUID version 7 (RFC 9562), whose first 48 bits are the start in ms since 1970.

So a pk tells in which folder its exam lies, and pks sort by start.
"""

import os
import re
from datetime import datetime

from shared.clock import from_ms, to_ms

CANONICAL = "[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
_LATEST_MS = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z, the last instant a datetime can hold


def new_pk(started_at: datetime) -> str:
    """A fresh pk: 48 bits of time, 74 of chance."""
    chance = int.from_bytes(os.urandom(10), "big")
    high, low = chance >> 68, chance & ((1 << 62) - 1)
    text = f"{to_ms(started_at) << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def is_pk(text: str) -> bool:
    """Whether `text` is a pk in its one canonical spelling (36 characters, lower case)."""
    return re.fullmatch(CANONICAL, text) is not None and _milliseconds(text) <= _LATEST_MS


def started_at(pk: str) -> datetime:
    return from_ms(_milliseconds(pk))


def first_pk_of(instant: datetime) -> str:
    """A text that sorts before every pk of an exam started at `instant` or later, and after all earlier ones."""
    text = f"{max(0, to_ms(instant)):012x}"
    return f"{text[:8]}-{text[8:]}"


def _milliseconds(pk: str) -> int:
    return int(pk[:8] + pk[9:13], 16)
