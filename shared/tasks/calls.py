"""Calls of tasks that come from outside, many together; under an idempotency key each makes one task.

The key's id is kept before the task is sent, and every attempt sends a task of that id: the first one to get through
makes it, any other finds it taken. How it ends is known for longer than the key, so a repeat never takes an ended task
for one that was not sent; only a Redis that has lost its data makes a repeat send it again.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from dramatiq import Message
from dramatiq.message import generate_unique_id

from shared.broker.asking import Due
from shared.broker.states import State, TaskState, sent
from shared.clock import MILLISECOND
from shared.errors import BrokerUnavailable, InvalidInput, InvigilError, StoreUnavailable, TaskIdTaken
from shared.idempotency import Attempt, Claim, IdempotencyKeys
from shared.tasks.call import CallOptions
from shared.tasks.sender import TaskSender
from shared.tasks.task import Task

KNOWN_FOR = timedelta(days=3)  # a key holds for two at most


class TaskCall(NamedTuple):
    """What a caller wants; `attempt`: the request with a key that it is."""

    task: Task[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    options: CallOptions
    attempt: Attempt | None = None


class Taken(NamedTuple):
    """The task as it stands, and whether another attempt had sent it."""

    state: TaskState
    is_repeat: bool = False


Outgoing = tuple[Message[Any], Due]
Answer = Taken | InvigilError


class TaskCalls:
    """Each call is answered for itself: with its task, or with why it was refused."""

    def __init__(self, sender: TaskSender, keys: IdempotencyKeys) -> None:
        self._sender = sender
        self._keys = keys

    def send(self, calls: Sequence[TaskCall]) -> list[Answer]:
        """Without keys. InvalidInput, TaskIdTaken, StoreUnavailable; raises BrokerUnavailable for all."""
        answers, outgoing = self._checked(calls)
        for place, answer in zip(outgoing, self._send(list(outgoing.values())), strict=True):
            answers[place] = answer
        return [answers[place] for place in range(len(calls))]

    def send_keyed(self, calls: Sequence[TaskCall]) -> list[Answer]:
        """With keys. InvalidInput, also for a key used with another body; raises BrokerUnavailable and StoreUnavailable
        for all.
        """
        answers, outgoing = self._checked(calls)
        places: dict[str, list[int]] = {}  # by the key's id: one may have come several times at once
        attempts = [attempt for place in outgoing if (attempt := calls[place].attempt) is not None]
        for place, claim in zip(outgoing, self._keys.claim(attempts, generate_unique_id), strict=True):
            if isinstance(claim, Claim):
                places.setdefault(claim.id, []).append(place)
            else:
                answers[place] = claim
        known = self._known(list(places))
        new = {
            task_id: _under_key(task_id, calls[first].task, outgoing[first], self._sender.engine.keep)
            for task_id, (first, *_) in places.items()
            if task_id not in known
        }
        made = dict(zip(new, self._send(list(new.values())), strict=True))
        overtaken = self._known([task_id for task_id, answer in made.items() if isinstance(answer, TaskIdTaken)])
        for task_id, (first, *others) in places.items():
            repeat = known.get(task_id) or overtaken.get(task_id)
            answer = made[task_id] if repeat is None else repeat
            answers[first] = answer
            again = answer._replace(is_repeat=True) if isinstance(answer, Taken) else answer
            answers.update(dict.fromkeys(others, again))
        return [answers[place] for place in range(len(calls))]

    def _checked(self, calls: Sequence[TaskCall]) -> tuple[dict[int, Answer], dict[int, Outgoing]]:
        """By their places: those refused, and what is to be sent."""
        refused: dict[int, Answer] = {}
        outgoing: dict[int, Outgoing] = {}
        for place, call in enumerate(calls):
            try:
                outgoing[place] = self._sender.message(call.task, call.args, call.kwargs, call.options)
            except InvigilError as error:
                refused[place] = error
        return refused, outgoing

    def _known(self, task_ids: Sequence[str]) -> dict[str, Answer]:
        """Those that have been sent, by their ids."""
        states = zip(task_ids, self._sender.engine.look_up_many(task_ids), strict=True)
        return {task_id: Taken(state, is_repeat=True) for task_id, state in states if state is not None}

    def _send(self, outgoing: Sequence[Outgoing]) -> list[Answer]:
        try:
            states = self._sender.broker.enqueue_each(outgoing)
        except BrokerUnavailable:
            raise
        except (InvalidInput, StoreUnavailable) as error:  # none has been sent
            return [error] if len(outgoing) == 1 else [self._send([each])[0] for each in outgoing]
        return [_answer(message, state) for (message, _), state in zip(outgoing, states, strict=True)]


def _answer(message: Message[Any], taken: State | None) -> Answer:
    return Taken(sent(message)) if taken is None else TaskIdTaken(message.message_id, taken)


def _under_key(task_id: str, task: Task[..., Any], outgoing: Outgoing, keep: timedelta) -> Outgoing:
    message, due = outgoing
    known_for = max(KNOWN_FOR, task.keep or keep) // MILLISECOND
    return message.copy(message_id=task_id, options={"result_ttl": known_for}), due
