"""What came of a task, for whoever holds its id."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from shared.broker.record import pack_id
from shared.broker.states import State, TaskState
from shared.errors import (
    BrokerUnavailable,
    InvalidInput,
    InvigilError,
    TaskConflict,
    TaskFailed,
    TaskIgnored,
    TaskNotFound,
    TaskRevoked,
)
from shared.tasks.connection import connected

if TYPE_CHECKING:
    from shared.tasks.sender import TaskSender

R = TypeVar("R")

# An end is told at once. Should that be lost with a connection, it is found by looking, this often.
LOOK_EVERY_S = 5.0
TRY_AGAIN_S = 1.0  # after Redis was out of reach


class AsyncResult(Generic[R]):
    """A task by its id, in any process. Every property asks Redis, until the task has ended.

    All raise TaskNotFound for an id that no task has or had lately, and BrokerUnavailable.
    """

    def __init__(self, task_id: str, tasks: "TaskSender | None" = None) -> None:
        self.id = task_id
        self._tasks = tasks or connected()
        self._over: TaskState | None = None

    def __repr__(self) -> str:
        return f"<AsyncResult {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncResult) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def task_id(self) -> str:
        return self.id

    def look(self) -> TaskState:
        """All that is known of it now."""
        return self._look()

    @property
    def state(self) -> State:
        return self.look().state

    @property
    def status(self) -> State:
        """The same: Celery has both names."""
        return self.state

    @property
    def result(self) -> Any:
        """What the body has returned; the exception that `get` would raise; None until it has ended."""
        state = self.look()
        if not state.is_over:
            return None
        return self._value(state) if state.state is State.SUCCESS else _error(state)

    @property
    def info(self) -> Any:
        """The result, or until there is one what the body has told of its progress."""
        state = self.look()
        return self.result if state.is_over else state.progress

    @property
    def traceback(self) -> str | None:
        error = self.look().error
        return None if error is None else error.traceback

    @property
    def retries(self) -> int:
        return self.look().retries

    @property
    def time_taken(self) -> timedelta | None:
        """How long the last run took."""
        return self.look().time_taken

    @property
    def expires(self) -> datetime | None:
        """When it is revoked unless it has begun, in UTC."""
        return self.look().expires_at

    def ready(self) -> bool:
        return self.look().is_over

    def successful(self) -> bool:
        return self.state is State.SUCCESS

    def failed(self) -> bool:
        return self.state is State.FAILURE

    def get(self, timeout: float | None = None, propagate: bool = True) -> R:
        """The result, as soon as there is one; `timeout` in seconds. An outage of Redis meanwhile is waited out.

        Raises TimeoutError; TaskFailed, TaskRevoked or TaskIgnored where there will be none, unless `propagate` is
        false: then it returns that exception.
        """
        state = self._wait(timeout)
        if state.state is State.SUCCESS:
            return cast(R, self._value(state))
        error = _error(state)
        if propagate:
            raise error
        return cast(R, error)

    def revoke(self, terminate: bool = False) -> str:
        """`revoked`, `terminated`, `running` or `too_late`. `terminate` ends a run that has begun."""
        return self._tasks.revoke(_possible(self.id), terminate=terminate)

    def forget(self) -> None:
        """Removes what is known of its end, its result included. Raises TaskConflict where it has not ended."""
        self._tasks.forget(_possible(self.id))
        self._over = None

    @property
    def _ids(self) -> list[str]:
        """Of all whose ends tell something of its own."""
        return [self.id]

    def _find(self, *, is_patient: bool) -> TaskState:
        return self._tasks.engine.look_up(_possible(self.id), is_patient=is_patient)

    def _look(self, *, is_patient: bool = True) -> TaskState:
        if self._over is not None:
            return self._over
        state = self._find(is_patient=is_patient)
        if state.is_over:
            self._over = state
        return state

    def _wait(self, timeout: float | None) -> TaskState:
        left = remaining(timeout)
        state = self._first_look(left)
        if state.is_over:
            return state
        woken = threading.Event()

        def hear(over: TaskState | None) -> None:
            if over is not None and over.id == self.id:
                self._over = over
            woken.set()

        pause = LOOK_EVERY_S
        with contextlib.ExitStack() as heard:
            for task_id in self._ids:
                heard.enter_context(self._tasks.endings.heard_by(task_id, hear))
            while not state.is_over:
                seconds = left()
                if seconds is not None and seconds <= 0:
                    raise TimeoutError(f"{self.id} has not ended within {timeout} s: {state.state}")
                woken.wait(pause if seconds is None else min(seconds, pause))
                woken.clear()
                try:
                    state = self._look(is_patient=False)
                    pause = LOOK_EVERY_S
                except BrokerUnavailable:
                    pause = TRY_AGAIN_S
        return state

    def _first_look(self, left: Callable[[], float | None]) -> TaskState:
        """In a run Redis is waited for, as it always is there, but no longer than for the end."""
        while True:
            try:
                return self._look(is_patient=False)
            except BrokerUnavailable as error:
                if left() == 0 or not self._tasks.engine.tries_again(error):
                    raise

    def _value(self, state: TaskState) -> Any:
        return self._tasks.result_of(state)


class GroupResult(Sequence[AsyncResult[Any]]):
    """Several tasks that were sent together."""

    def __init__(self, results: Sequence[AsyncResult[Any]]) -> None:
        self.results = list(results)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, index: Any) -> Any:
        return self.results[index]

    def __iter__(self) -> Iterator[AsyncResult[Any]]:
        return iter(self.results)

    def completed_count(self) -> int:
        """How many have ended as SUCCESS."""
        return sum(state.state is State.SUCCESS for state in self._look())

    def ready(self) -> bool:
        return all(state.is_over for state in self._look())

    def successful(self) -> bool:
        return all(state.state is State.SUCCESS for state in self._look())

    def failed(self) -> bool:
        """Whether any has."""
        return any(state.state is State.FAILURE for state in self._look())

    def get(self, timeout: float | None = None, propagate: bool = True) -> list[Any]:
        """All results, in order. Raises as AsyncResult.get, for the first that has none; `timeout` is for all."""
        left = remaining(timeout)
        return [result.get(left(), propagate) for result in self.results]

    def revoke(self, terminate: bool = False) -> list[str]:
        """What each answers; `unknown` for one of which nothing is known."""
        return [_revoked(result, terminate) for result in self.results]

    def forget(self) -> None:
        """All that have ended. Raises TaskConflict, then, where one has not."""
        conflicts = []
        for result in self.results:
            try:
                result.forget()
            except TaskConflict as conflict:
                conflicts.append(conflict)
            except TaskNotFound:  # forgotten by itself
                pass
        if conflicts:
            raise conflicts[0]

    def _look(self) -> list[TaskState]:
        return [result.look() for result in self.results]


def remaining(timeout: float | None) -> Callable[[], float | None]:
    """How much of a timeout in seconds is left whenever it is asked; None for none."""
    give_up_at = None if timeout is None else time.monotonic() + timeout
    return lambda: None if give_up_at is None else max(0.0, give_up_at - time.monotonic())


def _possible(task_id: str) -> str:
    """Raises TaskNotFound for an id that no task can have."""
    try:
        pack_id(task_id)
    except InvalidInput as error:
        raise TaskNotFound() from error
    return task_id


def _revoked(result: AsyncResult[Any], terminate: bool) -> str:
    try:
        return result.revoke(terminate)
    except TaskNotFound:
        return "unknown"


def _error(state: TaskState) -> InvigilError:
    if state.state is State.FAILURE and state.error is not None:
        return TaskFailed(state.error.type, state.error.message, state.error.traceback)
    if state.state is State.IGNORED:
        return TaskIgnored(f"{state.id} has been ignored by its body")
    return TaskRevoked(f"{state.id} has been revoked: {state.reason}")
