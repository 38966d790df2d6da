"""The body of the task that mails a digest."""

from collections.abc import Callable

from worker.digest import Digests


def send_digest(digests: Digests) -> Callable[[str], None]:
    """Sends what earlier windows left unsent, then this window's digest."""

    def body(window: str) -> None:
        digests.send(window)

    return body
