"""What runs when."""

from datetime import UTC, datetime, timedelta

import pytest

from scheduler.schedules import Schedule, schedules, window
from shared.settings import Settings
from shared.tasks import catalog
from tests.support.clock import NOON


def digest_every(seconds: float) -> Schedule:
    digest, *_ = schedules(Settings.from_environ({"INVIGIL_DIGEST_SECONDS": str(seconds)}))
    return digest


def test_the_digest_comes_every_five_minutes_the_sweep_every_ten_seconds_and_clearing_every_hour() -> None:
    """The table, with nothing set."""
    rows = schedules(Settings.from_environ({}))
    assert [(row.task, row.period) for row in rows] == [
        (catalog.send_digest, timedelta(minutes=5)),
        (catalog.sweep, timedelta(seconds=10)),
        (catalog.clear_away, timedelta(hours=1)),
    ]


def test_settings_change_the_periods() -> None:
    """Those of digest and sweep are the operator's, fractions included."""
    environ = {"INVIGIL_DIGEST_SECONDS": "60", "INVIGIL_SWEEP_SECONDS": "0.5"}
    assert [row.period.total_seconds() for row in schedules(Settings.from_environ(environ))] == [60, 0.5, 3600]


@pytest.mark.parametrize(
    ("period", "now", "due_at"),
    [
        (300, "12:04:59.999", "12:00:00"),
        (300, "12:05:00", "12:05:00"),
        (300, "12:05:00.001", "12:05:00"),
        (0.5, "12:00:00.999", "12:00:00.500"),
        (1.5, "12:00:02.900", "12:00:01.500"),
        (3600, "12:59:59", "12:00:00"),
    ],
)
def test_windows_are_aligned_to_the_clock(period: float, now: str, due_at: str) -> None:
    """The last whole multiple of the period, so schedulers that restart or run beside each other agree."""
    assert digest_every(period).due_at(_today(now)) == _today(due_at)


@pytest.mark.parametrize("period", [0.5, 0.7, 1.001, 7, 300])
def test_windows_follow_each_other_without_a_gap(period: float) -> None:
    """What is due just before a window's end is that window; at its end the next one begins."""
    row = digest_every(period)
    due_at = row.due_at(NOON)
    assert row.due_at(due_at + row.period - timedelta(milliseconds=1)) == due_at
    assert row.due_at(due_at + row.period) == due_at + row.period


def test_a_window_is_named_after_the_time_it_was_due() -> None:
    """The digest gets that name as its argument; the others need none."""
    digest, *others = schedules(Settings.from_environ({}))
    assert digest.arguments(NOON) == ("20261120T120000.000Z",)
    assert [row.arguments(NOON) for row in others] == [(), ()]


def test_windows_of_a_fractional_period_have_different_names() -> None:
    """Names go down to the millisecond, as periods do."""
    row = digest_every(0.5)
    assert [window(NOON + n * row.period) for n in range(3)] == [
        "20261120T120000.000Z",
        "20261120T120000.500Z",
        "20261120T120001.000Z",
    ]


def _today(time: str) -> datetime:
    return datetime.fromisoformat(f"2026-11-20T{time}").replace(tzinfo=UTC)
