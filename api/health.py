"""Whether this API can do its work: the store must take writes, the clock must agree with Redis's."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Literal

import msgspec
import redis

from api.keys import KeyFile
from shared.broker.breaker import Breaker
from shared.clock import MILLISECOND, Clock, from_ms
from shared.errors import BrokerUnavailable, StoreUnavailable
from shared.exams.store import ExamStore

LARGEST_OFFSET = timedelta(milliseconds=250)
KEPT_S = 1.0  # probes of an orchestrator and of a load balancer cost one write a second


class Check(msgspec.Struct):
    """How a dependency is, and what is wrong where something is."""

    status: Literal["ok", "degraded", "failing"]
    detail: str | None


class ClockCheck(msgspec.Struct):
    """How far this host's clock is off Redis's; null while that cannot be asked."""

    status: Literal["ok", "failing"]
    offset_ms: int | None


class Checks(msgspec.Struct):
    """Each dependency."""

    store: Check
    keys: Check
    redis: Check
    clock: ClockCheck

    @property
    def is_ready(self) -> bool:
        """Redis is the alarm clock: without it exams go on, so it degrades and does not make unready."""
        return all(check.status == "ok" for check in (self.store, self.keys, self.clock))


class HealthCheck:
    """Looks at most once a second; safe to call from several threads."""

    def __init__(
        self,
        store: ExamStore,
        keys: KeyFile,
        client: "redis.Redis",
        breaker: Breaker,
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._keys = keys
        self._client = client
        self._breaker = breaker
        self._clock = clock
        self._monotonic = monotonic
        self._last: tuple[float, Checks] | None = None

    def look(self) -> Checks:
        now = self._monotonic()
        if self._last is None or now - self._last[0] >= KEPT_S:
            self._last = (now, self._look())
        return self._last[1]

    def _look(self) -> Checks:
        redis_check, offset = self._redis()
        return Checks(
            store=_probe(self._store.check_writable),
            keys=_probe(self._keys.keys),
            redis=redis_check,
            clock=_clock(offset),
        )

    def _redis(self) -> tuple[Check, timedelta | None]:
        before = self._clock.now()
        try:
            seconds, micros = self._breaker.call(self._client.time)
        except BrokerUnavailable as error:
            return Check("degraded", str(error)), None
        middle = before + (self._clock.now() - before) / 2
        return Check("ok", None), middle - from_ms(seconds * 1000 + micros // 1000)


def _probe(probe: Callable[[], object]) -> Check:
    try:
        probe()
    except StoreUnavailable as error:
        return Check("failing", str(error))
    return Check("ok", None)


def _clock(offset: timedelta | None) -> ClockCheck:
    """This host's clock against Redis's, the one clock that all hosts share. Unknown counts as right."""
    if offset is None:
        return ClockCheck("ok", None)
    return ClockCheck("ok" if abs(offset) <= LARGEST_OFFSET else "failing", offset // MILLISECOND)
