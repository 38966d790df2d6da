"""Every task, declared once and without its body: whoever sends one needs this and not the code that runs it.

The bodies are in worker/actors/; a worker that lacks one for a queue of its own does not start.
"""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A unit of background work. A run that exceeds `time_limit` or raises is tried again up to `max_retries` times,
    after pauses that double from `min_backoff` to `max_backoff`.

    `precedence` orders what a worker has fetched, lowest first.
    """

    name: str
    queue: str
    time_limit: timedelta
    max_retries: int
    min_backoff: timedelta
    max_backoff: timedelta
    precedence: int = 10


MARK_ABSENT = Task(
    name="mark_absent",
    queue="exams",
    # A settle takes milliseconds and may wait 2 s for its instant; ten seconds mean that the disk hangs.
    time_limit=timedelta(seconds=10),
    # Six tries in about half a minute bridge a full disk that is being cleared; after that the sweep goes on trying.
    max_retries=5,
    min_backoff=timedelta(seconds=1),
    max_backoff=timedelta(seconds=15),
)
SWEEP = Task(
    name="sweep",
    queue="exams",
    # 500 markers at about 1 ms each, with room for a slow disk.
    time_limit=timedelta(seconds=30),
    # The scheduler emits the next one in seconds; a retry would only run beside it.
    max_retries=0,
    min_backoff=timedelta(seconds=1),
    max_backoff=timedelta(seconds=1),
    precedence=0,
)
SEND_DIGEST = Task(
    name="send_digest",
    queue="mail",
    # Above the 30 s that one SMTP command may take, for a handful of recipients.
    time_limit=timedelta(minutes=5),
    # 5 s doubling to 5 min: some 15 minutes, in which a mail server restarts. Every later digest first sends what
    # is still unsent, so nothing is lost when they run out.
    max_retries=8,
    min_backoff=timedelta(seconds=5),
    max_backoff=timedelta(minutes=5),
    precedence=0,
)
PRINT_MESSAGE = Task(
    name="print_message",
    queue="default",
    # The wait may be set to anything up to a week; what follows it takes no time.
    time_limit=timedelta(days=7, minutes=1),
    # Only a closed console can fail it.
    max_retries=3,
    min_backoff=timedelta(seconds=1),
    max_backoff=timedelta(seconds=15),
)

CATALOG = (MARK_ABSENT, SWEEP, SEND_DIGEST, PRINT_MESSAGE)
QUEUES = tuple(dict.fromkeys(task.queue for task in CATALOG))
