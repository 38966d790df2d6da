"""Work in batches."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from api.batches import BATCH, WAITING, Batches
from shared.errors import StoreUnavailable, Unavailable

UNLUCKY, FATAL = -13, -1
WITHIN_S = 20


class Doubling:
    """Work that doubles numbers; UNLUCKY fails alone, FATAL its whole batch. It waits for `go`."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.done = 0
        self.has_begun = threading.Event()
        self.go = threading.Event()

    def __call__(self, numbers: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(numbers))
        self.has_begun.set()
        assert self.go.wait(10)
        if FATAL in numbers:
            raise StoreUnavailable("the disk is full")
        self.done += 1
        return [ValueError("unlucky") if number == UNLUCKY else 2 * number for number in numbers]


Scenario = Callable[[Batches[int, int], Doubling], Coroutine[Any, Any, None]]


def run(scenario: Scenario) -> Doubling:
    """Runs it and gives back what the work saw."""
    work = Doubling()

    async def main() -> None:
        batches = Batches("doubling", work)
        try:
            async with asyncio.timeout(WITHIN_S):
                await scenario(batches, work)
        finally:
            work.go.set()
            batches.close()

    asyncio.run(main())
    return work


async def begin(batches: Batches[int, int], work: Doubling, first: int) -> "asyncio.Task[int]":
    """Sends the first item and returns once its batch is under way."""
    task = asyncio.create_task(batches.do(first))
    assert await asyncio.to_thread(work.has_begun.wait, 10)
    return task


async def queue(batches: Batches[int, int], numbers: Sequence[int]) -> list["asyncio.Task[int]"]:
    """Sends these and returns once all of them wait."""
    tasks = [asyncio.create_task(batches.do(number)) for number in numbers]
    await asyncio.wait(tasks, timeout=0)
    return tasks


def test_a_lone_item_waits_for_nobody() -> None:
    """It is a batch of its own at once."""

    async def scenario(batches: Batches[int, int], work: Doubling) -> None:
        work.go.set()
        assert await batches.do(21) == 42

    assert run(scenario).batches == [[21]]


def test_what_arrives_during_a_batch_becomes_the_next() -> None:
    """In the order it came, each with its own answer."""

    async def scenario(batches: Batches[int, int], work: Doubling) -> None:
        first = await begin(batches, work, 1)
        others = await queue(batches, [5, 3, 4])
        work.go.set()
        assert await asyncio.gather(first, *others) == [2, 10, 6, 8]

    assert run(scenario).batches == [[1], [5, 3, 4]]


def test_a_batch_has_a_limit() -> None:
    """What is beyond it makes another, so that no request waits for an endless one."""

    async def scenario(batches: Batches[int, int], work: Doubling) -> None:
        first = await begin(batches, work, 0)
        others = await queue(batches, range(1, 101))
        work.go.set()
        assert await asyncio.gather(first, *others) == [2 * number for number in range(101)]

    assert [len(batch) for batch in run(scenario).batches] == [1, BATCH, 100 - BATCH]


def test_an_item_s_error_is_its_own() -> None:
    """The others of its batch get their answers."""

    async def scenario(batches: Batches[int, int], work: Doubling) -> None:
        first = await begin(batches, work, 1)
        before, unlucky, after = await queue(batches, [12, UNLUCKY, 14])
        work.go.set()
        assert list(await asyncio.gather(first, before, after)) == [2, 24, 28]
        with pytest.raises(ValueError, match="unlucky"):
            await unlucky

    run(scenario)


def test_a_batch_s_error_is_everybody_s_in_it() -> None:
    """And the batch after it is done as if nothing had happened."""

    async def scenario(batches: Batches[int, int], work: Doubling) -> None:
        first = await begin(batches, work, 1)
        failing = await queue(batches, [2, FATAL])
        work.go.set()
        assert await first == 2
        errors = await asyncio.gather(*failing, return_exceptions=True)
        assert [type(error) for error in errors] == [StoreUnavailable, StoreUnavailable]
        assert await batches.do(4) == 8

    run(scenario)


def test_a_client_that_goes_away_takes_no_other_answer_with_it() -> None:
    """One cancelled while it waits, one while its batch is under way: the rest is answered."""

    async def scenario(batches: Batches[int, int], work: Doubling) -> None:
        under_way = await begin(batches, work, 1)
        waiting, staying = await queue(batches, [2, 3])
        under_way.cancel()
        waiting.cancel()
        work.go.set()
        assert await staying == 6
        assert under_way.cancelled() and waiting.cancelled()

    run(scenario)


def test_too_many_waiting_are_turned_away() -> None:
    """The one beyond the limit is refused at once; those who wait are answered all the same."""

    async def scenario(batches: Batches[int, int], work: Doubling) -> None:
        first = await begin(batches, work, 0)
        others = await queue(batches, range(1, WAITING + 1))
        with pytest.raises(Unavailable, match="too many requests"):
            await batches.do(WAITING + 1)
        work.go.set()
        assert sum(await asyncio.gather(first, *others)) == sum(2 * number for number in range(WAITING + 1))

    run(scenario)


def test_closing_waits_for_the_batch_under_way() -> None:
    """Nothing is cut off half-written when the server ends."""

    async def scenario(batches: Batches[int, int], work: Doubling) -> None:
        first = await begin(batches, work, 7)
        closing = asyncio.create_task(asyncio.to_thread(batches.close))
        await asyncio.wait([closing], timeout=0)
        assert work.done == 0
        work.go.set()
        await closing
        assert work.done == 1
        assert await first == 14

    run(scenario)
