"""Whether this API can do its work: the store must take writes, the clock must agree with Redis's."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

import redis

from api.keys import KeyFile
from shared.broker.breaker import Breaker
from shared.clock import MILLISECOND, Clock, from_ms
from shared.errors import BrokerUnavailable, StoreUnavailable
from shared.exams.store import ExamStore

LARGEST_OFFSET = timedelta(milliseconds=250)
KEPT_S = 1.0  # probes of an orchestrator and of a load balancer cost one write a second


class Health(NamedTuple):
    """`checks` has one entry a dependency: a `status`, and what is wrong where something is."""

    is_ready: bool
    checks: dict[str, dict[str, object]]


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
        self._last: tuple[float, Health] | None = None

    def look(self) -> Health:
        now = self._monotonic()
        if self._last is None or now - self._last[0] >= KEPT_S:
            self._last = (now, self._look())
        return self._last[1]

    def _look(self) -> Health:
        checks = {"store": self._check(self._store.check_writable), "keys": self._check(self._keys.keys)}
        checks["redis"], offset = self._redis()
        checks["clock"] = _clock(offset)
        # Redis is the alarm clock: without it exams go on, so it degrades and does not make unready.
        is_ready = all(checks[name]["status"] == "ok" for name in ("store", "keys", "clock"))
        return Health(is_ready, checks)

    def _check(self, probe: Callable[[], object]) -> dict[str, object]:
        try:
            probe()
        except StoreUnavailable as error:
            return {"status": "failing", "detail": str(error)}
        return {"status": "ok"}

    def _redis(self) -> tuple[dict[str, object], timedelta | None]:
        before = self._clock.now()
        try:
            seconds, micros = self._breaker.call(self._client.time)
        except BrokerUnavailable as error:
            return {"status": "degraded", "detail": str(error)}, None
        middle = before + (self._clock.now() - before) / 2
        return {"status": "ok"}, middle - from_ms(seconds * 1000 + micros // 1000)


def _clock(offset: timedelta | None) -> dict[str, object]:
    """This host's clock against Redis's, the one clock that all hosts share. Unknown counts as right."""
    if offset is None:
        return {"status": "ok", "offset_ms": None}
    is_right = abs(offset) <= LARGEST_OFFSET
    return {"status": "ok" if is_right else "failing", "offset_ms": offset // MILLISECOND}
