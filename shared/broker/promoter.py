"""Makes tasks ready when they fall due, and takes back what lost workers held."""

import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import structlog

from shared.broker.dispatch import REAPED_TOGETHER, Dispatch
from shared.broker.loops import Loop
from shared.broker.room import Room

LOOK_EVERY = timedelta(seconds=1)

# After Redis was away, leases have run out whose workers are well and about to renew them: nothing is taken back
# before they had time to.
REAP_AFTER_S = 5.0
BROKEN_AFTER_S = 3.0

_log = structlog.get_logger(__name__)


class Contact:
    """Since when this process has been talking to Redis without a break; `monotonic` tells seconds.

    It is a break too if one of them stood still, or if Redis's clock was set: leases have run out that nobody had the
    time to renew.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._since: float | None = None
        self._last = 0.0
        self._last_there = timedelta()

    def made(self, there: timedelta) -> None:
        """Redis has answered; `there` is what its clock said."""
        now = self._monotonic()
        here_s, there_s = now - self._last, (there - self._last_there).total_seconds()
        if self._since is None or here_s > BROKEN_AFTER_S or abs(there_s - here_s) > BROKEN_AFTER_S:
            self._since = now
        self._last, self._last_there = now, there

    def lost(self) -> None:
        self._since = None

    @property
    def is_steady(self) -> bool:
        return self._since is not None and self._monotonic() - self._since >= REAP_AFTER_S


class Promoter(Loop):
    """Sleeps until the next task is due, at most LOOK_EVERY, unless `look_again` wakes it for one due before. Every
    worker has one for its queues; that several look at once does no harm. `revoked` is told of tasks that end as such
    when they are taken back.
    """

    def __init__(
        self,
        dispatch: Dispatch,
        queues: Callable[[], Sequence[str]],
        room: Room,
        revoked: Callable[[str], None],
    ) -> None:
        super().__init__()
        self._dispatch = dispatch
        self._queues = queues
        self._room = room
        self._revoked = revoked
        self._contact = Contact()
        self._sooner = threading.Event()

    def look_again(self) -> None:
        self._sooner.set()

    def turn(self) -> None:
        self._sooner.clear()
        queues = self._queues()
        promoted = self._dispatch.promote(queues, wakes_another=not self._room.has_place)
        self._contact.made(promoted.clock)
        self._room.signal(promoted.waiting)
        if promoted.is_lapsed and self._contact.is_steady:
            taken = self._dispatch.reap(queues)
            for task_id, fate in taken:
                _log.warning("taken_back", task_id=task_id, fate=fate)
                if fate == "revoked":
                    self._revoked(task_id)
            if len(taken) >= REAPED_TOGETHER:
                return  # there may be more of them
        next_in = LOOK_EVERY if promoted.next_in is None else promoted.next_in
        self._sooner.wait(min(next_in, LOOK_EVERY).total_seconds())

    def broke_off(self) -> None:
        self._contact.lost()

    def stop(self) -> None:
        super().stop()
        self._sooner.set()
