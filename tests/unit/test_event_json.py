"""Events as bytes. The literal bytes here are what is on disks already: they must stay readable."""

import json
from datetime import UTC, datetime

import pytest

from shared.exams.event_json import decode, encode
from shared.exams.model import Ended, Event, Started, Status, Void

STARTED = Started(
    recorded_at=datetime(2026, 11, 20, 12, 0, 0, 7_000, UTC),
    candidate="Zoë <zoë@example.org>",
    title=None,
    started_at=datetime(2026, 11, 20, 12, 0, tzinfo=UTC),
    deadline_at=datetime(2026, 11, 20, 12, 0, 1, 500_000, UTC),
)
ENDED = Ended(
    recorded_at=datetime(2026, 11, 20, 12, 0, 2, tzinfo=UTC),
    status=Status.ABSENT,
    ended_at=datetime(2026, 11, 20, 12, 0, 1, 500_000, UTC),
    reason="no result arrived before the deadline",
)
VOID = Void(recorded_at=datetime(2026, 11, 20, 12, 5, tzinfo=UTC))

OLD_BYTES = [
    (
        b'{"event":"started","recorded_at":"2026-11-20T12:00:00.007Z",'
        b'"candidate":"Zo\xc3\xab <zo\xc3\xab@example.org>","title":null,'
        b'"started_at":"2026-11-20T12:00:00.000Z","deadline_at":"2026-11-20T12:00:01.500Z"}',
        STARTED,
    ),
    (
        b'{"event":"ended","recorded_at":"2026-11-20T12:00:02.000Z","status":"absent",'
        b'"ended_at":"2026-11-20T12:00:01.500Z","reason":"no result arrived before the deadline"}',
        ENDED,
    ),
    (b'{"event":"void","recorded_at":"2026-11-20T12:05:00.000Z"}', VOID),
]
KINDS = ["started", "ended", "void"]


@pytest.mark.parametrize(("raw", "event"), OLD_BYTES, ids=KINDS)
def test_bytes_written_before_stay_readable(raw: bytes, event: Event) -> None:
    """Whatever the code becomes, these bytes mean these events."""
    assert decode(raw) == event


@pytest.mark.parametrize(("raw", "event"), OLD_BYTES, ids=KINDS)
def test_an_event_is_written_as_one_json_object(raw: bytes, event: Event) -> None:
    """Instants with `Z` and milliseconds, null where there is nothing; the order of fields is free."""
    assert json.loads(encode(event)) == json.loads(raw)


@pytest.mark.parametrize("event", [STARTED, ENDED, VOID], ids=KINDS)
def test_writing_and_reading_changes_nothing(event: Event) -> None:
    """An event read back equals the one written."""
    assert decode(encode(event)) == event


def test_fields_of_a_later_version_are_passed_over() -> None:
    """A process of this version reads what a newer one beside it has written."""
    raw = b'{"event":"void","recorded_at":"2026-11-20T12:05:00.000Z","by":"sweep"}'
    assert decode(raw) == VOID


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"\xff\xfe",
        b'{"event":"void"',
        b'{"event":"void"}',
        b'{"recorded_at":"2026-11-20T12:05:00.000Z"}',
        b'{"event":"reopened","recorded_at":"2026-11-20T12:05:00.000Z"}',
        b'{"event":"void","recorded_at":"yesterday"}',
        b'{"event":"ended","recorded_at":"2026-11-20T12:00:02.000Z","status":"late",'
        b'"ended_at":"2026-11-20T12:00:01.500Z","reason":null}',
    ],
    ids=[
        "empty",
        "null",
        "list",
        "no text",
        "cut off",
        "no instant",
        "no kind",
        "unknown kind",
        "no time",
        "no status",
    ],
)
def test_bytes_that_are_no_event_are_refused(raw: bytes) -> None:
    """With a ValueError, so that the reader can say which file it was."""
    with pytest.raises(ValueError, match=r"."):
        decode(raw)
