"""Ties the engine to Dramatiq's worker: what starts and ends with it, and with each message."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import cast

from dramatiq import Broker, MessageProxy, Middleware, Worker
from dramatiq.common import iter_queue

from shared.broker.consumer import QueueConsumer
from shared.broker.deliveries import HeldMessage
from shared.broker.worker_parts import WorkerParts

CLOSE_WITHIN_S = 2.0  # what a consumer or a loop that is asking Redis when it is told to stop may take to notice


class Lifecycle(Middleware):
    """The first of all middleware: nobody else hears of a message that may not run."""

    def __init__(self, make_parts: Callable[[Callable[[], Sequence[str]]], WorkerParts]) -> None:
        self._make_parts = make_parts
        self.parts: WorkerParts | None = None

    @property
    def actor_options(self) -> set[str]:
        """How many messages the body takes together."""
        return {"together"}

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        self.parts = self._make_parts(_queues(broker, worker))
        self.parts.room.open(worker.worker_threads)

    def after_worker_boot(self, _broker: Broker, _worker: Worker) -> None:
        for loop in self.booted.loops:
            loop.start()

    def before_worker_shutdown(self, _broker: Broker, worker: Worker) -> None:
        """Fetching stops, and what has not begun goes back at once, not when the last run has ended."""
        self.booted.room.close()
        self._give_back_waiting(worker)
        give_up_at = time.monotonic() + CLOSE_WITHIN_S
        for thread in worker.consumers.values():
            if isinstance(thread.consumer, QueueConsumer):
                thread.consumer.has_closed.wait(max(0.0, give_up_at - time.monotonic()))
        self._give_back_waiting(worker)

    def _give_back_waiting(self, worker: Worker) -> None:
        waiting = [cast(HeldMessage, item.message) for item in iter_queue(worker.work_queue)]  # type: ignore[no-untyped-call]
        for _ in waiting:
            worker.work_queue.task_done()
        _within(CLOSE_WITHIN_S, lambda: self.booted.runs.give_back(waiting))

    def after_worker_shutdown(self, _broker: Broker, _worker: Worker) -> None:
        parts = self.booted
        for loop in parts.loops:
            loop.stop()
        _within(CLOSE_WITHIN_S, parts.runs.give_up)
        for loop in parts.loops:
            loop.join(CLOSE_WITHIN_S)
        parts.round_trips.close()

    def before_process_message(self, _broker: Broker, message: MessageProxy) -> None:
        self.booted.runs.begin(cast(HeldMessage, message))

    def after_skip_message(self, _broker: Broker, message: MessageProxy) -> None:
        cast(HeldMessage, message).is_skipped = True

    @property
    def booted(self) -> WorkerParts:
        """The parts, in a process that has a worker."""
        if self.parts is None:
            raise RuntimeError("there is no worker in this process")
        return self.parts


def _within(seconds: float, call: Callable[[], None]) -> None:
    """No longer: with Redis hanging it would not return, and the process not end."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)


def _queues(broker: Broker, worker: Worker) -> Callable[[], Sequence[str]]:
    """Those that this worker consumes; more may be declared while it runs."""
    chosen = worker.consumer_whitelist
    return lambda: sorted(name for name in broker.get_declared_queues() if not chosen or name in chosen)
