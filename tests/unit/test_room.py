"""The room of a worker process: who may look for tasks, when, and for how many."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from shared.broker.room import Room

WITHIN_S = 10.0
A_MOMENT_S = 0.05


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def opened(places: int = 2, signalled: tuple[str, ...] = ("q",)) -> Room:
    room = Room()
    room.open(places)
    room.signal(signalled)
    return room


def still_waits(future: "Future[Any]") -> bool:
    try:
        future.result(A_MOMENT_S)
    except TimeoutError:
        return True
    return False


# Taking


def test_there_is_no_place_until_it_is_opened() -> None:
    room = Room()
    room.signal(["q"])
    assert not room.has_place
    assert room.take("q", 0) == (0, 0)
    room.open(3)
    assert room.has_place
    assert room.take("q", 0) == (3, 1)


def test_a_look_gets_all_places_that_are_free() -> None:
    """So that a second look at the same time finds none."""
    room = opened(3, ("q", "r"))
    assert room.take("q", 0) == (3, 1)
    assert not room.has_place
    assert room.take("r", 0) == (0, 0)
    room.settle("q", 3, 1, 1, is_more=False)
    assert room.take("r", 0) == (2, 1)


def test_without_a_signal_nobody_looks() -> None:
    room = opened(2, ("q",))
    assert room.take("r", 0) == (0, 0)
    assert room.take("r", A_MOMENT_S) == (0, 0)


def test_a_look_that_found_all_needs_another_signal() -> None:
    room = opened()
    room.take("q", 0)
    room.settle("q", 2, 1, 1, is_more=False)
    assert room.take("q", 0) == (0, 0)
    room.signal(["q"])
    assert room.take("q", 0) == (1, 1)


def test_a_look_that_left_some_over_needs_no_signal() -> None:
    """But a place."""
    room = opened()
    room.take("q", 0)
    room.settle("q", 2, 2, 1, is_more=True)
    assert room.take("q", 0) == (0, 0)
    room.leave()
    assert room.take("q", 0) == (1, 1)


def test_a_look_that_failed_or_found_nothing_frees_all_its_places() -> None:
    room = opened(4)
    room.take("q", 0)
    room.settle("q", 4, 0, 1, is_more=False)
    room.signal(["q"])
    assert room.take("q", 0) == (4, 1)


def test_a_look_that_brings_more_than_it_has_places_for_frees_none_until_the_excess_has_left() -> None:
    room = opened(2, ("q", "r"))
    room.settle("q", room.take("q", 0)[0], 5, 1, is_more=True)
    assert not room.has_place
    room.leave(3)
    assert not room.has_place
    assert room.take("r", 0) == (0, 0)
    room.leave()
    assert room.take("r", 0) == (1, 1)


def test_each_queue_has_signals_of_its_own() -> None:
    room = opened(1, ("q", "r"))
    places, signals = room.take("q", 0)
    room.settle("q", places, 0, signals, is_more=False)
    assert room.take("q", 0) == (0, 0)
    assert room.take("r", 0) == (1, 1)


# A signal and a look at the same time


def test_a_signal_that_comes_while_somebody_looks_calls_for_another_look() -> None:
    """What it stands for may have become ready just after the look."""
    room = opened()
    places, signals = room.take("q", 0)
    room.signal(["q"])
    room.settle("q", places, 0, signals, is_more=False)
    assert room.take("q", 0) == (2, 2)


def test_a_signal_that_comes_after_the_look_calls_for_another_look() -> None:
    room = opened()
    places, signals = room.take("q", 0)
    room.settle("q", places, 0, signals, is_more=False)
    room.signal(["q"])
    assert room.take("q", 0)[0] == 2


def test_a_signal_of_another_queue_calls_for_no_look_at_this_one() -> None:
    room = opened()
    places, signals = room.take("q", 0)
    room.signal(["r"])
    room.settle("q", places, 0, signals, is_more=False)
    assert room.take("q", 0) == (0, 0)


def test_signals_while_many_look_are_never_lost(pool: ThreadPoolExecutor) -> None:
    """After each signal there is a look that began after it."""
    room, rounds = opened(1, ()), 500
    looked_after: list[int] = []
    signalled = [0]

    def look() -> None:
        while looked_after[-1:] != [rounds]:
            places, signals = room.take("q", WITHIN_S)
            assert places, "a signal was lost"
            looked_after.append(signalled[0])
            room.settle("q", places, 0, signals, is_more=False)

    looking = pool.submit(look)
    for number in range(1, rounds + 1):
        signalled[0] = number
        room.signal(["q"])
    looking.result(WITHIN_S)


# Waiting


def test_who_waits_for_a_reason_is_woken_by_a_signal(pool: ThreadPoolExecutor) -> None:
    room = opened(2, ())
    looking = pool.submit(room.take, "q", WITHIN_S)
    assert still_waits(looking)
    room.signal(["other"])
    assert still_waits(looking)
    room.signal(["q"])
    assert looking.result(WITHIN_S) == (2, 1)


def test_who_waits_for_a_place_is_woken_when_a_run_ends(pool: ThreadPoolExecutor) -> None:
    room = opened(2)
    room.settle("q", room.take("q", 0)[0], 2, 1, is_more=True)
    looking = pool.submit(room.take, "q", WITHIN_S)
    assert still_waits(looking)
    room.leave()
    assert looking.result(WITHIN_S) == (1, 1)


def test_who_waits_for_a_place_is_woken_when_a_look_needed_fewer(pool: ThreadPoolExecutor) -> None:
    room = opened(2, ("q", "r"))
    room.take("q", 0)
    looking = pool.submit(room.take, "r", WITHIN_S)
    assert still_waits(looking)
    room.settle("q", 2, 1, 1, is_more=False)
    assert looking.result(WITHIN_S) == (1, 1)


def test_of_many_who_wait_for_one_place_one_gets_it(pool: ThreadPoolExecutor) -> None:
    queues = [f"queue-{number}" for number in range(6)]
    room = opened(1, ())
    looking = [pool.submit(room.take, queue, A_MOMENT_S * 4) for queue in queues]
    room.signal(queues)
    assert sorted(each.result(WITHIN_S)[0] for each in looking) == [0, 0, 0, 0, 0, 1]


# Closing


def test_after_it_is_closed_nobody_takes_anything() -> None:
    room = opened()
    assert not room.is_closed
    room.close()
    assert room.is_closed
    assert not room.has_place
    assert room.take("q", WITHIN_S) == (0, 0)
    assert not room.wait_for_idle(0)


def test_closing_wakes_all_who_wait(pool: ThreadPoolExecutor) -> None:
    """At once, for a reason to look or for a task that runs alone; one who listens may wait on, and hears nothing."""
    room = opened(2)
    room.settle("q", room.take("q", 0)[0], 2, 1, is_more=True)
    looking = [pool.submit(room.take, queue, WITHIN_S) for queue in ("q", "r")]
    alone = pool.submit(room.wait_until_alone, WITHIN_S)
    waiting: list[Future[Any]] = [*looking, alone]
    assert all(still_waits(each) for each in waiting)
    room.close()
    assert [each.result(A_MOMENT_S * 20) for each in looking] == [(0, 0), (0, 0)]
    assert alone.result(A_MOMENT_S * 20) is True


def test_what_was_taken_before_it_is_closed_can_be_settled_and_left() -> None:
    room = opened()
    places, signals = room.take("q", 0)
    room.close()
    room.settle("q", places, 1, signals, is_more=True)
    room.leave()
    room.open(2)
    assert room.take("q", 0) == (2, 1)


# Listening


def test_it_is_idle_while_there_is_a_place_and_nothing_to_fill_it_with() -> None:
    room = opened(1, ())
    assert room.wait_for_idle(0)
    room.signal(["q"])
    assert not room.wait_for_idle(0)
    places, signals = room.take("q", 0)
    assert not room.wait_for_idle(0)
    room.settle("q", places, 1, signals, is_more=False)
    assert not room.wait_for_idle(0)
    room.leave()
    assert room.wait_for_idle(0)


@pytest.mark.parametrize("used", [0, 1])
def test_who_waits_to_listen_is_woken_once_it_is_idle(pool: ThreadPoolExecutor, used: int) -> None:
    room = opened(1)
    listening = pool.submit(room.wait_for_idle, WITHIN_S)
    places, signals = room.take("q", 0)
    assert still_waits(listening)
    room.settle("q", places, used, signals, is_more=False)
    if used:
        assert still_waits(listening)
        room.leave()
    assert listening.result(WITHIN_S) is True


# A task that runs alone


def test_a_task_that_runs_alone_waits_until_the_others_have_left(pool: ThreadPoolExecutor) -> None:
    room = opened(3)
    room.settle("q", room.take("q", 0)[0], 2, 1, is_more=False)
    assert room.reserve_for_one()
    assert not room.wait_until_alone(0)
    waiting = pool.submit(room.wait_until_alone, WITHIN_S)
    assert still_waits(waiting)
    room.leave()
    assert waiting.result(WITHIN_S) is True


def test_nothing_is_taken_beside_a_task_that_runs_alone(pool: ThreadPoolExecutor) -> None:
    """Nor listened for."""
    room = opened(3)
    room.settle("q", room.take("q", 0)[0], 1, 1, is_more=True)
    assert room.reserve_for_one()
    assert room.wait_until_alone(0)
    assert not room.has_place
    assert not room.wait_for_idle(0)
    looking = pool.submit(room.take, "q", WITHIN_S)
    room.signal(["q"])
    assert still_waits(looking)
    room.leave()
    assert looking.result(WITHIN_S)[0] == 3


def test_the_places_are_kept_until_the_last_has_left() -> None:
    room = opened(3)
    room.settle("q", room.take("q", 0)[0], 2, 1, is_more=True)
    room.reserve_for_one()
    room.leave()
    assert not room.has_place
    room.leave()
    assert room.has_place


def test_of_two_tasks_that_are_to_run_alone_the_second_is_turned_away() -> None:
    """Each would wait for the other to leave."""
    room = opened(2, ("q", "r"))
    room.settle("q", room.take("q", 0)[0], 1, 1, is_more=False)
    assert room.take("r", 0) == (1, 1)
    assert room.reserve_for_one()
    room.settle("r", 1, 1, 1, is_more=False)
    assert not room.reserve_for_one()
    assert not room.wait_until_alone(0)
    room.leave()
    assert room.wait_until_alone(0)
    room.leave()
    assert room.has_place


def test_several_places_can_be_left_at_once() -> None:
    room = opened(4)
    room.settle("q", room.take("q", 0)[0], 3, 1, is_more=True)
    room.leave(2)
    assert room.take("q", 0) == (3, 1)


@pytest.mark.parametrize("places", [1, 3])
def test_never_more_is_held_than_there_are_places(pool: ThreadPoolExecutor, places: int) -> None:
    """However many queues are looked at while runs end."""
    room = opened(places, ())
    lock, held, most = threading.Lock(), [0], [0]

    def work(queue: str) -> None:
        for number in range(200):
            room.signal([queue])
            free, signals = room.take(queue, WITHIN_S)
            assert free, "it was never woken"
            used = min(free, number % 3)
            with lock:
                held[0] += used
                most.append(held[0])
            room.settle(queue, free, used, signals, is_more=bool(number % 2))
            with lock:
                held[0] -= used
            if used:
                room.leave(used)

    for each in [pool.submit(work, f"queue-{number}") for number in range(4)]:
        each.result(WITHIN_S)
    assert max(most) <= places
    assert room.has_place
