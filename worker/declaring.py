"""Makes Dramatiq's actors of the catalog's tasks."""

from collections.abc import Collection, Mapping
from typing import Any

import dramatiq

from shared.clock import MILLISECOND
from shared.errors import Ignore
from shared.services import Services
from shared.tasks.task import Task
from worker.bodies import Body
from worker.running import Bodies, Runner, runs_in_child
from worker.slots import Slots


def declare_actors(
    services: Services, bodies: Mapping[str, Body], queues: Collection[str], slots: Slots | None = None
) -> None:
    """Of every task that may come by one of these queues, for its own sake or because a call says so.

    Raises SettingsError for a setting that a task at home in them lacks.
    """
    made = Bodies(services, bodies)
    runner = Runner(services, made, slots)
    for body in bodies.values():
        task = body.task
        if at_home := services.sender.routes.queue_of(task) in queues:
            made.function(task)
        if at_home or set(queues) & set(services.sender.routes.queues_for(task)):
            _declare(services, task, runner)


def _declare(services: Services, task: Task[..., Any], runner: Runner) -> None:
    keep: dict[str, Any] = {} if task.keep is None else {"result_ttl": task.keep // MILLISECOND}
    make_actor = dramatiq.actor(
        broker=services.broker,
        actor_name=task.name,
        queue_name=services.sender.routes.queue_of(task),
        priority=-task.priority,  # of what this worker has fetched: there the lowest goes first
        together=task.together,
        # Of a run in a thread; a child process has its limits from worker/running.py.
        time_limit=None if task.time_limit is None else task.time_limit // MILLISECOND,
        in_child=lambda message: runs_in_child(task, message),
        autoretry_for=task.autoretry_for,
        throws=Ignore,  # Dramatiq logs all others as errors
        max_retries=task.max_retries,
        min_backoff=task.min_backoff // MILLISECOND,
        max_backoff=task.max_backoff // MILLISECOND,
        **keep,
    )
    make_actor(runner.actor_function(task))
