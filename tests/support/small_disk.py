"""File systems for tests to fill up and to make read-only: a tmpfs of its own. Needs the right to mount."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.tools import missing, program


class SmallDisk:
    """Mounted at `path` with room for `size_kib`."""

    def __init__(self, path: Path, size_kib: int) -> None:
        self.path = path
        self._filling = path / "filling"
        mounted = _run("mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "none", str(path))
        if mounted.returncode != 0:
            missing(f"the right to mount ({mounted.stderr.strip()})")

    def make_read_only(self) -> None:
        """As a disk becomes after an error; modes would not do, since root ignores them."""
        _run("mount", "-o", "remount,ro", str(self.path)).check_returncode()

    def make_writable(self) -> None:
        _run("mount", "-o", "remount,rw", str(self.path)).check_returncode()

    def fill(self) -> None:
        """Not a byte more fits."""
        with suppress(OSError), open(self._filling, "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)

    def clear(self) -> None:
        self._filling.unlink()

    def close(self) -> None:
        _run("umount", "--lazy", str(self.path)).check_returncode()


@contextmanager
def small_disk(path: Path, size_kib: int = 512) -> Iterator[SmallDisk]:
    """Within its `with`; what a test leaves on it is gone afterwards."""
    path.mkdir()
    disk = SmallDisk(path, size_kib)
    try:
        yield disk
    finally:
        disk.close()


def _run(name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([program(name), *arguments], capture_output=True, text=True, check=False)
