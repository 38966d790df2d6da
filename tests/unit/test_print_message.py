"""The task that prints a message."""

import io
from datetime import timedelta

import pytest

from tests.support.clock import ManualClock
from worker.actors.messages import print_message

DELAY = timedelta(seconds=20)


class Console(io.BytesIO):
    """Remembers each write on its own, and what had been written at the last flush."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.flushed = b""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.writes.append(bytes(data))
        return super().write(data)

    def flush(self) -> None:
        self.flushed = self.getvalue()


def printed(message: str) -> bytes:
    console = Console()
    print_message(console, ManualClock(), DELAY)(message)
    return console.flushed


@pytest.mark.parametrize(
    "message",
    ["Hello, world", "", "  two  spaces ", "100 % {done} %s \\n", "Ольга 山田 👩🏽‍🎓", "<b>&amp;</b>", "x" * 60_000],
)
def test_a_message_is_printed_exactly(message: str) -> None:
    """Every character as it is, in UTF-8, on a line of its own."""
    assert printed(message) == f"{message}\n".encode()


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("two\nlines", "two\\nlines"),
        ("over\rwritten", "over\\rwritten"),
        ("a\tb", "a\\tb"),
        ("nul\0", "nul\\x00"),
        ("\x1b[31mred\x1b]0;title\x07", "\\x1b[31mred\\x1b]0;title\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("\x85 \u2028 \u2029", "\\x85 \\u2028 \\u2029"),
        ("lone \ud800 surrogate", "lone \\ud800 surrogate"),
    ],
)
def test_control_characters_are_escaped(message: str, shown: str) -> None:
    """Nothing in a message can end its line or steer the terminal it is read on."""
    assert printed(message) == f"{shown}\n".encode()


def test_a_message_is_one_write() -> None:
    """Messages of other threads cannot come in between."""
    console = Console()
    print_message(console, ManualClock(), DELAY)("Hello")
    assert console.writes == [b"Hello\n"]


def test_a_message_waits_for_its_delay(clock: ManualClock) -> None:
    """It is printed after the delay, once, and not before."""
    written_when_waiting: list[bytes] = []

    class Watch(ManualClock):
        def wait(self, duration: timedelta) -> None:
            written_when_waiting.append(console.getvalue())
            clock.wait(duration)

    console = Console()
    print_message(console, Watch(), DELAY)("Hello")
    assert (clock.waits, written_when_waiting, console.flushed) == ([DELAY], [b""], b"Hello\n")
