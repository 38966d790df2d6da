"""Every task, declared once and without its body: whoever sends one needs this and not the code that runs it.

The bodies are in worker/actors/; a worker that lacks one for a queue of its own does not start.
"""

from dataclasses import dataclass
from datetime import timedelta

from shared.broker.record import USUAL_PRIORITY


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A unit of background work. A run that exceeds `time_limit` or raises is tried again up to `max_retries` times,
    after pauses that double from `min_backoff` to `max_backoff`.

    `priority`: 0 to 9 in its queue, 9 first. `together`: how many of these one run of the body may take; it is then
    given a list. `keep`: how long it is known how one ended, where that is not as long as INVIGIL_RESULT_SECONDS says.
    """

    name: str
    queue: str
    time_limit: timedelta
    max_retries: int
    min_backoff: timedelta
    max_backoff: timedelta
    priority: int = USUAL_PRIORITY
    together: int = 1
    keep: timedelta | None = None


MARK_ABSENT = Task(
    name="mark_absent",
    queue="exams",
    # A settle takes milliseconds and may wait 2 s for its instant; ten seconds mean that the disk hangs.
    time_limit=timedelta(seconds=10),
    # Six tries in about half a minute bridge a full disk that is being cleared; after that the sweep goes on trying.
    max_retries=5,
    min_backoff=timedelta(seconds=1),
    max_backoff=timedelta(seconds=15),
    # One sync of a folder makes many outcomes last. A hundred take some 20 ms.
    together=100,
    # The exam itself says for good how it ended.
    keep=timedelta(hours=1),
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
    priority=9,
    keep=timedelta(hours=1),
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
