"""Requests that wait for the end of a task: each a coroutine, one subscription a task, one connection to Redis for all.

Who waits for a task is told when it ends, wherever that is. Its state is read from Redis when the first one comes,
again when its end is listened for, and once more when somebody's time is up. Redis may go away meanwhile: the end is
found when it is back, and whose time is up before that gets a 503.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from shared.broker.engine import Engine
from shared.broker.states import TaskState
from shared.errors import BrokerUnavailable, TaskNotFound
from shared.tasks.endings import Endings

LONGEST_S = 25.0
LOOK_AGAIN_S = 1.0  # after a look that has failed; the breaker tries Redis once a second
UNHEARD_S = 1.0  # when nobody waits any more: after answering, and who asks again finds it listened for


def look_ups(engine: Engine) -> Callable[[Sequence[str]], Sequence[TaskState | Exception]]:
    """The work of a batch of look-ups, in one round trip; those of one task are one."""

    def look(task_ids: Sequence[str]) -> Sequence[TaskState | Exception]:
        asked = list(dict.fromkeys(task_ids))
        states = dict(zip(asked, engine.look_up_many(asked), strict=True))
        return [states[task_id] or TaskNotFound() for task_id in task_ids]

    return look


class _Watch:
    """What all who wait for one task share. `end`: how it has ended; `is_over`: that, or the server stops."""

    def __init__(self) -> None:
        self.end: TaskState | None = None
        self.is_over = False
        self.waiting: set[asyncio.Timeout] = set()
        self.listening = ExitStack()
        self.looking: asyncio.Task[None] | None = None

    def wake(self) -> None:
        self.is_over = True
        now = asyncio.get_running_loop().time()
        for scope in self.waiting:
            if not scope.expired():
                scope.reschedule(now)


class LongPolls:
    """`look` reads the state of a task. Raises TaskNotFound or BrokerUnavailable, as all here."""

    def __init__(self, look: Callable[[str], Awaitable[TaskState]], endings: Endings) -> None:
        self._look = look
        self._endings = endings
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="long polls")  # listening takes a call of Redis
        self._watches: dict[str, _Watch] = {}
        self._unwatched: list[_Watch] = []
        self._heard: deque[tuple[str, _Watch, TaskState | None]] = deque()
        self._lock = threading.Lock()
        self._is_stopping = False

    async def state(self, task_id: str, wait_s: float, gone: Callable[[], Awaitable[object]]) -> TaskState:
        """How it has ended, as soon as it has, or how it stands after `wait_s`; nobody cares once `gone` returns."""
        if wait_s == 0 or task_id not in self._watches:  # else it is known to be under way
            state = await self._look(task_id)
            if state.is_over or wait_s == 0 or self._is_stopping:
                return state
        return await self._end(task_id, wait_s, gone) or await self._look(task_id)

    def stop(self) -> None:
        """All who wait are answered now, with the state as it is; nobody waits any more."""
        self._is_stopping = True
        for watch in self._watches.values():
            watch.wake()

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._endings.close()

    async def _end(self, task_id: str, wait_s: float, gone: Callable[[], Awaitable[object]]) -> TaskState | None:
        watch = self._watches.get(task_id) or self._watch(task_id)
        try:
            async with asyncio.timeout(wait_s) as scope:  # the end of the task ends it too: no waiter needs a task
                watch.waiting.add(scope)
                if not watch.is_over:
                    await gone()
        except TimeoutError:
            pass
        finally:
            watch.waiting.discard(scope)
            if not watch.waiting:
                self._unwatch(task_id, watch)
        return watch.end

    def _watch(self, task_id: str) -> _Watch:
        loop = asyncio.get_running_loop()
        watch = self._watches[task_id] = _Watch()

        def hear(state: TaskState | None) -> None:
            with self._lock:
                self._heard.append((task_id, watch, state))
                is_first = len(self._heard) == 1
            if is_first:  # the ends of many tasks come together
                loop.call_soon_threadsafe(self._tell)

        loop.run_in_executor(self._thread, lambda: watch.listening.enter_context(self._endings.heard_by(task_id, hear)))
        return watch

    def _unwatch(self, task_id: str, watch: _Watch) -> None:
        if self._watches.get(task_id) is watch:
            del self._watches[task_id]
        watch.is_over = True
        if watch.looking is not None:
            watch.looking.cancel()
        if not self._unwatched:
            asyncio.get_running_loop().call_later(UNHEARD_S, self._stop_listening)
        self._unwatched.append(watch)

    def _stop_listening(self) -> None:
        watches, self._unwatched = self._unwatched, []
        if not self._is_stopping:
            for watch in watches:
                self._thread.submit(watch.listening.close)

    def _tell(self) -> None:
        while self._heard:
            task_id, watch, state = self._heard.popleft()
            if watch.is_over:
                continue
            if state is not None:
                watch.end = state
                watch.wake()
            elif watch.looking is None or watch.looking.done():
                watch.looking = asyncio.ensure_future(self._look_for_end(task_id, watch))

    async def _look_for_end(self, task_id: str, watch: _Watch) -> None:
        """It may have ended before it was listened for."""
        while True:
            try:
                state = await self._look(task_id)
            except BrokerUnavailable:
                await asyncio.sleep(LOOK_AGAIN_S)
            except TaskNotFound:  # forgotten since: whoever waits finds out by looking
                watch.wake()
                return
            else:
                if state.is_over and not watch.is_over:
                    watch.end = state
                    watch.wake()
                return
