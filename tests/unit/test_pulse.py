"""The sign of life of a process without an address."""

import os
import time
from pathlib import Path

import pytest

from shared.pulse import Pulse
from tests.support.parts import run


def test_a_beat_makes_the_file_young_again(tmp_path: Path) -> None:
    """Whether it was there or not."""
    path = tmp_path / "pulse"
    Pulse(str(path)).beat()
    os.utime(path, (0, 0))
    Pulse(str(path)).beat()
    assert time.time() - path.stat().st_mtime < 60


def test_without_a_file_there_is_nothing_to_touch(tmp_path: Path) -> None:
    """Nobody asked for a pulse."""
    Pulse(None).beat()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("age_s", "status", "said"), [(0, 0, ""), (100, 1, "the last pulse was 100 s ago"), (None, 1, "no pulse")]
)
def test_the_health_check_says_whether_the_last_pulse_is_young_enough(
    tmp_path: Path, age_s: int | None, status: int, said: str
) -> None:
    """`python -m shared.pulse 30`: status 0 within 30 s, otherwise 1 and the reason."""
    path = tmp_path / "pulse"
    if age_s is not None:
        path.touch()
        os.utime(path, (time.time() - age_s,) * 2)
    ended = run("shared.pulse", "30", environ={"INVIGIL_PULSE_FILE": str(path)})
    assert (ended.returncode, ended.stdout) == (status, "")
    assert said in ended.stderr


def test_the_health_check_needs_to_know_the_file() -> None:
    """The setting is named."""
    ended = run("shared.pulse", "30", environ={})
    assert ended.returncode == 1
    assert "INVIGIL_PULSE_FILE" in ended.stderr
