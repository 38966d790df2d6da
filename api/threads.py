"""A bounded pool for blocking calls that are not worth a batch."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

THREADS = 4  # reading is mostly waiting for the disk; more threads would only wait for the interpreter lock

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """Runs a call outside the event loop; at most THREADS run at once, the others wait their turn."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="blocking")

    async def run(self, call: Callable[P, T], *args: P.args, **_none: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call, *args)

    def close(self) -> None:
        self._pool.shutdown(wait=True)
