"""Who is whose child, by Linux's own book-keeping, so that whatever a task has started ends with it.

A process whose parent dies goes to the nearest ancestor that adopts orphans. The process that forks a worker's
children does, so that all they leave behind, in whatever session and however often forked, comes to it: nothing is
lost sight of.
"""

import ctypes
import os
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import suppress

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LOOK_EVERY_S = 0.001


def adopt_orphans() -> None:
    """From now on every orphan below this process becomes its child."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """The kernel kills this process when `parent` is gone, whatever it does then; at once if it is gone already. With
    another signal it asks it to end.
    """
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def end_with(parent: int) -> None:
    """As `die_with`, for the time between fork and exec: the program is asked to end when `parent` is gone."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # until the exec the parent's own handler would swallow it
    die_with(parent, signal.SIGTERM)


def kill_orphans(keep: Collection[int], within_s: float) -> list[int]:
    """Kills and buries every child of this process but those to keep, then what falls to it from these, until none is
    left. Those that were still there after `within_s`: held by the kernel, or forking faster than this.
    """
    give_up_at = time.monotonic() + within_s
    while found := [pid for pid in _children() if pid not in keep]:
        if time.monotonic() > give_up_at:
            return found
        for pid in found:  # not yet buried by anybody, so that none of them can be another process by now
            with suppress(PermissionError):  # it runs as somebody else, and stays
                os.kill(pid, signal.SIGKILL)
        time.sleep(_LOOK_EVERY_S)
        for pid in found:
            os.waitpid(pid, os.WNOHANG)
    return []


def bury_orphans(keep: Collection[int | None]) -> None:
    """Waits for the dead children of this process that nobody here has started, until one to keep comes: a process that
    adopts orphans, or is the first of a container, is left with their entries.
    """
    with suppress(ChildProcessError):  # there are no children
        while (dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and dead.si_pid not in keep:
            os.waitpid(dead.si_pid, 0)


def _children() -> Iterator[int]:
    """Of this process, the dead ones that nobody has asked for included."""
    me = os.getpid()
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat", "rb") as stat:
                    parent = int(stat.read().rpartition(b")")[2].split()[1])
            except OSError:  # it has ended meanwhile
                continue
            if parent == me:
                yield int(name)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
