"""Waiting for what other processes do."""

import time
from collections.abc import Callable
from threading import Event
from typing import TypeVar

T = TypeVar("T")

_never = Event()


def eventually(look: Callable[[], T], within_s: float = 10.0, what: str = "it") -> T:
    """The first true answer of `look`, asked again and again for `within_s`; fails the test after that."""
    give_up_at = time.monotonic() + within_s
    while not (answer := look()):
        assert time.monotonic() < give_up_at, f"{what} did not happen within {within_s} s"
        _never.wait(0.02)
    return answer
