"""Work in batches: while one is under way in its thread, what arrives meanwhile becomes the next.

Fifty exams written together cost two folder syncs instead of a hundred and one change of threads instead of fifty;
a lone request waits for nobody.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from shared.errors import Unavailable

BATCH = 64  # at most a few tens of milliseconds of work
WAITING = 2_000  # as many as can be answered within about a second

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batches(Generic[Item, Answer]):
    """Runs `work` in a thread of its own; it answers each item in order, with an exception where that item failed."""

    def __init__(
        self, name: str, work: Callable[[Sequence[Item]], Sequence[Answer | Exception]], waiting: int = WAITING
    ) -> None:
        self._work = work
        self._most_waiting = waiting
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._is_running = False  # a batch is under way, or about to begin

    async def do(self, item: Item) -> Answer:
        """The item's own answer. Raises its exception, the batch's, or Unavailable when too much is waiting."""
        if len(self._waiting) >= self._most_waiting:
            raise Unavailable("too many requests are waiting")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((item, future))
        if not self._is_running:
            self._is_running = True
            loop.call_soon(self._go_on)  # together with what else has just come in
        return await future

    def close(self) -> None:
        """Returns when the batch under way is done."""
        self._thread.shutdown(wait=True)

    def _go_on(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._thread, self._work, [item for item, _ in batch])
        running.add_done_callback(lambda done: self._answer(batch, done))

    def _answer(
        self,
        batch: Sequence[tuple[Item, asyncio.Future[Answer]]],
        done: "asyncio.Future[Sequence[Answer | Exception]]",
    ) -> None:
        error = done.exception()
        answers = [error] * len(batch) if error else done.result()
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.cancelled():
                continue  # its client went away
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)
        self._is_running = bool(self._waiting)
        if self._is_running:
            self._go_on()
