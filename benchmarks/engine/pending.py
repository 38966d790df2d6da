"""Tasks that are due in some hours, by the million."""

from collections.abc import Iterator
from datetime import timedelta
from itertools import count, islice
from typing import Any

from dramatiq import Message

from shared.broker.broker import TaskBroker
from shared.clock import SystemClock
from shared.exams.pk import new_pk
from shared.tasks import catalog

BATCH = 5_000
FIRST = timedelta(hours=1)
SPREAD = timedelta(hours=24)


def deadlines() -> Iterator[Message[Any]]:
    """Deadline tasks as exams have them."""
    now = SystemClock().now()
    while True:
        pk = new_pk(now)
        yield Message(
            queue_name=catalog.mark_absent.queue,
            actor_name=catalog.mark_absent.name,
            args=(pk,),
            kwargs={},
            options={},
            message_id=f"{pk}.1",
        )


def reports() -> Iterator[Message[Any]]:
    """Tasks of a general kind: an id of Dramatiq's, some arguments."""
    for number in count():
        yield Message(
            queue_name="default",
            actor_name="send_report",
            args=("2026-11-20", number, "lab@example.org"),
            kwargs={"attach": True},
            options={},
        )


def lay_out(broker: TaskBroker, messages: Iterator[Message[Any]], many: int, queue: str | None = None) -> None:
    """Enqueues so many, due between FIRST and FIRST + SPREAD from now, in this queue or their own."""
    start = SystemClock().now() + FIRST
    for begin in range(0, many, BATCH):
        batch = list(islice(messages, min(BATCH, many - begin)))
        if queue is not None:
            batch = [message.copy(queue_name=queue) for message in batch]
        # 7919 is a prime: neighbours are not due one after the other.
        broker.enqueue_many(
            [(message, start + SPREAD * ((begin + n) * 7919 % many) / many) for n, message in enumerate(batch)]
        )
