"""How figures are shown: three runs, their median and their worst, with the machine and the command beside them."""

import atexit
import os
import platform
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

RUNS = 3


def scratch() -> Path:
    """A new folder on this disk, removed when everything has been measured: for minutes after files have been
    removed, ext4 passes over their inodes at length whenever it makes a new one.
    """
    folder = Path(tempfile.mkdtemp(dir=".", prefix=".benchmark-")).absolute()
    atexit.register(shutil.rmtree, folder)
    return folder


def head(what: str) -> None:
    """What is measured, where, and how to measure it again."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    print(f"\n## {what}")
    print(f"{os.cpu_count()} x {model}, Linux {platform.release()}, Python {platform.python_version()}")
    print(f"python -m benchmarks {' '.join(sys.argv[1:])}; {RUNS} runs: median (worst)")


def line(what: str, figures: Sequence[float], unit: str, higher_is_better: bool = False, to_reach: str = "") -> None:
    """One row: `what` 123 (120) unit, and what it is to reach where that has been said."""
    worst = min(figures) if higher_is_better else max(figures)
    goal = f"; to reach {to_reach}" if to_reach else ""
    print(f"{what:<58} {_short(statistics.median(figures)):>10} ({_short(worst)}) {unit}{goal}", flush=True)


def _short(figure: float) -> str:
    """Three digits, or all that stand before the point."""
    return f"{figure:,.0f}" if abs(figure) >= 1000 else f"{figure:.3g}"


def percentile(sorted_figures: Sequence[float], percent: float) -> float:
    """Nearest rank."""
    rank = max(0, -(-len(sorted_figures) * percent // 100) - 1)
    return sorted_figures[int(rank)]
