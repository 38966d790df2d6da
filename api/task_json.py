"""A task as its readers see it."""

from datetime import datetime
from typing import Annotated, Any

import msgspec

from api.fields import Instant
from shared.broker.states import Progress, Reason, State, TaskError, TaskState
from shared.clock import rfc3339, seconds
from shared.tasks.ids import TASK_ID, TASK_ID_IS

TaskId = Annotated[
    str,
    msgspec.Meta(
        pattern=f"^{TASK_ID.pattern}(?!\\n)$",
        description=TASK_ID_IS,
        examples=["0b5e4a9e-3c0f-4a53-9d37-3f5dd3b2a1c4"],
    ),
]


class ErrorBody(msgspec.Struct, gc=False):
    """What a task has raised, in words."""

    type: str
    message: str
    traceback: str | None


class ProgressBody(msgspec.Struct, gc=False):
    """How far a task says it is."""

    current: float
    total: float | None
    note: str | None


class TaskBody(msgspec.Struct, gc=False):
    """A task as it stands. Of an exam's deadline that was cancelled little is known."""

    id: Annotated[str, msgspec.Meta(description="as it was given, or one of ours")]
    task: str | None
    queue: str | None
    priority: int | None
    state: State
    reason: Annotated[Reason | None, msgspec.Meta(description="why it is REVOKED")]
    ready: Annotated[bool, msgspec.Meta(description="whether it has ended")]
    successful: bool
    failed: bool
    result: Annotated[Any, msgspec.Meta(description="what it has returned, unless that is large")]
    result_url: Annotated[str | None, msgspec.Meta(description="where a large result is")]
    error: ErrorBody | None
    progress: ProgressBody | None
    retries: int
    deliveries: Annotated[int, msgspec.Meta(description="how often it has begun")]
    time_taken: Annotated[int | float | None, msgspec.Meta(description="seconds that its last run took")]
    eta: Annotated[Instant | None, msgspec.Meta(description="when it is or was due, if it was put off")]
    expires: Annotated[Instant | None, msgspec.Meta(description="when it is revoked unless it has begun")]
    enqueued_at: Instant | None
    started_at: Instant | None
    ended_at: Instant | None
    retry_of: Annotated[str | None, msgspec.Meta(description="the failed task that this one does again")]


class TaskList(msgspec.Struct):
    """A page, which may be shorter than asked for; `next_cursor` leads to the next and is null after the last."""

    items: list[TaskBody]
    next_cursor: str | None


def task_json(state: TaskState) -> TaskBody:
    """All its fields; a result that is kept outside Redis by its address."""
    return TaskBody(
        id=state.id,
        task=state.task,
        queue=state.queue,
        priority=state.priority,
        state=state.state,
        reason=state.reason,
        ready=state.is_over,
        successful=state.state is State.SUCCESS,
        failed=state.state is State.FAILURE,
        result=state.result,
        result_url=None if state.stored is None else f"{address_of(state.id)}/result",
        error=_error(state.error),
        progress=_progress(state.progress),
        retries=state.retries,
        deliveries=state.deliveries,
        time_taken=None if state.time_taken is None else seconds(state.time_taken),
        eta=_instant(state.due_at),
        expires=_instant(state.expires_at),
        enqueued_at=_instant(state.enqueued_at),
        started_at=_instant(state.started_at),
        ended_at=_instant(state.ended_at),
        retry_of=state.retry_of,
    )


def address_of(task_id: str) -> str:
    return f"/v1/tasks/{task_id}"


def _error(error: TaskError | None) -> ErrorBody | None:
    return None if error is None else ErrorBody(error.type, error.message, error.traceback)


def _progress(progress: Progress | None) -> ProgressBody | None:
    return None if progress is None else ProgressBody(progress.current, progress.total, progress.note)


def _instant(instant: datetime | None) -> str | None:
    return None if instant is None else rfc3339(instant)
