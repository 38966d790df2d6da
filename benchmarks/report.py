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


def line(what: str, figures: Sequence[float], unit: str, higher_is_better: bool = False) -> None:
    """One row: `what` 123.4 (120.0) unit."""
    worst = min(figures) if higher_is_better else max(figures)
    print(f"{what:<58} {statistics.median(figures):>10,.3g} ({worst:,.3g}) {unit}", flush=True)


def percentile(sorted_figures: Sequence[float], percent: float) -> float:
    """Nearest rank."""
    rank = max(0, -(-len(sorted_figures) * percent // 100) - 1)
    return sorted_figures[int(rank)]
