"""The body of the task that prints a message."""

import sys
from collections.abc import Callable
from datetime import timedelta
from typing import BinaryIO

from shared.clock import Clock
from shared.one_line import breaks_a_line
from shared.services import Services
from shared.tasks import catalog
from worker.bodies import made_for


@made_for(catalog.print_message)
def _print_message(services: Services) -> Callable[[str], None]:
    return print_message(sys.stdout.buffer, services.clock, services.settings.message_delay)


def print_message(console: BinaryIO, clock: Clock, delay: timedelta) -> Callable[[str], None]:
    """Waits `delay`, then writes the message to `console` as a line of its own, in UTF-8."""

    def body(message: str) -> None:
        clock.wait(delay)
        console.write(f"{escape(message)}\n".encode())  # one write: lines of other threads cannot come in between
        console.flush()

    return body


def escape(message: str) -> str:
    """The message with control characters and line breaks as Python escapes, all else as it is."""
    return "".join(
        character.encode("unicode_escape").decode() if breaks_a_line(character) else character for character in message
    )
