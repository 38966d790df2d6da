"""The bodies of the catalog's tasks, and which of them a worker declares."""

import sys
from collections.abc import Callable, Collection
from typing import Any

import dramatiq

from shared.clock import MILLISECOND
from shared.services import Services
from shared.settings import need
from shared.tasks.catalog import CATALOG, MARK_ABSENT, PRINT_MESSAGE, SEND_DIGEST, SWEEP, Task
from worker.actors import exams, mail, messages
from worker.digest import Digests
from worker.mail import open_mailer

Body = Callable[..., None]


def declare_actors(services: Services, queues: Collection[str]) -> None:
    """Makes a Dramatiq actor of every task in these queues. Raises SettingsError for a setting that one lacks."""
    for task in CATALOG:
        if task.queue in queues:
            declare(services, task, BODIES[task](services))


def declare(services: Services, task: Task, body: Body) -> None:
    """Makes a Dramatiq actor of `body`, with the limits that the catalog gives `task`."""
    keep: dict[str, Any] = {} if task.keep is None else {"result_ttl": task.keep // MILLISECOND}
    make_actor = dramatiq.actor(
        broker=services.broker,
        actor_name=task.name,
        queue_name=task.queue,
        priority=-task.priority,  # of what this worker has fetched: there the lowest goes first
        together=task.together,
        time_limit=task.time_limit // MILLISECOND,
        max_retries=task.max_retries,
        min_backoff=task.min_backoff // MILLISECOND,
        max_backoff=task.max_backoff // MILLISECOND,
        **keep,
    )
    make_actor(body)


def _mark_absent(services: Services) -> Body:
    return exams.mark_absent(services.register, services.sender, services.settings.settle_margin)


def _sweep(services: Services) -> Body:
    return exams.sweep(services.register, services.sender, services.clock)


def _send_digest(services: Services) -> Body:
    settings = services.settings
    mailer = open_mailer(need(settings.mail_url, "MAIL_URL"))
    sender, recipients = need(settings.mail_from, "MAIL_FROM"), need(settings.mail_to, "MAIL_TO")
    return mail.send_digest(Digests(services.digests, mailer, services.clock, sender, recipients, settings.namespace))


def _print_message(services: Services) -> Body:
    return messages.print_message(sys.stdout.buffer, services.clock, services.settings.message_delay)


BODIES: dict[Task, Callable[[Services], Body]] = {
    MARK_ABSENT: _mark_absent,
    SWEEP: _sweep,
    SEND_DIGEST: _send_digest,
    PRINT_MESSAGE: _print_message,
}
