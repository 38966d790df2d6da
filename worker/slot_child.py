"""What a child process of a worker does: one job after the other, in its main thread."""

import importlib
import os
import select
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, TypeAlias

from worker import process_tree
from worker.slot_channel import ANSWER, JOB, QUESTION, READY, REPLY, Channel, ChannelClosed
from worker.soft_limit import held_back

Ask: TypeAlias = Callable[[bytes], bytes]
Run: TypeAlias = Callable[[bytes, Ask], bytes]

_KILLED_EARLIER = 500  # of 1,000: when memory runs out, the kernel takes a child before its worker


def live(end: socket.socket, runner: str, parent: int) -> NoReturn:
    """To the end of the worker, or of this process."""
    status = 1
    try:
        process_tree.die_with(parent)
        process_tree.adopt_orphans()
        os.setsid()
        _volunteer_for_the_oom_killer()
        with suppress(ChannelClosed):  # the worker wants nothing more of it
            _work(end, runner)
        status = 0
    except BaseException:  # noqa: BLE001 - the process ends here, whatever it was
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _work(end: socket.socket, runner: str) -> None:
    channel = _channel(end)
    module, _, function = runner.partition(":")
    run: Run = getattr(importlib.import_module(module), function)()
    me = os.getpid()
    channel.send(READY, b"")
    while True:
        kind, job = channel.receive()
        if kind != JOB:
            raise RuntimeError(f"the worker has sent {kind!r} for a job")
        questions = _Questions(channel)
        reply = run(job, questions.ask)
        if os.getpid() != me:
            return  # the body has forked, and this is not the process that was given the job
        questions.close()
        sys.stdout.flush()  # not to be held back until the next job has filled the buffer
        channel.send(REPLY, reply)
        process_tree.bury_orphans(keep=())


class _Questions:
    """What a job asks the worker, from any of its threads, one at a time."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._pid = os.getpid()
        self._one_at_a_time = threading.Lock()
        self._is_closed = False

    def ask(self, question: bytes) -> bytes:
        if os.getpid() != self._pid:
            raise RuntimeError("only the process that was given the job can ask, not one that it has forked")
        with held_back(), self._one_at_a_time:
            if self._is_closed:
                raise RuntimeError("the job has ended")
            self._channel.send(QUESTION, question)
            kind, answer = self._channel.receive()
            if kind != ANSWER:
                raise RuntimeError(f"the worker has sent {kind!r} for an answer")
            return answer

    def close(self) -> None:
        """None is under way after this, and none follows."""
        with self._one_at_a_time:
            self._is_closed = True


def _channel(end: socket.socket) -> Channel:
    end.setblocking(False)
    poll = select.poll()
    poll.register(end)

    def wait(event: int) -> None:
        poll.modify(end, event)
        poll.poll()

    return Channel(end, wait)


def _volunteer_for_the_oom_killer() -> None:
    with open("/proc/self/oom_score_adj", "r+") as file:
        score = int(file.read())
        file.seek(0)
        file.write(str(min(1000, score + _KILLED_EARLIER)))
