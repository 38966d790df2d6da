"""What a task is, and how a declaration becomes one."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from shared.broker.record import NAME_BYTES, USUAL_PRIORITY
from shared.clock import MILLISECOND
from shared.errors import TaskConflict
from shared.tasks.arguments import Arguments
from shared.tasks.call import CallOptions
from shared.tasks.connection import connected

if TYPE_CHECKING:
    from shared.tasks.composition import Signature
    from shared.tasks.result import AsyncResult

P = ParamSpec("P")
R = TypeVar("R")

INTERNAL = "{} is internal: it can only be looked at"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Task(Generic[P, R]):
    """A declared unit of background work, without its body.

    `is_public`: may be sent, revoked and retried over REST; others can only be looked at, and their dead letters thrown
    away.
    `autoretry_for`: exceptions after which it is tried again, up to `max_retries` times, after pauses that double from
    `min_backoff` to `max_backoff`, with jitter. Anything else that a body raises ends it as FAILURE; so do
    TimeLimitExceeded, SoftTimeLimitExceeded and WorkerLost, unless they are listed themselves.
    `soft_time_limit` raises SoftTimeLimitExceeded in the body, `time_limit` kills it; a task with either, or declared
    `isolated`, runs in a child process, all others in a thread. `in_thread`: in a thread all the same, where
    `time_limit` interrupts it as soon as it runs Python again.
    `priority`: 0 to 9 in its queue, 9 first. `together`: how many of these one run of the body may take; it is then
    given a list. `keep`: how long it is known how one ended, where that is not as long as INVIGIL_RESULT_SECONDS says.
    """

    name: str
    arguments: Arguments
    description: str
    queue: str = "default"
    is_public: bool = False
    priority: int = USUAL_PRIORITY
    max_retries: int = 3
    autoretry_for: tuple[type[BaseException], ...] = ()
    min_backoff: timedelta = timedelta(seconds=1)
    max_backoff: timedelta = timedelta(minutes=10)
    soft_time_limit: timedelta | None = None
    time_limit: timedelta | None = None
    isolated: bool = False
    in_thread: bool = False
    together: int = 1
    keep: timedelta | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a declaration that contradicts itself."""
        if not 0 < len(self.queue.encode()) <= NAME_BYTES:
            raise ValueError(f"{self.name}: queue must be 1 to {NAME_BYTES} bytes long")
        if not 0 <= self.priority <= 9:
            raise ValueError(f"{self.name}: priority must be 0 to 9")
        if self.in_thread and (self.isolated or self.soft_time_limit is not None):
            raise ValueError(
                f"{self.name}: in_thread excludes isolated and soft_time_limit, which need a child process"
            )
        for name in ("soft_time_limit", "time_limit", "keep", "min_backoff"):
            if (duration := getattr(self, name)) is not None and duration < MILLISECOND:
                raise ValueError(f"{self.name}: {name} must be at least a millisecond")
        if self.min_backoff > self.max_backoff:
            raise ValueError(f"{self.name}: min_backoff must not be longer than max_backoff")
        if self.max_retries < 0 or self.together < 1:
            raise ValueError(f"{self.name}: max_retries must be 0 or more, and together 1 or more")
        if self.soft_time_limit and self.time_limit and self.soft_time_limit >= self.time_limit:
            raise ValueError(f"{self.name}: soft_time_limit must be shorter than time_limit")
        if self.together > 1 and (
            self.needs_child or len(self.arguments.required) != 1 or len(self.arguments.names) != 1
        ):
            raise ValueError(f"{self.name}: together needs one argument, no default, and a body that runs in a thread")

    @property
    def needs_child(self) -> bool:
        """Whether its body runs in a child process; limits given with a call need one too."""
        has_limit = self.time_limit is not None or self.soft_time_limit is not None
        return self.isolated or (has_limit and not self.in_thread)

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> "AsyncResult[R]":
        """Sends it with these arguments. Raises as `apply_async`."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        countdown: float | None = None,
        eta: datetime | None = None,
        expires: float | datetime | None = None,
        queue: str | None = None,
        priority: int | None = None,
        retries: int | None = None,
        soft_time_limit: float | None = None,
        time_limit: float | None = None,
        task_id: str | None = None,
    ) -> "AsyncResult[R]":
        """Sends it. Options as Celery's, in seconds; `retries` in place of `max_retries`; instants must be aware.

        Raises InvalidInput before anything is sent, TaskIdTaken, BrokerUnavailable (it may have been sent all the same)
        and NotConnected, in a process that has not called shared.services.connect.
        """
        options = CallOptions(
            countdown=countdown,
            eta=eta,
            expires=expires,
            queue=queue,
            priority=priority,
            retries=retries,
            soft_time_limit=soft_time_limit,
            time_limit=time_limit,
            task_id=task_id,
        )
        return connected().apply_async(self, args, kwargs or {}, options)

    def s(self, *args: Any, **kwargs: Any) -> "Signature":
        """This call, to be sent later or as part of a chain or group."""
        from shared.tasks.composition import Signature

        return Signature(self, args, kwargs)

    def si(self, *args: Any, **kwargs: Any) -> "Signature":
        """The same, and in a chain it is not given the result of the one before."""
        from shared.tasks.composition import Signature

        return Signature(self, args, kwargs, ignores_result=True)

    def __call__(self, *_args: P.args, **_kwargs: P.kwargs) -> R:
        raise TypeError(f"{self.name} is declared here; its body is in worker/actors/: send it with delay")


def check_public(tasks: Mapping[str, Task[..., Any]], name: str | None) -> None:
    """Raises TaskConflict for what is not known to be a public one of `tasks`."""
    task = tasks.get(name or "")
    if task is None or not task.is_public:
        unknown = "what this task does is not known: it can only be looked at"
        raise TaskConflict(unknown if name is None else INTERNAL.format(name))


def task(**options: Any) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Declares a task by a function without a body: its name, its arguments' types, its docstring. Options: Task's."""

    def declare(declaration: Callable[P, R]) -> Task[P, R]:
        description = inspect.getdoc(declaration) or ""
        return Task(name=declaration.__name__, arguments=Arguments(declaration), description=description, **options)

    return declare
