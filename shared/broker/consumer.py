"""What Dramatiq's consumer threads draw their messages from, one consumer a queue."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import cast

from dramatiq import MessageProxy
from dramatiq.broker import Consumer

from shared.broker.deliveries import Delivery, HeldMessage
from shared.broker.dispatch import Fetched
from shared.broker.worker_parts import WorkerParts
from shared.errors import BrokerUnavailable

REST_S = 0.1  # between looks of a consumer that may fetch no more


class QueueConsumer(Consumer):
    """A new one takes over where the one before it left off: what is held does not depend on it.

    `together`: how many messages the body of an actor of this name takes at once, 1 for most.
    """

    def __init__(
        self, queue: str, timeout_s: float, parts: WorkerParts, together: Callable[[str], int], most_together: int
    ) -> None:
        self._queue = queue
        self._timeout_s = timeout_s
        self._dispatch = parts.dispatch
        self._held = parts.held
        self._room = parts.room
        self._runs = parts.runs
        self._together = together
        self._most_together = self._expected = most_together
        self._fetched: deque[HeldMessage] = deque()
        self._alone: HeldMessage | None = None
        self.has_closed = threading.Event()  # nothing will come from it any more

    def __next__(self) -> MessageProxy | None:
        """The next message, or None after a while without one."""
        if self._room.is_closed:
            self.close()
            self.has_closed.set()
            time.sleep(REST_S)
            return None
        if self._alone is not None:
            if not self._room.wait_until_alone(self._timeout_s):
                return None
            message, self._alone = self._alone, None
            return message
        if not self._fetched:
            self._look()
        return self._fetched.popleft() if self._fetched else None

    def ack(self, message: MessageProxy) -> None:
        self._runs.end(cast(HeldMessage, message))

    def nack(self, message: MessageProxy) -> None:
        self._runs.end(cast(HeldMessage, message))

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        self._runs.give_back([cast(HeldMessage, message) for message in messages])

    def close(self) -> None:
        """What it still has goes back to its place."""
        alone = [] if self._alone is None else [self._alone]
        kept = [*self._fetched, *alone]
        self._fetched.clear()
        self._alone = None
        self.requeue(kept)

    def _look(self) -> None:
        places, signals = self._room.take(self._queue, self._timeout_s)
        if not places:
            return
        found: list[HeldMessage] = []
        fetched = Fetched([], is_alone=False, is_more=False)
        try:
            fetched = self._dispatch.fetch(self._queue, places * self._expected)
            self._held.add(fetched.deliveries)
            found = self._messages(fetched.deliveries)
        except BrokerUnavailable:  # the promoter says so, and signals once Redis is back
            pass
        finally:
            self._room.settle(self._queue, places, len(found), signals, is_more=fetched.is_more)
        # A look may bring more than there are threads for, if its tasks do not run together as expected. What does not
        # fit goes back, which a task may do fifty times: so the next look asks for less, and later ones for twice as
        # much each.
        self._expected = min(self._most_together, 2 * self._expected) if len(found) <= places else 1
        if not fetched.is_alone:
            self._fetched.extend(found[:places])
            self.requeue(found[places:])
        elif found and self._room.reserve_for_one():
            (self._alone,) = found
        else:
            self.requeue(found)

    def _messages(self, deliveries: Sequence[Delivery]) -> list[HeldMessage]:
        """One for each; but those that run together share one, unless anything is special about them: options of their
        own, or a run that has failed.
        """
        messages: list[HeldMessage] = []
        groups: dict[str, list[Delivery]] = {}
        for delivery in deliveries:
            message = delivery.message
            most = self._together(message.actor_name)
            takes_list = most > 1 and len(message.args) == 1 and not message.kwargs
            if not takes_list or message.options:
                messages.append(HeldMessage([delivery], takes_list))
                continue
            group = groups.setdefault(message.actor_name, [])
            group.append(delivery)
            if len(group) == most:
                messages.append(HeldMessage(groups.pop(message.actor_name), takes_list))
        return messages + [HeldMessage(group, takes_list=True) for group in groups.values()]
