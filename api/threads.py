"""A bounded pool for blocking calls that are not worth a batch."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from shared.errors import Unavailable

READERS = 4  # reading is mostly waiting for the disk; more threads would only wait for the interpreter lock
CALLERS = 8  # of Redis, which answers within a ms; some read or write a file too
WAITING = 200  # as many lists as are answered in some seconds

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """Runs calls outside the event loop, at most `count` at once; WAITING others wait their turn."""

    def __init__(self, name: str, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)
        self._room = WAITING + count

    async def run(self, call: Callable[P, T], *args: P.args, **_none: P.kwargs) -> T:
        """Raises Unavailable when too many are waiting."""
        if self._room == 0:
            raise Unavailable("too many requests are waiting")
        self._room -= 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, call, *args)
        finally:
            self._room += 1

    def close(self) -> None:
        self._pool.shutdown(wait=True)
