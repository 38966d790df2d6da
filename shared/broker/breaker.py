"""A circuit breaker: once Redis has failed, callers skip it for a second instead of each waiting for it."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import redis

from shared.broker.asking import translated
from shared.errors import BrokerUnavailable

SKIP_S = 1.0

T = TypeVar("T")


class Breaker:
    """Shared by all threads that use one Redis. `monotonic` tells seconds."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._is_open = False
        self._try_at = 0.0

    def call(self, command: Callable[[], T]) -> T:
        """Raises BrokerUnavailable where Redis fails, or has failed within the last second."""
        with self._lock:
            now = self._monotonic()
            if self._is_open:
                if now < self._try_at:
                    raise BrokerUnavailable("Redis failed a moment ago; it is tried again within a second")
                self._try_at = now + SKIP_S  # this caller tries; the others go on skipping
        try:
            answer = command()
        except redis.RedisError as error:
            with self._lock:
                # An error that Redis itself has answered with, such as a full memory, costs nobody a wait.
                self._is_open = isinstance(error, redis.ConnectionError | redis.TimeoutError)
                self._try_at = self._monotonic() + SKIP_S
            raise translated(error) from error
        with self._lock:
            self._is_open = False
        return answer
