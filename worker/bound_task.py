"""What the body of a task with `bind=True` is given as `self`."""

from collections.abc import Callable
from datetime import datetime
from typing import NoReturn

import msgspec

from shared.broker.record import check
from shared.broker.retries import RetryLater
from shared.broker.states import Progress, readable
from shared.clock import MILLISECOND
from shared.errors import FieldError, InvalidInput, MaxRetriesExceeded
from shared.tasks.call import MOST_RETRIES, duration, whole

LONGEST_NOTE = 1_000  # characters


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """The task as it was sent, and how often it has been tried: `retries` before this run, `deliveries` with it."""

    id: str
    task: str
    queue: str
    priority: int
    retries: int
    max_retries: int
    deliveries: int
    eta: datetime | None = None
    expires: datetime | None = None


class BoundTask:
    """`report` and `is_cancelled` are the worker's."""

    def __init__(self, request: Request, report: Callable[[Progress], None], is_cancelled: Callable[[], bool]) -> None:
        self.request = request
        self._report = report
        self._is_cancelled = is_cancelled

    def retry(
        self,
        *,
        countdown: float | None = None,
        max_retries: int | None = None,
        exc: BaseException | None = None,
    ) -> NoReturn:
        """Ends this run; the task is tried again after `countdown` seconds, or the pause that its declaration gives.

        It never returns, so `raise self.retry()` reads well. Once the retries are used up it raises `exc`, or else
        MaxRetriesExceeded; `max_retries` counts for this call alone. Raises InvalidInput for what is no such number.
        """
        errors: list[FieldError] = []
        wait = None if countdown is None else duration("countdown", countdown, errors)
        most = whole("max_retries", max_retries, MOST_RETRIES, errors)
        if errors:
            raise InvalidInput(*errors)
        most = self.request.max_retries if most is None else most
        if self.request.retries >= most:
            raise exc or MaxRetriesExceeded(f"{self.request.task} has been tried {most + 1} times")
        raise RetryLater(None if wait is None else wait // MILLISECOND) from exc

    def update_progress(self, current: float, total: float | None = None, note: str | None = None) -> None:
        """Shown as the task's `progress` within half a second, and after its end. Costs next to nothing.

        Raises InvalidInput for what are no finite numbers.
        """
        check("progress", [current, total])
        try:
            progress = msgspec.convert({"current": current, "total": total, "note": note}, Progress, strict=True)
        except msgspec.ValidationError as error:
            raise InvalidInput(FieldError("progress", str(error))) from error
        if note is not None:
            progress = msgspec.structs.replace(progress, note=readable(note[:LONGEST_NOTE]))
        self._report(progress)

    def is_aborted(self) -> bool:
        """Whether somebody has revoked this task, or another worker has it now: what the body does is of no use."""
        return self._is_cancelled()
