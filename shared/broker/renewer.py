"""Keeps the leases of what this process holds."""

from collections.abc import Callable

import structlog

from shared.broker.deliveries import Delivery, Held
from shared.broker.dispatch import LEASE, Dispatch
from shared.broker.loops import Loop

RENEW_EVERY_S = LEASE.total_seconds() / 3
RENEWED_TOGETHER = 500

_log = structlog.get_logger(__name__)


class Renewer(Loop):
    """Has a thread of its own, so that neither bodies nor fetching hold it up.

    `cancelled` is told of runs that somebody has cancelled, and whether they are to be stopped: usually for the second
    time, after control.py. `lost` is told of deliveries whose task may be somebody else's by now.
    """

    def __init__(
        self,
        dispatch: Dispatch,
        held: Held,
        cancelled: Callable[[str, bool], None],
        lost: Callable[[Delivery], None],
    ) -> None:
        super().__init__()
        self._dispatch = dispatch
        self._held = held
        self._cancelled = cancelled
        self._lost = lost

    def turn(self) -> None:
        deliveries = self._held.all()
        for begin in range(0, len(deliveries), RENEWED_TOGETHER):
            some = deliveries[begin : begin + RENEWED_TOGETHER]
            for delivery, answer in zip(some, self._dispatch.renew(some), strict=True):
                self._take_note(delivery, answer)
        self.stopping.wait(RENEW_EVERY_S)

    def _take_note(self, delivery: Delivery, answer: str) -> None:
        task_id = delivery.message.message_id
        if answer in ("interrupt", "cancelled"):
            self._cancelled(task_id, answer == "interrupt")
        elif answer == "lost" and not delivery.is_ending and not delivery.is_over:
            if delivery.has_begun:  # else it has been cancelled or moved
                _log.warning("lease_lost", task_id=task_id)
            self._held.remove([delivery])
            self._lost(delivery)
