"""Tells Redis how far bodies are."""

from shared.broker.deliveries import Held
from shared.broker.dispatch import Dispatch
from shared.broker.loops import Loop

TELL_EVERY_S = 0.25


class ProgressReports(Loop):
    """A body only notes it, as often as it likes; what it said last is told a few times a second, and at its end."""

    def __init__(self, dispatch: Dispatch, held: Held) -> None:
        super().__init__()
        self._dispatch = dispatch
        self._held = held

    def turn(self) -> None:
        for delivery in self._held.all():
            progress = delivery.progress
            if progress != delivery.known_progress:
                self._dispatch.progress(delivery, progress)
                delivery.known_progress = progress
        self.stopping.wait(TELL_EVERY_S)
