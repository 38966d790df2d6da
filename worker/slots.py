"""Child processes for the bodies that must be stoppable: whatever such a body does, it ends at its limit, and alone.

A thread that has a job takes a warm child, which is its own meanwhile, and talks with it over a socket. Children are
forked by a process that does nothing else (worker/slot_server.py), and which kills a child, and all that it has
started, as soon as this side closes its life. A worker that dies closes all of them.
"""

import math
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from itertools import chain, repeat

import structlog

from shared.errors import TimeLimitExceeded, WorkerLost
from worker.slot_channel import ANSWER, JOB, QUESTION, READY, REPLY, Channel, ChannelClosed, NotAMessage
from worker.slot_server import STATUS

_READY_WITHIN_S = 30.0  # it imports what has not been preloaded
_DIES_WITHIN_S = 1.0  # when it has closed its connection
_KILLED_WITHIN_S = 5.0
_LONGEST_WAIT_S = 3600.0  # then it waits again: poll counts milliseconds in 32 bits
_STOPPED = "the worker has stopped"
_PAUSES_S = (0.1, 0.5, 1.0, 5.0)  # before another child is tried; the last one again and again

_log = structlog.get_logger(__name__)


class _NoChild(Exception):
    """None can be started now: no memory, no process more, a machine that is too busy."""


class Running:
    """A job that waits for a child or that one is doing, and may be kept from ending."""

    def __init__(self) -> None:
        self._child: _Child | None = None
        self._lock = threading.Lock()
        self._is_over = False
        self._cause: BaseException | None = None
        self._is_stopped = threading.Event()

    def stop(self, cause: BaseException) -> None:
        """The child is killed and `run` raises `cause`. Nothing happens if the job is over or has been stopped."""
        with self._lock:
            if not self._is_over and self._cause is None:
                self._cause = cause
                self._is_stopped.set()
                if self._child is not None:
                    self._child.hang_up()

    def use(self, child: "_Child | None") -> None:
        """From now on this is the one to kill."""
        with self._lock:
            self._child = child

    def pause(self, seconds: float) -> None:
        """Raises what the job has been stopped with, at once."""
        if self._is_stopped.wait(seconds) and self._cause is not None:
            raise self._cause

    def end(self) -> BaseException | None:
        """What it has been stopped with; it is too late for that from now on."""
        with self._lock:
            self._is_over = True
        return self._cause

    def end_unstopped(self) -> None:
        """Raises what it has been stopped with."""
        if cause := self.end():
            raise cause


class Slots:
    """As many children as there have been jobs at once, each for one job at a time.

    `runner` is "module:function", called once in each child: it makes the function that does a job there, which takes
    the job and `ask`. Its module and those of `preload` are imported before children are forked.
    """

    def __init__(self, runner: str, preload: Sequence[str] = (), warm: int = 1) -> None:
        self._server = _Server(runner, preload)
        self._warm = warm
        self._lock = threading.Lock()
        self._idle: list[_Child] = []
        self._running: set[Running] = set()
        self._is_closed = False

    def start(self) -> None:
        """Waits for the children that are to be warm. WorkerLost if they cannot start: stderr has the reason."""
        try:
            for _ in range(self._warm):
                self._idle.append(self._server.fork())
            for child in self._idle:
                child.wait_until_ready()
        except _NoChild as error:
            raise WorkerLost(str(error)) from None

    def run(
        self,
        job: bytes,
        *,
        time_limit_s: float | None,
        answer: Callable[[bytes], bytes],
        on_start: Callable[[Running], None],
    ) -> bytes:
        """What a child replies to this job; or raises TimeLimitExceeded, WorkerLost, or what it is stopped with. Then
        nothing of the child and of what it has started is left. The limit counts from when a child has the job; as long
        as there is none, whatever keeps it from starting, the job waits.

        `answer` must be quick: the limit is kept, and a stop heeded, when it returns. What it raises ends the job.
        """
        running = Running()
        self._enter(running)
        try:
            on_start(running)
            child = self._ready_child(running)
            try:
                reply = child.run(job, answer, time_limit_s)
                running.end_unstopped()
            except BaseException as error:
                cause = running.end() or error
                how = child.end(by_itself=isinstance(cause, ChannelClosed))
                self._replace()
                if isinstance(cause, ChannelClosed | NotAMessage):
                    raise WorkerLost(f"the process that ran it {how or cause}") from None
                if cause is error:
                    raise
                raise cause from None
        finally:
            self._leave(running)
        self._put_back(child)
        return reply

    def close(self) -> None:
        """Kills all children; jobs under way raise WorkerLost."""
        with self._lock:
            self._is_closed = True
            running = list(self._running)
            idle, self._idle = self._idle, []
        for each in running:
            each.stop(WorkerLost(_STOPPED))
        for child in idle:
            child.close()
        self._server.close()

    def _ready_child(self, running: Running) -> "_Child":
        """However long it takes. Raises what the job is stopped with meanwhile."""
        running.pause(0)
        pauses = chain(_PAUSES_S, repeat(_PAUSES_S[-1]))
        while True:
            try:
                return self._begin(running)
            except _NoChild as error:
                pause_s = next(pauses)
                _log.warning("no_child", why=str(error), again_in_s=pause_s)
                running.pause(pause_s)

    def _begin(self, running: Running) -> "_Child":
        child = self._take()
        try:
            running.use(child)
            running.pause(0)
            child.wait_until_ready()
        except BaseException:
            running.use(None)
            child.end(by_itself=False)
            running.pause(0)
            raise
        return child

    def _take(self) -> "_Child":
        """The one used last, whose memory is warm."""
        while True:
            try:
                child = self._idle.pop()
            except IndexError:
                return self._server.fork()
            if child.is_alive():
                return child
            child.close()

    def _enter(self, running: Running) -> None:
        with self._lock:
            if self._is_closed:
                raise WorkerLost(_STOPPED)
            self._running.add(running)

    def _leave(self, running: Running) -> None:
        with self._lock:
            self._running.discard(running)

    def _replace(self) -> None:
        """Used last, so that it has time to get ready. Where none can be had, the next run says so."""
        with suppress(_NoChild, WorkerLost), self._lock:
            if not self._is_closed:
                self._idle.insert(0, self._server.fork())

    def _put_back(self, child: "_Child") -> None:
        with self._lock:
            if not self._is_closed:
                self._idle.append(child)
                return
        child.close()


class _Server:
    """The process that forks the children; started anew when it has died, and they with it."""

    def __init__(self, runner: str, preload: Sequence[str]) -> None:
        self._arguments = [runner, *preload]
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None
        self._is_closed = False

    def fork(self) -> "_Child":
        """A child that may not be ready yet. Raises _NoChild, and WorkerLost once it is closed."""
        with ExitStack() as unless_it_works:
            try:
                jobs, its_jobs = map(unless_it_works.enter_context, socket.socketpair())
                life, its_life = map(unless_it_works.enter_context, socket.socketpair())
                with its_jobs, its_life, self._lock:
                    self._request(its_jobs, its_life)
                    server = self._process
            except OSError as error:
                raise _NoChild(f"no process for tasks can be started: {error}") from error
            unless_it_works.pop_all()
        return _Child(jobs, life, server)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            self._end()

    def _request(self, *ends: socket.socket) -> None:
        if self._is_closed:
            raise WorkerLost(_STOPPED)
        for requests in (self._requests or self._start(), None):
            try:
                socket.send_fds(requests or self._start(), [b"fork"], [end.fileno() for end in ends])
            except ConnectionError:  # it has died
                self._end()
            else:
                return
        raise _NoChild("the process that others are forked from does not start")

    def _start(self) -> socket.socket:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "worker.slot_server", str(theirs.fileno()), *self._arguments]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True
            )
        return self._requests

    def _end(self) -> None:
        """It kills its children, and ends, when it gets no more requests."""
        if self._requests is not None and self._process is not None:
            self._requests.close()
            try:
                self._process.wait(_KILLED_WITHIN_S)
            except subprocess.TimeoutExpired:  # frozen, or still importing
                self._process.kill()
                self._process.wait()
        self._requests = self._process = None


class _OutOfTime(Exception):
    """The time is over that somebody wanted to wait for a child."""


class _Child:
    """This side of a child: a socket for jobs, and one which the server writes how it has ended to."""

    def __init__(self, jobs: socket.socket, life: socket.socket, server: "subprocess.Popen[bytes] | None") -> None:
        self._jobs = jobs
        self._life = life
        self._server = server
        jobs.setblocking(False)
        self._channel = Channel(jobs, self._wait)
        self._poll = select.poll()
        self._poll.register(jobs, select.POLLIN)
        self._poll.register(life, select.POLLIN)
        self._is_ready = False
        self._give_up_at = math.inf

    def is_alive(self) -> bool:
        """An idle one has nothing to say."""
        return not self._is_ready or not self._poll.poll(0)

    def wait_until_ready(self) -> None:
        """Raises _NoChild."""
        if not self._is_ready:
            self._give_up_at = time.monotonic() + _READY_WITHIN_S
            try:
                kind, _ = self._channel.receive()
            except _OutOfTime:
                raise _NoChild(f"a process for tasks did not start within {_READY_WITHIN_S:g} s") from None
            except (ChannelClosed, NotAMessage) as error:
                raise _NoChild(f"a process for tasks {error} before its first one") from None
            self._is_ready = kind == READY

    def run(self, job: bytes, answer: Callable[[bytes], bytes], time_limit_s: float | None) -> bytes:
        self._give_up_at = math.inf if time_limit_s is None else time.monotonic() + time_limit_s
        try:
            self._channel.send(JOB, job)
            while True:
                kind, payload = self._channel.receive()
                if kind == REPLY:
                    return payload
                if kind != QUESTION:
                    raise NotAMessage(f"wrote {kind!r} unasked")
                self._channel.send(ANSWER, answer(payload))
                self._check_time()  # however quickly it asks
        except _OutOfTime:
            raise TimeLimitExceeded(f"still running after its hard limit of {time_limit_s:g} s") from None

    def hang_up(self) -> None:
        """From any thread: the one that talks with the child wakes up."""
        self._jobs.shutdown(socket.SHUT_RDWR)

    def end(self, *, by_itself: bool) -> str | None:
        """Returns when nothing is left of it; how it had ended if it did so by itself."""
        try:
            how = self._how_it_ended(_DIES_WITHIN_S) if by_itself else None
            if how is None:
                self._life.shutdown(socket.SHUT_WR)
                if self._how_it_ended(_KILLED_WITHIN_S) is None and self._server is not None:
                    self._server.kill()  # frozen: its children die with it
                    self._how_it_ended(_KILLED_WITHIN_S)
            return how
        finally:
            self.close()

    def close(self) -> None:
        """The server kills it, if it is still there."""
        self._jobs.close()
        self._life.close()

    def _how_it_ended(self, within_s: float) -> str | None:
        """None if it has not yet."""
        self._life.settimeout(within_s)
        try:
            told = self._life.recv(STATUS.size)
        except TimeoutError:
            return None
        except ConnectionError:
            told = b""
        return _in_words(*STATUS.unpack(told)) if told else "died with the process that it was forked from"

    def _wait(self, event: int) -> None:
        self._poll.modify(self._jobs, event)
        left = self._give_up_at - time.monotonic()
        ready = self._poll.poll(math.ceil(1000 * min(max(0.0, left), _LONGEST_WAIT_S)))
        self._check_time()
        if [fd for fd, _ in ready] == [self._life.fileno()]:  # it has left its connection to what it has started
            raise ChannelClosed("closed its connection")

    def _check_time(self) -> None:
        if time.monotonic() >= self._give_up_at:
            raise _OutOfTime


def _in_words(code: int) -> str:
    """Of an exit status, or below zero a signal."""
    if code >= 0:
        return f"ended with status {code}"
    if code == -signal.SIGKILL:
        return "was killed by SIGKILL, as the kernel does when memory runs out"
    names = {each.value: each.name for each in signal.Signals}
    return f"was killed by {names.get(-code, f'signal {-code}')}"
