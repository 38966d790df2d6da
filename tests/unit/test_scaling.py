"""How many processes the policy wants, look by look."""

from datetime import timedelta
from typing import Any

import pytest

from worker.scaling import (
    CALM,
    LONGEST_CALM,
    REGRET,
    STARTED_AT_ONCE,
    Bounds,
    Decision,
    Memory,
    Reason,
    Sight,
    after_a_gap,
    decide,
)

BOUNDS = Bounds(8, 1)
THREADS = 8
LOOK_EVERY_S = 0.5
CALM_S = CALM.total_seconds()


def a_sight(at_s: float = 0.0, **seen: Any) -> Sight:
    """One process that serves and has nothing to do, but for what is given; `oldest_s` in seconds."""
    oldest = timedelta(seconds=seen.pop("oldest_s", 0.0))
    present = seen.pop("present", 1)
    values = {"waiting": 0, "running": 0, "serving": present} | seen
    return Sight(at_s=at_s, oldest=oldest, present=present, **values)


def decided(sight: Sight, memory: Memory | None = None, bounds: Bounds = BOUNDS) -> Decision:
    return decide(bounds, THREADS, sight, memory or Memory())[0]


class Run:
    """Looks in a row; each time as many processes serve as the look before has decided."""

    def __init__(self, present: int = 1, bounds: Bounds = BOUNDS) -> None:
        self.present = present
        self.at_s = 0.0
        self.memory = Memory()
        self._bounds = bounds

    def look(self, seconds: float = LOOK_EVERY_S, **seen: Any) -> list[int]:
        """How many there were after each look of so many seconds with nothing else to see."""
        presents = []
        for _ in range(round(seconds / LOOK_EVERY_S)):
            self.at_s += LOOK_EVERY_S
            sight = a_sight(self.at_s, present=self.present, **seen)
            decision, self.memory = decide(self._bounds, THREADS, sight, self.memory)
            self.present = decision.to
            presents.append(self.present)
        return presents


@pytest.mark.parametrize(
    ("seen", "to", "reason"),
    [
        ({}, 1, Reason.NOTHING_WAITS),
        ({"running": 8}, 1, Reason.NOTHING_WAITS),
        # A backlog without age: it has just come, and may be gone at the next look.
        ({"waiting": 10_000, "running": 8, "oldest_s": 0.4}, 1, Reason.NOTHING_WAITS_LONG),
        # Age without a backlog: what waits has a thread that waits for it, and another would not take it either.
        ({"waiting": 1, "running": 3, "oldest_s": 60}, 1, Reason.ENOUGH),
        ({"waiting": 5, "running": 3, "oldest_s": 60}, 1, Reason.ENOUGH),
        # A thread for each of those that wait, and as many processes as that takes.
        ({"waiting": 1, "running": 8, "oldest_s": 0.5}, 2, Reason.TOO_SLOW),
        ({"waiting": 8, "running": 8, "oldest_s": 1}, 2, Reason.TOO_SLOW),
        ({"waiting": 9, "running": 8, "oldest_s": 1}, 3, Reason.TOO_SLOW),
        ({"waiting": 10_000, "running": 8, "oldest_s": 1}, 8, Reason.TOO_SLOW),
        ({"waiting": 10_000, "running": 64, "oldest_s": 60, "present": 8}, 8, Reason.TOO_SLOW),
        # Those that boot are there already, and nobody knows what they will do.
        ({"waiting": 8, "running": 8, "oldest_s": 5, "present": 2, "serving": 1}, 2, Reason.ENOUGH),
        ({"waiting": 9, "running": 8, "oldest_s": 5, "present": 2, "serving": 1}, 3, Reason.TOO_SLOW),
        ({"waiting": 10_000, "oldest_s": 5, "serving": 0}, 1, Reason.NONE_SERVES),
        # What those hold that drain, or what is held in batches, is no work for new ones.
        ({"waiting": 1, "running": 64, "oldest_s": 1}, 2, Reason.TOO_SLOW),
        ({"waiting": 1, "running": 800, "oldest_s": 1, "present": 2}, 3, Reason.TOO_SLOW),
    ],
)
def test_what_a_first_look_leads_to(seen: dict[str, Any], to: int, reason: Reason) -> None:
    """Nothing is known of how fast the tasks are."""
    assert decided(a_sight(**seen)) == (to, reason)


@pytest.mark.parametrize(
    ("before", "now", "to"),
    [
        (5_000, 4_000, 1),  # 2,000 a second, so in two seconds one clears 4,000
        (5_001, 4_001, 2),
        (9_000, 8_000, 2),
        (9_000, 8_001, 3),
        (20, 19, 4),  # a thread for each is less than what it would take to be done in two seconds
        (20, 20, 4),
        (19, 20, 4),
        (0, 20, 4),
    ],
)
def test_the_faster_the_tasks_the_fewer_processes_are_started(before: int, now: int, to: int) -> None:
    """Half a second after the last look, with one process: as many as will be done with what waits in two seconds."""
    memory = Memory(last=a_sight(waiting=before, running=8))
    assert decided(a_sight(0.5, waiting=now, running=8, oldest_s=1.5), memory).to == to


@pytest.mark.parametrize(
    ("after_s", "serving", "to"), [(0.5, 1, 3), (1.0, 1, 6), (0.5, 2, 6), (1.0, 2, 12), (0.25, 2, 3)]
)
def test_the_speed_is_that_of_each_which_serves(after_s: float, serving: int, to: int) -> None:
    """1,000 fewer wait than so long ago; 12,000 are left."""
    memory = Memory(last=a_sight(waiting=13_000))
    sight = a_sight(after_s, waiting=12_000, running=8, oldest_s=1.5, present=serving)
    assert decided(sight, memory, Bounds(64, 1)).to == min(to, serving + STARTED_AT_ONCE)


def test_what_was_not_there_at_the_last_look_is_looked_at_once_more() -> None:
    """However long ago that was: nobody knows yet how fast it goes."""
    memory = Memory(last=a_sight())
    assert decided(a_sight(3, waiting=1_000, running=8, oldest_s=2.9), memory) == (1, Reason.NOTHING_WAITS_LONG)
    assert decided(a_sight(3, waiting=1_000, running=8, oldest_s=3.1), memory) == (8, Reason.TOO_SLOW)


def test_those_that_boot_are_taken_to_be_as_fast() -> None:
    """One does 1,000 a second; with the seven that boot 10,000 will be gone in 1.25 s."""
    memory = Memory(last=a_sight(waiting=10_500))
    sight = a_sight(0.5, waiting=10_000, running=8, oldest_s=3, present=8, serving=1)
    assert decided(sight, memory, Bounds(64, 1)) == (8, Reason.ENOUGH)


def test_eight_are_started_at_once_and_no_more() -> None:
    """The next eight half a second later, up to the most allowed."""
    run = Run(bounds=Bounds(30, 1))
    assert run.look(2.5, waiting=10_000, running=8, oldest_s=5) == [9, 17, 25, 30, 30]


def test_no_more_than_allowed_and_no_fewer() -> None:
    """Where the bounds are one, nothing ever changes."""
    run = Run(present=3, bounds=Bounds(3, 3))
    assert run.look(2, waiting=10_000, running=24, oldest_s=5) == [3] * 4
    assert run.look(100) == [3] * 200


def test_one_goes_after_each_calm_down_to_the_fewest() -> None:
    """Not before one fewer has been enough for ten seconds, and the next ten seconds later."""
    run = Run(present=4, bounds=Bounds(8, 2))
    assert run.look(CALM_S) == [4] * 20
    assert run.look() == [3]
    assert run.look(CALM_S) == [3] * 20
    assert run.look() == [2]
    assert run.look(10 * CALM_S) == [2] * 200


@pytest.mark.parametrize(
    ("running", "waiting", "goes"), [(6, 0, True), (7, 0, False), (4, 2, True), (3, 4, False), (16, 0, False)]
)
def test_one_goes_only_if_the_others_have_some_room_left(running: int, waiting: int, goes: bool) -> None:
    """Of two processes of eight threads: a fifth of those of the other."""
    run = Run(present=2)
    assert (run.look(CALM_S + LOOK_EVERY_S, running=running, waiting=waiting)[-1] == 1) == goes


def test_a_single_busy_look_starts_the_calm_anew() -> None:
    """What comes every few seconds is still wanted."""
    run = Run(present=2)
    for _ in range(10):
        assert run.look(CALM_S - LOOK_EVERY_S) == [2] * 19
        assert run.look(running=16) == [2]


def test_growing_starts_the_calm_anew() -> None:
    """The busiest moment has been just now."""
    run = Run(present=2)
    run.look(CALM_S)
    assert run.look(waiting=3, running=16, oldest_s=2) == [3]
    assert run.look(CALM_S) == [3] * 20
    assert run.look() == [2]


def grow_and_shrink(run: Run) -> float:
    """For how many seconds the second process stayed without anything to do."""
    assert run.look(waiting=4, running=8, oldest_s=2) == [2]
    begin_s = run.at_s
    while run.present == 2:
        run.look()
    return run.at_s - begin_s - LOOK_EVERY_S


def test_a_load_that_comes_back_soon_finds_more_and_more_patience() -> None:
    """Each time one has gone too early the next stays twice as long; after a quiet minute as short as at first."""
    run = Run()
    stays = [grow_and_shrink(run) for _ in range(6)]
    assert stays == [CALM_S * times for times in (1, 2, 4, 8, 16, 16)]
    assert stays[-1] == LONGEST_CALM.total_seconds()
    run.look(REGRET.total_seconds())
    assert grow_and_shrink(run) == CALM_S


def test_a_load_that_comes_and_goes_changes_nothing() -> None:
    """Two busy seconds in each five: the first time another process is started, and it stays."""
    run = Run()
    presents = [
        present
        for _ in range(40)
        for present in (*run.look(2, waiting=6, running=8, oldest_s=1.5), *run.look(3, running=2))
    ]
    assert set(presents) == {2}


def test_a_gap_starts_the_calm_anew_and_says_nothing_of_the_speed() -> None:
    """Redis was away: nobody knows what was busy meanwhile, nor how long 9,000 fewer took."""
    run = Run(present=2)
    run.look(CALM_S)
    run.memory = after_a_gap(run.memory)
    assert run.look(CALM_S) == [2] * 20
    assert run.look() == [1]
    memory = after_a_gap(Memory(last=a_sight(waiting=10_000)))
    assert decided(a_sight(60, waiting=1_000, running=8, oldest_s=5), memory).to == BOUNDS.most


def test_a_large_backlog_is_answered_within_two_looks() -> None:
    """10,000 tasks that come just after a look, 160 of them done a second: at the second look after that, all."""
    run = Run()
    left, presents = 10_000, []
    for look in range(1, 5):
        presents += run.look(waiting=left, running=8, oldest_s=look * LOOK_EVERY_S - 0.01)
        left -= 80
    assert presents == [1, 8, 8, 8]
