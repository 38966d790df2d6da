"""One call of a task: its options, checked, as the message that travels."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from dramatiq import Message
from dramatiq.message import generate_unique_id

from shared.broker.asking import Due
from shared.broker.record import USUAL_PRIORITY
from shared.clock import MILLISECOND, to_ms
from shared.errors import FieldError, InvalidInput
from shared.tasks.ids import why_not_given
from shared.tasks.routes import Routes

if TYPE_CHECKING:
    from shared.tasks.task import Task

LONGEST_DELAY = timedelta(days=3660)
LONGEST_LIMIT = timedelta(days=7)
MOST_RETRIES = 1000


class CallOptions(msgspec.Struct, frozen=True, kw_only=True):
    """By Celery's names, in seconds; docs/celery.md says where they differ."""

    countdown: float | None = None
    eta: datetime | None = None
    expires: float | datetime | None = None
    queue: str | None = None
    priority: int | None = None
    retries: int | None = None
    soft_time_limit: float | None = None
    time_limit: float | None = None
    task_id: str | None = None


NO_OPTIONS = CallOptions()


def message_of(
    task: "Task[..., Any]",
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: CallOptions,
    routes: Routes,
    now: datetime,
    *,
    is_partial: bool = False,
) -> tuple[Message[Any], Due]:
    """What is sent, and when it is due. `is_partial`: an argument is still to come, the result of the task before it.

    Raises InvalidInput naming each option that cannot be used, or the first argument.
    """
    errors: list[FieldError] = []
    due, due_at = _due(options, now, errors)
    message_options: dict[str, Any] = {}
    priority = whole("priority", options.priority, 9, errors)
    priority = task.priority if priority is None else priority
    if priority != USUAL_PRIORITY:
        message_options["priority"] = priority
    if (retries := whole("retries", options.retries, MOST_RETRIES, errors)) is not None:
        message_options["max_retries"] = retries
    if due_at is not None:
        message_options["due_at"] = to_ms(due_at)
    if (expires_at := _expires(options, now, errors)) is not None:
        message_options["expires"] = max(1, to_ms(expires_at))  # 0 is never
        if due_at is not None and expires_at < due_at:
            due = max(expires_at, now)  # it is known then that it will not run
    message_options |= _limits(task, options, errors)
    queue = routes.queue_of(task) if options.queue is None else _queue(task, options.queue, routes, errors)
    if options.task_id is not None and (why_not := why_not_given(options.task_id)):
        errors.append(FieldError("task_id", why_not))
    if errors:
        raise InvalidInput(*errors)
    args, kwargs = task.arguments.check(args, kwargs, is_partial=is_partial)
    if task.together > 1:  # the engine puts together what has one positional argument
        args, kwargs = (*args, *kwargs.values()), {}
    message: Message[Any] = Message(
        queue_name=queue,
        actor_name=task.name,
        args=args,
        kwargs=kwargs,
        options=message_options,
        message_id=options.task_id or generate_unique_id(),
    )
    return message, due


def _due(options: CallOptions, now: datetime, errors: list[FieldError]) -> tuple[Due, datetime | None]:
    """When it is due, for Redis and for people: a countdown runs by Redis's clock."""
    if options.countdown is not None and options.eta is not None:
        errors.append(FieldError("eta", "give countdown or eta, not both"))
        return None, None
    if options.countdown is not None:
        wait = duration("countdown", options.countdown, errors)
        return (wait, now + wait) if wait else (None, None)
    if options.eta is None:
        return None, None
    eta = _instant("eta", options.eta, errors)
    if eta is None or eta <= now:
        return None, None
    if eta - now > LONGEST_DELAY:
        errors.append(FieldError("eta", f"must be at most {LONGEST_DELAY.days} days ahead"))
        return None, None
    return eta, eta


def _expires(options: CallOptions, now: datetime, errors: list[FieldError]) -> datetime | None:
    if options.expires is None:
        return None
    if isinstance(options.expires, datetime):
        return _instant("expires", options.expires, errors)
    wait = duration("expires", options.expires, errors)
    return None if wait is None else now + wait


def duration(name: str, value: object, errors: list[FieldError]) -> timedelta | None:
    """Rounded up to a ms, never down."""
    longest = LONGEST_DELAY.total_seconds()
    if type(value) not in (int, float) or not 0 <= value <= longest:  # type: ignore[operator]
        errors.append(FieldError(name, f"must be a number of seconds from 0 to {longest:.0f}"))
        return None
    return math.ceil(value * 1000) * MILLISECOND  # type: ignore[operator]


def _instant(name: str, value: object, errors: list[FieldError]) -> datetime | None:
    """In UTC, rounded up to a ms."""
    if not isinstance(value, datetime) or value.utcoffset() is None:
        errors.append(FieldError(name, "must be an instant with a time zone, such as 2026-11-20T10:45:00Z"))
        return None
    try:
        utc = value.astimezone(UTC)
        return utc + (-utc.microsecond % 1000) * timedelta(microseconds=1)
    except OverflowError:  # an offset may lead out of the years 1 to 9999
        errors.append(FieldError(name, "must be between the years 1 and 9999"))
        return None


def _limits(task: "Task[..., Any]", options: CallOptions, errors: list[FieldError]) -> dict[str, int]:
    given: dict[str, int] = {}
    for name in ("soft_time_limit", "time_limit"):
        value = getattr(options, name)
        if value is None:
            continue
        longest = LONGEST_LIMIT.total_seconds()
        if task.in_thread or task.together > 1:
            errors.append(FieldError(name, f"{task.name} runs in a thread, which no limit of a call can end"))
        elif type(value) not in (int, float) or not 0.001 <= value <= longest:
            errors.append(FieldError(name, f"must be a number of seconds from 0.001 to {longest:.0f}"))
        else:
            given[name] = round(value * 1000)
    soft = given.get("soft_time_limit", _ms(task.soft_time_limit))
    hard = given.get("time_limit", _ms(task.time_limit))
    if given and soft is not None and hard is not None and soft >= hard:
        errors.append(FieldError("soft_time_limit", f"must be shorter than the time_limit, {hard / 1000:g} s"))
    return given


def _ms(duration: timedelta | None) -> int | None:
    return None if duration is None else duration // MILLISECOND


def whole(name: str, value: object, most: int, errors: list[FieldError]) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= most:
        errors.append(FieldError(name, f"must be a whole number from 0 to {most}"))
        return None
    return value


def _queue(task: "Task[..., Any]", queue: object, routes: Routes, errors: list[FieldError]) -> str:
    home = routes.queue_of(task)
    if allowed := routes.queues_for(task):
        if queue in allowed:
            return str(queue)
        errors.append(FieldError("queue", f"must be one of {', '.join(allowed)}"))
    return home
