"""Tasks that have failed for good: their messages are kept for a week, and can be sent again or thrown away."""

import uuid
from collections.abc import Mapping
from typing import Any

from dramatiq import Message

from shared.broker.states import State, TaskState, sent
from shared.clock import to_ms
from shared.errors import (
    BrokerRefuses,
    InvalidInput,
    PayloadMissing,
    StoreUnavailable,
    TaskConflict,
    TaskIdTaken,
    TaskNotFound,
)
from shared.tasks.sender import TaskSender
from shared.tasks.task import Task, check_public

# What its runs have left on a message, and what was said of its time.
_OF_THE_PAST = {"retries", "traceback", "requeue_timestamp", "due_at", "expires"}
_IDS = uuid.UUID("6f8b9b0e-0c41-4c0e-9a53-5a4f8f2a7d10")


class DeadLetters:
    """`tasks`: all that there are, by name."""

    def __init__(self, sender: TaskSender, tasks: Mapping[str, Task[..., Any]]) -> None:
        self._sender = sender
        self._tasks = tasks

    def retry(self, task_id: str) -> TaskState:
        """Sends the message of one as a new task, which this is; no final state changes. Asked again it answers that
        task as it stands: whoever was not told of it the first time may ask.

        Raises TaskNotFound, TaskConflict where the task has not failed, may not be sent, or has left no message that
        can be read, and BrokerUnavailable or StoreUnavailable.
        """
        state = self._sender.engine.look_up(task_id)
        if state.state is not State.FAILURE or state.ended_at is None:
            raise TaskConflict(f"{task_id} has not failed: {state.state}")
        # The same whoever asks; another one for another task that is given the same id later.
        new_id = str(uuid.uuid5(_IDS, f"{task_id} {to_ms(state.ended_at)}"))
        letter = self._sender.engine.dead_letter(self._sender.routes.queues, task_id)
        if letter is None:
            return self._sent_before(task_id, new_id)
        if letter.message is None:
            raise TaskConflict(f"the message of {task_id} cannot be read: it can only be discarded")
        check_public(self._tasks, letter.message.actor_name)
        try:
            new = self._again(letter.message, letter.queue, new_id)
        except PayloadMissing:
            return self._sent_before(task_id, new_id)
        try:
            self._sender.engine.revive(letter.queue, task_id, new)
        except (TaskNotFound, TaskIdTaken):
            self._drop_arguments(new)
            return self._sent_before(task_id, new_id)
        except (InvalidInput, BrokerRefuses):
            self._drop_arguments(new)
            raise
        self._drop_arguments(letter.message)
        return sent(new)

    def discard(self, task_id: str) -> None:
        """Throws a dead letter away, an internal task's too; how it has ended stays known. Raises TaskNotFound."""
        letter = self._sender.engine.dead_letter(self._sender.routes.queues, task_id)
        if letter is None:
            raise TaskNotFound("there is no such dead letter")
        large = self._sender.large_values(task_id)
        self._sender.engine.discard(letter.queue, task_id)
        self._sender.drop(large)

    def _sent_before(self, task_id: str, new_id: str) -> TaskState:
        (state,) = self._sender.engine.look_up_many([new_id])
        if state is None:
            raise TaskConflict(_GONE.format(task_id))
        if state.retry_of != task_id:
            raise TaskConflict(f"the id that its retry would have, {new_id}, is taken by another task")
        return state

    def _again(self, old: Message[Any], queue: str, new_id: str) -> Message[Any]:
        options = {name: value for name, value in old.options.items() if name not in _OF_THE_PAST}
        options["retry_of"] = old.message_id
        if "stored" in options:
            options["stored"] = self._shared(options["stored"], new_id)
        return Message(
            queue_name=queue,
            actor_name=old.actor_name,
            args=old.args,
            kwargs=old.kwargs,
            options=options,
            message_id=new_id,
        )

    def _shared(self, reference: str, new_id: str) -> str:
        large = self._sender.broker.large
        if large is None:
            raise StoreUnavailable("this process has no store, and the arguments are kept there")
        return large.share_arguments(reference, new_id)

    def _drop_arguments(self, message: Message[Any]) -> None:
        if "stored" in message.options:
            self._sender.drop([message.options["stored"]])


_GONE = "the message of {} is gone: it has been sent again or discarded, or is older than a week"
