"""What Dramatiq's consumer threads draw their messages from, one consumer a queue."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import cast

from dramatiq import MessageProxy
from dramatiq.broker import Consumer

from shared.broker.deliveries import Delivery, HeldMessage
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
        self._most_together = most_together
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
        for message in messages:
            self._runs.give_back(cast(HeldMessage, message))

    def close(self) -> None:
        """What it still has goes back to its place."""
        alone = [] if self._alone is None else [self._alone]
        self.requeue([*self._fetched, *alone])
        self._fetched.clear()
        self._alone = None

    def _look(self) -> None:
        places, signals = self._room.take(self._queue, self._timeout_s)
        if not places:
            return
        try:
            fetched = self._dispatch.fetch(self._queue, places * self._most_together)
        except BrokerUnavailable:  # the promoter says so, and signals once Redis is back
            self._room.settle(self._queue, places, 0, signals, is_more=False)
            return
        self._held.add(fetched.deliveries)
        messages = self._messages(fetched.deliveries)
        self._room.settle(self._queue, places, len(messages), signals, is_more=fetched.is_more)
        if not fetched.is_alone:
            self._fetched.extend(messages)
        elif messages and self._room.reserve_for_one():
            (self._alone,) = messages
        else:
            self.requeue(messages)

    def _messages(self, deliveries: Sequence[Delivery]) -> list[HeldMessage]:
        """One for each; but those that run together share one, unless they have failed together before."""
        groups: list[tuple[list[Delivery], bool]] = []
        open_groups: dict[str, list[Delivery]] = {}
        for delivery in deliveries:
            message = delivery.message
            most = self._together(message.actor_name)
            takes_part = most > 1 and len(message.args) == 1 and not message.kwargs
            group = open_groups.get(message.actor_name)
            if takes_part and group is not None and len(group) < most and "retries" not in message.options:
                group.append(delivery)
                continue
            groups.append(([delivery], takes_part))
            if takes_part and "retries" not in message.options:
                open_groups[message.actor_name] = groups[-1][0]
        return [HeldMessage(group, is_together) for group, is_together in groups]
