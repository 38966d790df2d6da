"""Sends tasks of the catalog, and looks after them."""

import contextlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from dramatiq import Message
from dramatiq.message import generate_unique_id

from shared.broker.asking import Due
from shared.broker.broker import TaskBroker
from shared.broker.engine import Engine
from shared.broker.record import USUAL_PRIORITY
from shared.broker.states import TaskState
from shared.clock import Clock
from shared.errors import StoreUnavailable, TaskNotFound
from shared.tasks.call import NO_OPTIONS, CallOptions, message_of
from shared.tasks.endings import Endings
from shared.tasks.result import AsyncResult
from shared.tasks.routes import Routes
from shared.tasks.task import Task

R = TypeVar("R")


class Sending(NamedTuple):
    """A task to be sent as the catalog says, under `task_id` or an id of its own. Its arguments are not checked."""

    task: Task[..., Any]
    args: tuple[str, ...] = ()
    task_id: str | None = None
    due: Due = None


class TaskSender:
    """Sends through `broker`, to the queues that `routes` names; `endings` tells of ends."""

    def __init__(self, broker: TaskBroker, routes: Routes, endings: Endings, clock: Clock) -> None:
        self.broker = broker
        self.routes = routes
        self.endings = endings
        self._clock = clock
        for queue in routes.queues:
            broker.declare_queue(queue)

    @property
    def engine(self) -> Engine:
        return self.broker.engine

    def send(self, task: Task[..., Any], *args: str, task_id: str | None = None, due: Due = None) -> str:
        """The id of the task sent. Raises BrokerUnavailable (it may have been sent all the same) and TaskIdTaken."""
        return self.send_many([Sending(task, args, task_id, due)])[0]

    def send_many(self, sendings: Sequence[Sending]) -> list[str]:
        """The ids of the tasks sent. Raises as `send`; any of them may have been sent all the same."""
        messages = [(self._message(sending), sending.due) for sending in sendings]
        self.broker.enqueue_many(messages)
        return [message.message_id for message, _ in messages]

    def apply_async(
        self,
        task: Task[..., R],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: CallOptions = NO_OPTIONS,
    ) -> AsyncResult[R]:
        """Sends it, everything checked first. Raises as Task.apply_async."""
        message, due = self.message(task, args, kwargs or {}, options)
        self.broker.enqueue_many([(message, due)])
        return AsyncResult(message.message_id, self)

    def message(
        self,
        task: Task[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: CallOptions = NO_OPTIONS,
        *,
        is_partial: bool = False,
    ) -> tuple[Message[Any], Due]:
        """What would be sent, and when it would be due. Raises InvalidInput."""
        return message_of(task, args, kwargs, options, self.routes, self._clock.now(), is_partial=is_partial)

    def revoke(self, task_id: str, *, terminate: bool = False) -> str:
        """`revoked`; `running` or, with `terminate`, `terminated` for a run that has begun; `too_late`. A run is
        terminated if it has a child process of its own; one in a thread is asked to stop.

        Raises TaskNotFound and BrokerUnavailable.
        """
        large = self.large_values(task_id)
        outcome = self.engine.revoke(task_id, interrupts=terminate)
        if outcome == "revoked":
            self.drop(large)
        return outcome

    def stop(self, task_ids: Sequence[str], *, terminate: bool = False) -> str:
        """Revokes a chain, whose members these are: the one that is under way, and none follows. Answers as `revoke`,
        for that one. Raises TaskNotFound and BrokerUnavailable.
        """
        large = [self.large_values(task_id) for task_id in task_ids]
        outcomes = self.engine.stop(task_ids, interrupts=terminate)
        for outcome, values in zip(outcomes, large, strict=True):
            if outcome == "revoked":
                self.drop(values)
        known = [outcome for outcome in outcomes if outcome != "unknown"]
        if not known:
            raise TaskNotFound()
        return known[-1]

    def forget(self, task_id: str) -> None:
        """Removes what is known of an ended task. Raises TaskNotFound, TaskConflict and BrokerUnavailable."""
        large = self.large_values(task_id)
        self.engine.forget(task_id)
        self.drop(large)

    def large_values(self, task_id: str) -> Sequence[str]:
        """References to what is kept for a task outside Redis. They are asked for before the task ends by our doing:
        from then on somebody else may send one of this id, and keep its arguments.
        """
        if self.broker.large is not None:
            with contextlib.suppress(StoreUnavailable):  # what is not found is cleared away later
                return self.broker.large.references(task_id)
        return ()

    def drop(self, large_values: Sequence[str]) -> None:
        """They are needed no more."""
        if self.broker.large is not None:
            with contextlib.suppress(StoreUnavailable):  # they are cleared away later
                self.broker.large.remove(*large_values)

    def result_of(self, state: TaskState) -> Any:
        """The result of a task that has succeeded, wherever it is kept. Raises StoreUnavailable."""
        if state.stored is None:
            return state.result
        if self.broker.large is None:
            raise StoreUnavailable("this process has no store, and the result is kept there")
        return self.broker.large.load_value(state.stored)

    def tick(self, schedule: str, scheduled_at: datetime, task: Task[..., Any], *args: str) -> str:
        """Sends a schedule's task for this time, unless somebody else has: `sent`, `known`, or `too_old`.

        Raises BrokerUnavailable.
        """
        return self.engine.tick(schedule, scheduled_at, self._message(Sending(task, args)))

    def _message(self, sending: Sending) -> Message[Any]:
        task = sending.task
        return Message(
            queue_name=self.routes.queue_of(task),
            actor_name=task.name,
            args=sending.args,
            kwargs={},
            options={} if task.priority == USUAL_PRIORITY else {"priority": task.priority},
            message_id=sending.task_id or generate_unique_id(),
        )
