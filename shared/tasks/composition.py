"""Chains and groups of tasks, as Dramatiq's own pipelines and groups travel."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import dramatiq
import msgspec
from dramatiq import Message

from shared.broker.asking import Due
from shared.broker.record import check
from shared.broker.states import State, TaskState
from shared.errors import FieldError, InvalidInput, TaskConflict, TaskIdTaken, TaskNotFound
from shared.tasks.call import NO_OPTIONS, CallOptions
from shared.tasks.connection import connected
from shared.tasks.payloads import encode
from shared.tasks.result import AsyncResult, GroupResult, remaining

if TYPE_CHECKING:
    from shared.tasks.sender import TaskSender
    from shared.tasks.task import Task


class Signature:
    """A call that has not been sent. In a chain it is given the result of the one before as its last positional
    argument, unless it `ignores_result`.
    """

    def __init__(
        self,
        task: "Task[..., Any]",
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: CallOptions = NO_OPTIONS,
        *,
        ignores_result: bool = False,
    ) -> None:
        self.task = task
        self.args = args
        self.kwargs = kwargs
        self.options = options
        self.ignores_result = ignores_result

    def set(self, **options: Any) -> "Signature":
        """The same with these options of apply_async."""
        changed = msgspec.structs.replace(self.options, **options)
        return Signature(self.task, self.args, self.kwargs, changed, ignores_result=self.ignores_result)

    def delay(self) -> AsyncResult[Any]:
        """Sends it. Raises as Task.apply_async."""
        return connected().apply_async(self.task, self.args, self.kwargs, self.options)

    def __or__(self, other: "Signature | Chain") -> "Chain":
        return Chain([self, other])


class Chain:
    """Each is sent when the one before has succeeded. A chain in it is taken for its members."""

    def __init__(self, calls: Sequence["Signature | Chain"]) -> None:
        self.calls = [call for each in calls for call in _members(each)]
        if not self.calls:
            raise InvalidInput(FieldError("chain", "needs at least one task"))

    def __or__(self, other: "Signature | Chain") -> "Chain":
        return Chain([self, other])

    def delay(self) -> "ChainResult":
        """Sends the first, which takes the others along. Raises as Task.apply_async, for any of them."""
        tasks = connected()
        _check_ids(self.calls, tasks)
        messages, due = self.messages(tasks)
        tasks.broker.enqueue_many([(messages[0], due)])
        return ChainResult([message.message_id for message in messages], tasks)

    def messages(self, tasks: "TaskSender", **options: object) -> tuple[list[Message[Any]], Due]:
        """The first holds the second, which holds the third; and when the first is due. `options` are for the last."""
        first, *others = self.calls
        message, due = tasks.message(first.task, first.args, first.kwargs, first.options)
        messages = [message, *(_following(call, tasks) for call in others)]
        for each in messages:
            _check(each)
        messages[-1] = messages[-1].copy(options=options)
        return dramatiq.pipeline(messages, broker=tasks.broker).messages, due


class ChainResult(AsyncResult[Any]):
    """The last of a chain, PENDING until it is sent. The first that does not succeed ends the chain as it has ended."""

    def __init__(self, task_ids: Sequence[str], tasks: "TaskSender") -> None:
        super().__init__(task_ids[-1], tasks)
        self.parents = [AsyncResult[Any](task_id, tasks) for task_id in task_ids[:-1]]

    def revoke(self, terminate: bool = False) -> str:
        """Of the one that is under way, and none follows it. Answers as AsyncResult.revoke, for that one."""
        return self._tasks.stop(self._ids, terminate=terminate)

    def forget(self) -> None:
        """All of it. Raises TaskConflict where it has not ended, and TaskNotFound."""
        known = [state for state in self._tasks.engine.look_up_many(self._ids) if state is not None]
        if not known:
            raise TaskNotFound()
        for state in known:
            if not state.is_over:
                raise TaskConflict(f"the chain has not ended: {state.id} is {state.state}")
        for state in known:
            with contextlib.suppress(TaskNotFound):  # forgotten meanwhile
                self._tasks.forget(state.id)
        for member in (*self.parents, self):
            member._over = None

    @property
    def _ids(self) -> list[str]:
        return [*(parent.id for parent in self.parents), self.id]

    def _find(self, *, is_patient: bool) -> TaskState:
        """Each is sent before the end of the one before is told, and is looked up after it. So where the last that is
        known has succeeded, those after it are not still to come: they have been forgotten.
        """
        *parents, last = self._tasks.engine.look_up_many(self._ids, is_patient=is_patient)
        if last is not None:
            return last
        known = next((state for state in reversed(parents) if state is not None), None)
        if known is None or known.state is State.SUCCESS:
            raise TaskNotFound()
        return known if known.is_over else TaskState(id=self.id, state=State.PENDING)

    def _wait(self, timeout: float | None) -> TaskState:
        """With a result, for the ends of the others too: they are told a moment after the next has been sent."""
        left = remaining(timeout)
        state = super()._wait(left())
        if state.state is State.SUCCESS:
            for parent in self.parents:
                with contextlib.suppress(TaskNotFound, TimeoutError):
                    parent._wait(left())
        return state


class Group:
    """All are sent together."""

    def __init__(self, calls: Sequence[Signature | Chain]) -> None:
        self.chains = [Chain([call]) for call in calls]
        if not self.chains:
            raise InvalidInput(FieldError("group", "needs at least one task"))
        self._callbacks: list[Signature] = []

    def then(self, call: Signature) -> "Group":
        """Sent once, when all have succeeded, without their results."""
        if not isinstance(call, Signature):
            raise InvalidInput(FieldError("then", "takes one task, such as add.s(1)"))
        self._callbacks.append(call)
        return self

    def delay(self) -> GroupResult:
        """Raises as Task.apply_async, for any of them, before any is sent."""
        tasks = connected()
        _check_ids([call for each in self.chains for call in each.calls] + self._callbacks, tasks)
        options: dict[str, object] = {}
        if self._callbacks:
            callbacks = [_callback(call, tasks).asdict() for call in self._callbacks]
            options = {"group_completion_uuid": str(uuid4()), "group_completion_callbacks": callbacks}
        members: list[AsyncResult[Any]] = []
        first: list[tuple[Message[Any], Due]] = []
        for each in self.chains:
            messages, due = each.messages(tasks, **options)
            if due is not None:
                raise InvalidInput(FieldError("countdown", "a member of a group has none of its own; nor an eta"))
            ids = [message.message_id for message in messages]
            members.append(ChainResult(ids, tasks) if len(ids) > 1 else AsyncResult(ids[0], tasks))
            first.append((messages[0], None))
        if self._callbacks:
            tasks.engine.open_group(str(options["group_completion_uuid"]), len(first))
        tasks.broker.enqueue_many(first)
        return GroupResult(members)


def chain(*calls: Signature | Chain) -> Chain:
    return Chain(calls)


def group(*calls: Signature | Chain) -> Group:
    return Group(calls)


def _members(call: object) -> list[Signature]:
    """Of what stands in a chain or a group. Raises InvalidInput."""
    if isinstance(call, Signature):
        return [call]
    if isinstance(call, Chain):
        return call.calls
    what = f"a {type(call).__name__} cannot be part of a chain or a group; tasks such as add.s(1) and chains can"
    raise InvalidInput(FieldError("calls", what))


def _check(message: Message[Any]) -> None:
    """Raises InvalidInput for what could not be sent: later that would be too late, as others have been sent then."""
    check("args", message.args)
    check("kwargs", message.kwargs)
    encode("args", [message.args, message.kwargs])


def _check_ids(calls: Sequence[Signature], tasks: "TaskSender") -> None:
    """Raises TaskIdTaken, or InvalidInput for an id given twice: others would be sent when that is found out."""
    ids = [call.options.task_id for call in calls if call.options.task_id is not None]
    if len(set(ids)) < len(ids):
        raise InvalidInput(FieldError("task_id", "is given twice"))
    for state in tasks.engine.look_up_many(ids):
        if state is not None:
            raise TaskIdTaken(state.id, state.state)


def _callback(call: Signature, tasks: "TaskSender") -> Message[Any]:
    message, due = tasks.message(call.task, call.args, call.kwargs, call.options)
    if due is not None:
        raise InvalidInput(FieldError("countdown", "what is called back has none of its own; nor an eta"))
    _check(message)
    return message


def _following(call: Signature, tasks: "TaskSender") -> Message[Any]:
    """One that is sent by Dramatiq's Pipelines, which knows its own options for what is put off or ignored."""
    if call.options.eta is not None:
        raise InvalidInput(FieldError("eta", "only the first of a chain may have one; give the others a countdown"))
    message, _ = tasks.message(call.task, call.args, call.kwargs, call.options, is_partial=not call.ignores_result)
    message.options.pop("due_at", None)  # it is not known yet
    if call.ignores_result:
        message.options["pipe_ignore"] = True
    if call.options.countdown:
        message.options["delay"] = math.ceil(call.options.countdown * 1000)
    return message
