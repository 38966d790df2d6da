"""The soft time limit: an exception in the body, on time also where it sleeps, so that it can clean up."""

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType

from shared.errors import SoftTimeLimitExceeded

_SHORTEST_S = 1e-6  # less would be no alarm at all


def soft_limit(seconds: float | None) -> AbstractContextManager[None]:
    """Raises SoftTimeLimitExceeded in the block after `seconds`, once, and never outside it. For the main thread, one
    block at a time. SIGALRM and its timer are taken.
    """
    return nullcontext() if seconds is None else _SoftLimit(max(seconds, _SHORTEST_S))


@contextmanager
def held_back() -> Iterator[None]:
    """Meanwhile the limit does not strike: it does right after."""
    limit = _in_force
    if limit is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    limit.is_held_back = True
    try:
        yield
    finally:
        limit.is_held_back = False
        limit.strike_if_due()


class _SoftLimit:
    """Python runs the handler between two steps of the main thread, which may be anywhere, also in `__exit__`: what
    comes there before the end of the block has been noted counts as the body's, and what comes later is ignored.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._strikes_at = math.inf
        self.is_held_back = False

    def __enter__(self) -> None:
        global _in_force
        _in_force = self
        # Never put back: an alarm on its way through another thread would meet the default, which ends the process.
        signal.signal(signal.SIGALRM, _alarm)
        self._strikes_at = time.monotonic() + self._seconds
        signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._strikes_at = math.inf
        signal.setitimer(signal.ITIMER_REAL, 0)

    def strike_if_due(self) -> None:
        """Not an alarm of an earlier block, and not twice."""
        if not self.is_held_back and time.monotonic() >= self._strikes_at:
            self._strikes_at = math.inf
            raise SoftTimeLimitExceeded(f"still running after its soft limit of {self._seconds:g} s")


_in_force: _SoftLimit | None = None


def _alarm(_number: int, _frame: object) -> None:
    if _in_force is not None:
        _in_force.strike_if_due()
