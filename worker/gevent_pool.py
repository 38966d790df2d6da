"""The pool of greenlets: a thousand tasks that wait for something, in one thread of one process.

What `dramatiq-gevent` does for Dramatiq's command line, done for ours: what blocks in the standard library is replaced
by what lets other greenlets run. That must come before anything else is imported, so the process begins anew. All the
rest is as with threads, which are greenlets then; under that command line itself there would be a process more, and
neither our pulse nor a look at which of them have died.

A body that computes, or reads and writes files, lets nothing else run, not even the renewal of leases: after 10 s of it
others take over all that the process holds.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from shared.errors import SettingsError
from shared.tasks.catalog import EXAMS
from shared.tasks.task import Task

GEVENT = "gevent"
MOST_GREENLETS = 10_000


def check(tasks: Iterable[Task[..., Any]]) -> None:
    """Raises SettingsError naming those of a worker's tasks that greenlets cannot run."""
    if unfit := [f"{task.name} {why}" for task in tasks if (why := _why_unfit(task))]:
        raise SettingsError(
            f"--pool {GEVENT} cannot run all tasks of its queues: {'; '.join(unfit)}. "
            "Leave those to a worker with --pool threads: name other queues, or route them elsewhere (INVIGIL_ROUTES)"
        )


def begin_anew(arguments: Sequence[str]) -> NoReturn:
    """As the same process, started by gevent's own launcher."""
    os.execv(sys.executable, [sys.executable, "-m", "gevent.monkey", "--module", "worker", *arguments])  # noqa: S606


def _why_unfit(task: Task[..., Any]) -> str | None:
    if task.needs_child:
        return "needs a process of its own, for its limits or because it is isolated"
    if task.queue == EXAMS:
        return "writes files, and holds up the others while it does"
    return None
