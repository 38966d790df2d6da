"""Every task, declared once and without its body: whoever sends one needs this and not the code that runs it.

The bodies are in worker/actors/; a worker that lacks one does not start. docs/tasks.md shows how to add a task.
"""

from datetime import timedelta
from typing import Annotated, Any

from msgspec import Meta

from shared.errors import TimeLimitExceeded, WorkerLost
from shared.tasks.task import Task, task

LONGEST_MESSAGE = 10_000  # characters

EXAMS = "exams"
SWEPT_WITHIN = timedelta(seconds=30)


@task(
    queue=EXAMS,
    # A settle takes milliseconds and may wait 2 s for its instant; ten seconds mean that the disk hangs.
    time_limit=timedelta(seconds=10),
    in_thread=True,
    # Six tries in about half a minute bridge a full disk that is being cleared; after that the sweep goes on trying.
    autoretry_for=(Exception, TimeLimitExceeded),
    max_retries=5,
    max_backoff=timedelta(seconds=15),
    # One sync of a folder makes many outcomes last. A hundred take some 20 ms.
    together=100,
    # The exam itself says for good how it ended.
    keep=timedelta(hours=1),
)
def mark_absent(pk: str) -> None:
    """Ends an exam at its deadline unless it has ended before."""


@task(
    queue=EXAMS,
    # 500 markers at about 1 ms each, with room for a slow disk. The scheduler emits the next one in seconds; a retry
    # would only run beside it.
    time_limit=SWEPT_WITHIN,
    in_thread=True,
    priority=9,
    keep=timedelta(hours=1),
)
def sweep() -> None:
    """Settles overdue exams and finishes what crashes left."""


@task(
    queue="mail",
    # Above the 30 s that one SMTP command may take, for a handful of recipients.
    time_limit=timedelta(minutes=5),
    # 5 s doubling to 5 min: some 15 minutes, in which a mail server restarts. Every later digest first sends what
    # is still unsent, so nothing is lost when they run out.
    autoretry_for=(Exception, TimeLimitExceeded, WorkerLost),
    max_retries=8,
    min_backoff=timedelta(seconds=5),
    max_backoff=timedelta(minutes=5),
)
def send_digest(window: str) -> None:
    """Mails which exams have ended."""


@task(
    # Tens of thousands of files take seconds. A run that a slow disk holds up ends before the next one is due, which
    # finds what is left; two at once would do no harm.
    time_limit=timedelta(minutes=30),
    in_thread=True,
    keep=timedelta(hours=1),
)
def clear_away() -> None:
    """Removes large values of tasks that nobody knows any more, and idempotency keys that are no longer valid."""


@task(
    is_public=True,
    # Only a closed console can fail it.
    autoretry_for=(OSError,),
    max_backoff=timedelta(seconds=15),
)
def print_message(message: Annotated[str, Meta(min_length=1, max_length=LONGEST_MESSAGE)]) -> None:
    """Prints a message on the worker's console after a while."""


CATALOG: dict[str, Task[..., Any]] = {each.name: each for each in list(vars().values()) if isinstance(each, Task)}
RESERVED = (EXAMS,)
QUEUES = tuple(dict.fromkeys(each.queue for each in CATALOG.values()))
