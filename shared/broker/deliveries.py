"""What a process holds: deliveries of tasks, and the messages in which Dramatiq's worker carries them."""

import threading
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from dramatiq import Message, MessageProxy

from shared.broker.record import Record


class Again(NamedTuple):
    """A task as its own run has sent it: its body, or middleware that puts it off."""

    message: Message[Any]
    due: datetime | timedelta


class Delivery:
    """One handing over of a task to this process, under a lease in the name of `token`."""

    __slots__ = (
        "again",
        "is_cancelled",
        "is_ending",
        "is_over",
        "known_progress",
        "number",
        "packed_id",
        "progress",
        "record",
        "thread",
        "token",
    )

    def __init__(self, packed_id: bytes, record: Record, token: str) -> None:
        self.packed_id = packed_id
        self.record = record
        self.token = token
        self.thread: int | None = None  # the one that has begun it
        self.is_ending = False  # Redis is being told; a renewal may find it gone
        self.is_over = False  # Redis has been told what became of it, or has told us that it is no longer ours
        self.again: Again | None = None  # it has been sent again meanwhile
        self.is_cancelled = False  # somebody has cancelled it while it ran
        self.number = 0  # which delivery to a run it is, counted from 1
        self.progress = b""  # what its body has told last
        self.known_progress = b""  # what of that Redis has heard last

    @property
    def message(self) -> Message[Any]:
        return self.record.message

    @property
    def has_begun(self) -> bool:
        return self.thread is not None


class HeldMessage(MessageProxy):
    """What Dramatiq's worker carries: one delivery, or several of one task whose body takes them together. The body's
    argument is then the list of their first arguments, and what middleware decides holds for each of them.
    """

    def __init__(self, deliveries: Sequence[Delivery], takes_list: bool) -> None:
        super().__init__(deliveries[0].message)
        self.takes_list = takes_list  # even if it is a list of one
        self.retry: timedelta | None = None  # Dramatiq's Retries has decided that it runs again then
        self.is_skipped = False
        self.has_ended = False  # what is decided from now on comes too late
        self.result: object = None
        self.narrow(deliveries)

    def narrow(self, deliveries: Sequence[Delivery]) -> None:
        """Carries only these from now on."""
        self.deliveries = list(deliveries)
        if self.takes_list:
            together = [delivery.message.args[0] for delivery in deliveries]
            self._message = deliveries[0].message.copy(args=(together,))
        # A run looks these up some thirty times; the parent's way to them, __getattr__, costs it a tenth.
        message = self._message
        self.queue_name, self.actor_name, self.message_id = message.queue_name, message.actor_name, message.message_id
        self.args, self.kwargs, self.options = message.args, message.kwargs, message.options

    @property
    def exception(self) -> BaseException | None:
        return self._exception


class Held:
    """All deliveries that this process holds. Threads add, look up and remove."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._deliveries: dict[str, Delivery] = {}

    def add(self, deliveries: Iterable[Delivery]) -> None:
        with self._lock:
            for delivery in deliveries:
                self._deliveries[delivery.message.message_id] = delivery

    def remove(self, deliveries: Iterable[Delivery]) -> None:
        """Only these very ones: a task may have come back to this process before an earlier run of it has ended."""
        with self._lock:
            for delivery in deliveries:
                delivery.is_over = True
                if self._deliveries.get(delivery.message.message_id) is delivery:
                    del self._deliveries[delivery.message.message_id]

    def get(self, message_id: str) -> Delivery | None:
        with self._lock:
            return self._deliveries.get(message_id)

    def is_run_by(self, thread: int) -> bool:
        """Whether this thread is running something."""
        return any(delivery.thread == thread for delivery in self.all())

    def all(self) -> list[Delivery]:
        with self._lock:
            return list(self._deliveries.values())
