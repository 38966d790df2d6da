"""The circuit breaker around Redis."""

import pytest
import redis

from shared.broker.breaker import Breaker
from shared.errors import BrokerUnavailable


class HandTurned:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def monotonic() -> HandTurned:
    return HandTurned()


@pytest.fixture
def breaker(monotonic: HandTurned) -> Breaker:
    return Breaker(monotonic)


def refused() -> str:
    raise redis.ConnectionError("connection refused")


def answer() -> str:
    return "PONG"


def open_it(breaker: Breaker) -> None:
    with pytest.raises(BrokerUnavailable, match="ConnectionError"):
        breaker.call(refused)


def test_an_answer_passes_through(breaker: Breaker) -> None:
    """While Redis answers, the breaker changes nothing."""
    assert [breaker.call(answer), breaker.call(answer)] == ["PONG", "PONG"]


def test_after_a_failure_redis_is_skipped_for_a_second(breaker: Breaker, monotonic: HandTurned) -> None:
    """Up to the end of that second the command is not even tried."""
    open_it(breaker)
    monotonic.seconds += 0.999
    tried: list[str] = []
    with pytest.raises(BrokerUnavailable, match="failed a moment ago"):
        breaker.call(lambda: tried.append("tried"))
    assert tried == []


def test_a_successful_try_after_the_second_closes_it(breaker: Breaker, monotonic: HandTurned) -> None:
    """One answer is enough for all to use Redis again at once."""
    open_it(breaker)
    monotonic.seconds += 1
    assert [breaker.call(answer), breaker.call(answer)] == ["PONG", "PONG"]


def test_a_failed_try_costs_another_second(breaker: Breaker, monotonic: HandTurned) -> None:
    """The second counts from the end of the try, which may itself have taken a while."""

    def times_out() -> str:
        monotonic.seconds += 0.25
        raise redis.TimeoutError("no answer")

    open_it(breaker)
    monotonic.seconds += 1
    with pytest.raises(BrokerUnavailable, match="TimeoutError"):
        breaker.call(times_out)
    monotonic.seconds += 0.999
    with pytest.raises(BrokerUnavailable, match="a moment ago"):
        breaker.call(answer)
    monotonic.seconds += 0.001
    assert breaker.call(answer) == "PONG"


def test_only_one_caller_tries_a_redis_that_has_failed(breaker: Breaker, monotonic: HandTurned) -> None:
    """Who comes while the try is under way skips, so that a Redis that hangs holds up one thread and not all."""

    def answers_after_another_came() -> str:
        with pytest.raises(BrokerUnavailable, match="a moment ago"):
            breaker.call(answer)
        return "PONG"

    open_it(breaker)
    monotonic.seconds += 1
    assert breaker.call(answers_after_another_came) == "PONG"


def test_an_error_that_is_not_redis_s_is_left_alone(breaker: Breaker) -> None:
    """A mistake in our own command is no reason to skip Redis."""

    def mistaken() -> str:
        raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        breaker.call(mistaken)
    assert breaker.call(answer) == "PONG"
