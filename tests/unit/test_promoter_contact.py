"""When a promoter may take back what others hold, and what a loop of a worker survives."""

from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from shared.broker.loops import Loop
from shared.broker.promoter import BROKEN_AFTER_S, REAP_AFTER_S, Contact

WITHIN_S = 10.0
A_BIT_S = 0.1


class TwoClocks:
    """Ours and Redis's, each turned by hand, and the contact between them."""

    def __init__(self) -> None:
        self._here, self._there = 1_000.0, timedelta(days=20_000)
        self.contact = Contact(lambda: self._here)
        self.answer_after(0)

    def answer_after(self, here_s: float, there_s: float | None = None) -> None:
        """Redis answers after so long by our clock, and by its own: the same, unless that is given."""
        self._here += here_s
        self._there += timedelta(seconds=here_s if there_s is None else there_s)
        self.contact.made(self._there)

    def answer_until_steady(self) -> None:
        for _ in range(int(REAP_AFTER_S)):
            assert not self.contact.is_steady
            self.answer_after(1)
        assert self.contact.is_steady


@pytest.fixture
def clocks() -> TwoClocks:
    return TwoClocks()


def test_contact_is_steady_after_five_seconds_of_answers(clocks: TwoClocks) -> None:
    assert not Contact().is_steady
    clocks.answer_until_steady()


@pytest.mark.parametrize("step_s", [3_600, BROKEN_AFTER_S + A_BIT_S, -BROKEN_AFTER_S - A_BIT_S, -3_600])
def test_a_step_of_redis_s_clock_breaks_contact_once(clocks: TwoClocks, step_s: float) -> None:
    """Leases have run out whose holders are well; five seconds later they have renewed them."""
    clocks.answer_until_steady()
    clocks.answer_after(1, there_s=1 + step_s)
    clocks.answer_until_steady()


@pytest.mark.parametrize("step_s", [BROKEN_AFTER_S - A_BIT_S, -BROKEN_AFTER_S + A_BIT_S])
def test_clocks_may_differ_a_little(clocks: TwoClocks, step_s: float) -> None:
    clocks.answer_until_steady()
    clocks.answer_after(1, there_s=1 + step_s)
    assert clocks.contact.is_steady


def test_a_long_silence_breaks_contact(clocks: TwoClocks) -> None:
    """Whether this process stood still or Redis did, though no call has failed and both clocks agree."""
    clocks.answer_until_steady()
    clocks.answer_after(BROKEN_AFTER_S - A_BIT_S)
    assert clocks.contact.is_steady
    clocks.answer_after(BROKEN_AFTER_S + A_BIT_S)
    clocks.answer_until_steady()


def test_a_failure_breaks_contact(clocks: TwoClocks) -> None:
    clocks.answer_until_steady()
    clocks.contact.lost()
    assert not clocks.contact.is_steady
    clocks.answer_after(1)
    clocks.answer_until_steady()


class Stumbling(Loop):
    """Its first turn fails; it stops after its second."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = 0

    def turn(self) -> None:
        self.turns += 1
        if self.turns == 1:
            raise KeyError("an oversight")
        self.stop()


def test_a_loop_whose_turn_fails_says_so_and_goes_on() -> None:
    """Also where the error is not Redis's."""
    loop = Stumbling()
    with capture_logs() as logged:
        loop.start()
        loop.join(WITHIN_S)
    assert (loop.turns, loop.is_alive()) == (2, False)
    assert [(entry["event"], entry["loop"]) for entry in logged] == [("loop_stumbled", "Stumbling")]
