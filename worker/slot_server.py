"""The process that a worker's children are forked from: `python -m worker.slot_server 5 module:function module...`.

It has imported what tasks need and has no threads, so that a fork is quick and safe; a worker itself has many.
Not multiprocessing's own: there, whatever a dead child has started is lost sight of, the children keep their server
alive beyond their worker, and a SIGTERM to all of a service's processes ends it, and so every task that is drained.
"""

import gc
import importlib
import os
import selectors
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from worker import process_tree, slot_child

STATUS = struct.Struct("!i")  # as subprocess's returncode: an exit status, or a signal's number below zero

_ORPHANS_GONE_WITHIN_S = 2.0


@dataclass(frozen=True, slots=True)
class _Child:
    pid: int
    pidfd: int  # readable when it is dead
    life: socket.socket  # the worker closes it to have the child killed, and is told there how it ended


class _Server:
    """`requests` brings two sockets for each child to fork: for its jobs, and for its life."""

    def __init__(self, requests: socket.socket, runner: str) -> None:
        self._requests = requests
        self._runner = runner
        self._pid = os.getpid()
        self._children: dict[int, _Child] = {}
        self._unkillable: set[int] = set()
        self._selector = selectors.DefaultSelector()
        self._watch(requests, self._fork)

    def serve(self) -> None:
        """Until the worker is gone; then nothing is left of what it has started here."""
        while self._requests.fileno() >= 0:
            for key, _ in self._selector.select():
                if self._selector.get_map().get(key.fd) is key:  # not closed by what has come before it
                    key.data()
        for child in self._children.values():
            _kill(child)
        process_tree.kill_orphans(keep=(), within_s=_ORPHANS_GONE_WITHIN_S)

    def _fork(self) -> None:
        _, fds, *_ = socket.recv_fds(self._requests, 1, 2)
        if len(fds) < 2:
            self._selector.unregister(self._requests)
            self._requests.close()
            return
        jobs, life = (socket.socket(fileno=fd) for fd in fds)
        try:
            pid = os.fork()
        except OSError:  # no memory, or no process more: the worker sees both closed
            traceback.print_exc()
            jobs.close()
            life.close()
            return
        if pid == 0:
            life.close()
            self._close()
            slot_child.live(jobs, self._runner, self._pid)
        jobs.close()
        child = _Child(pid, os.pidfd_open(pid), life)
        self._children[pid] = child
        self._watch(child.pidfd, lambda: self._bury(child))
        self._watch(child.life, lambda: self._end(child))

    def _end(self, child: _Child) -> None:
        """Its life has been closed at the other end."""
        self._selector.unregister(child.life)
        _kill(child)

    def _bury(self, child: _Child) -> None:
        _, status = os.waitpid(child.pid, 0)
        del self._children[child.pid]
        keep = self._unkillable.union(self._children)
        if left := process_tree.kill_orphans(keep, within_s=_ORPHANS_GONE_WITHIN_S):
            sys.stderr.write(f"started by a task and not to be killed: {left}\n")
            self._unkillable.update(left)
        self._selector.unregister(child.pidfd)
        os.close(child.pidfd)
        if child.life in self._selector.get_map():
            self._selector.unregister(child.life)
        with suppress(BrokenPipeError):  # nobody asks
            child.life.send(STATUS.pack(os.waitstatus_to_exitcode(status)))
        child.life.close()

    def _watch(self, what: socket.socket | int, act: Callable[[], None]) -> None:
        self._selector.register(what, selectors.EVENT_READ, act)

    def _close(self) -> None:
        """In a child: it has nothing of this, and above all of no other child's."""
        self._requests.close()
        self._selector.close()
        for child in self._children.values():
            os.close(child.pidfd)
            child.life.close()


def _kill(child: _Child) -> None:
    signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)


def _outlive(_number: int, _frame: object) -> None:
    """The worker alone says when to end. Not SIG_IGN, which whatever a task starts would inherit."""


def main() -> None:
    fd, runner, *preload = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _outlive)
    for module in (*preload, runner.partition(":")[0]):
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # what is here now stays shared with the children: their collections do not touch it
    process_tree.adopt_orphans()
    _Server(socket.socket(fileno=int(fd)), runner).serve()


if __name__ == "__main__":
    main()
