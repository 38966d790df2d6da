"""How much a process may take, and when its consumers should look: what it holds never exceeds its idle threads."""

import threading
from collections.abc import Iterable


class Room:
    """A place for each thread of the worker; none until `open`. Consumers wait here for a place and for a reason to
    look at their queue: a signal, or tasks that the last look left over.
    """

    def __init__(self) -> None:
        self._places = 0
        self._taken = 0
        self._is_closed = False
        self._is_kept_alone = False
        self._signals: dict[str, int] = {}  # queues worth a look, with how many signals there have been
        lock = threading.Lock()
        self._can_look = threading.Condition(lock)
        self._can_listen = threading.Condition(lock)

    def open(self, places: int) -> None:
        with self._can_look:
            self._places = places
            self._is_closed = False

    def close(self) -> None:
        """Nothing is taken any more."""
        with self._can_look:
            self._is_closed = True
            self._can_look.notify_all()
            self._can_listen.notify_all()

    def signal(self, queues: Iterable[str]) -> None:
        """These queues have something ready."""
        with self._can_look:
            for queue in queues:
                self._signals[queue] = self._signals.get(queue, 0) + 1
            self._can_look.notify_all()

    def take(self, queue: str, timeout_s: float) -> tuple[int, int]:
        """Places for what a look at this queue may find, none where there is no reason to look within the timeout; and
        the signals so far, for `settle`.
        """
        with self._can_look:
            self._can_look.wait_for(lambda: self._is_closed or (queue in self._signals and self._is_free), timeout_s)
            if self._is_closed or queue not in self._signals or not self._is_free:
                return 0, 0
            places = self._places - self._taken
            self._taken += places
            return places, self._signals[queue]

    def settle(self, queue: str, places: int, used: int, signals: int, *, is_more: bool) -> None:
        """The look has used so many of its places. A signal that came while it looked calls for another."""
        with self._can_look:
            self._taken += used - places
            if not is_more and self._signals.get(queue) == signals:
                del self._signals[queue]
            self._notify()

    def reserve_for_one(self) -> bool:
        """Nothing else is taken until what is held has left, one task that runs alone last. False: another one has come
        before it.
        """
        with self._can_look:
            is_first = not self._is_kept_alone
            self._is_kept_alone = True
            return is_first

    def wait_until_alone(self, timeout_s: float) -> bool:
        """Whether the only place taken is that of the task that runs alone."""
        with self._can_look:
            return self._can_look.wait_for(lambda: self._is_closed or self._taken <= 1, timeout_s)

    def leave(self, places: int = 1) -> None:
        with self._can_look:
            self._taken -= places
            if self._taken == 0:
                self._is_kept_alone = False
            self._notify()

    @property
    def places(self) -> int:
        return self._places

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def has_place(self) -> bool:
        with self._can_look:
            return self._is_free

    @property
    def is_vacated(self) -> bool:
        """It is closed, and all that was taken has left: nothing will come from it any more."""
        with self._can_look:
            return self._is_closed and self._taken == 0

    def wait_for_idle(self, timeout_s: float) -> bool:
        """Whether there is a place and nothing to fill it with: time to listen for signals."""
        with self._can_look:
            return self._can_listen.wait_for(lambda: not self._is_closed and self._is_idle, timeout_s)

    @property
    def _is_free(self) -> bool:
        return self._taken < self._places and not self._is_kept_alone and not self._is_closed

    @property
    def _is_idle(self) -> bool:
        return self._is_free and not self._signals

    def _notify(self) -> None:
        if self._is_kept_alone or (self._is_free and self._signals):
            self._can_look.notify_all()
        if self._is_idle:
            self._can_listen.notify_all()
