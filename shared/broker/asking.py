"""Asking Redis to run a script, and what becomes of its errors."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import redis

from shared.broker.scripts import Argument, Exchange, Script
from shared.clock import MILLISECOND, to_ms
from shared.errors import BrokerRefuses, BrokerUnavailable
from shared.redis_keys import RedisKeys

Due = datetime | timedelta | None
"""An instant, a while from now by Redis's clock, or None for at once."""

Guard = Callable[[Callable[[], Any]], Any]


def unguarded(call: Callable[[], Any]) -> Any:
    """Raises BrokerUnavailable where Redis fails."""
    try:
        return call()
    except redis.RedisError as error:
        raise translated(error) from error


def translated(error: redis.RedisError) -> BrokerUnavailable:
    kind = BrokerRefuses if isinstance(error, redis.ResponseError) else BrokerUnavailable
    return kind(f"Redis cannot be used: {type(error).__name__}: {error}")


class Asking:
    """Scripts by name. Raises BrokerUnavailable where Redis fails; what was asked may have been done all the same, and
    may be asked again: no script does a thing twice for one nonce or token. What has taken something away (`finish`,
    `retry`, `discard`, `forget`) answers the second time that it is not there.

    `guard` calls Redis for us, as Breaker.call does. `tries_again` is asked when Redis is out of reach or refuses, and
    may wait.
    """

    def __init__(self, exchange: Exchange, keys: RedisKeys, guard: Guard = unguarded) -> None:
        self._exchange = exchange
        self._keys = keys
        self._guard = guard
        self._scripts: dict[str, Script] = {}
        self.tries_again: Callable[[BrokerUnavailable], bool] = lambda _error: False

    def one(self, name: str, *arguments: Argument) -> Any:
        """The answer to one call."""
        return self.each(name, [arguments])[0]

    def text(self, name: str, *arguments: Argument) -> str:
        answer: bytes = self.one(name, *arguments)
        return answer.decode()

    def each(self, name: str, calls: Sequence[Sequence[Argument]], *, is_patient: bool = True) -> list[Any]:
        """The answers to several calls, sent together. The first error is raised once all have been answered.

        Unless it `is_patient`, nothing is tried again.
        """
        if not calls:
            return []
        if name not in self._scripts:
            self._scripts[name] = Script(name, self._keys)
        script = self._scripts[name]
        prepared = [(script, arguments) for arguments in calls]
        while True:
            try:
                answers: list[Any] = self._guard(lambda: _checked(self._exchange(prepared)))
            except BrokerUnavailable as error:
                if not is_patient or not self.tries_again(error):
                    raise
            else:
                return answers


def in_script(due: Due) -> str:
    """As lua/lib/schedule.lua reads it. A while is rounded up to a ms, never down."""
    if due is None:
        return "0"
    if isinstance(due, timedelta):
        return f"+{max(0, -(-due // MILLISECOND))}"
    return str(to_ms(due))


def _checked(answers: list[Any]) -> list[Any]:
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers
