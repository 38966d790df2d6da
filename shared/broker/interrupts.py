"""Interrupts bodies, and nothing but bodies: a run that takes too long, or that somebody wants stopped.

CPython raises an exception in another thread at its next bytecode, which may be long after it was asked to. So the
body is enclosed: an exception is only set while the thread is inside, once at most for a run, and one that has not
come up when the body is left is taken back. Acknowledging is never interrupted. A body that is inside a call which
does not return (a sleep, a system call) is interrupted when that returns.

Under gevent the exception comes up at once in whatever the body waits for, and never in a body that only computes.
"""

import ctypes
import functools
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from dramatiq import Actor, Broker, Message, MessageProxy, Middleware
from dramatiq.middleware import Interrupt, TimeLimitExceeded
from dramatiq.threading import is_gevent_active, raise_thread_exception

from shared.broker.deliveries import Delivery, HeldMessage
from shared.broker.loops import Loop

LOOK_EVERY_S = 0.25
USUAL_LIMIT_MS = 600_000  # Dramatiq's own


class Revoked(Interrupt):
    """Somebody has cancelled the task that is running."""


class Run:
    """One run of a body in one thread."""

    def __init__(self, message: MessageProxy, deadline: float, *, in_child: bool) -> None:
        self.message = message
        self.deadline = deadline
        self.has_begun = False
        self.has_left = False
        self.in_child = in_child
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._is_inside = False
        self._cause: type[Interrupt] | None = None
        self._stop: Callable[[BaseException], None] | None = None

    def hand_over(self, stop: Callable[[BaseException], None]) -> None:
        """The body has begun in a child process, which `stop` ends."""
        with self._lock:
            self._stop = stop
            cause = self._cause
        if cause is not None:
            stop(cause())

    def interrupt(self, cause: type[Interrupt]) -> None:
        """At once if it is inside its body, or as soon as it enters."""
        with self._lock:
            if self._cause is not None:
                return
            self._cause = cause
            if self._stop is not None:
                self._stop(cause())
            elif self._is_inside and not self.in_child:
                self._raise(cause)

    def __enter__(self) -> None:
        with self._lock:
            self.has_begun = True
            if self._cause is not None:
                raise self._cause
            self._is_inside = True

    def __exit__(self, *_error: object) -> None:
        # An exception that comes up in here comes up once, and the caller takes it for the body's.
        with self._lock:
            self._is_inside, self.has_left = False, True
            if self._cause is not None and not self.in_child:
                self._take_back()

    def _raise(self, cause: type[Interrupt]) -> None:
        raise_thread_exception(self._thread, cause)  # type: ignore[no-untyped-call]

    def _take_back(self) -> None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), None)


class _GreenletRun(Run):
    """One in a greenlet: while another asks for the interrupt, it waits for something."""

    def __init__(self, message: MessageProxy, deadline: float, *, in_child: bool) -> None:
        super().__init__(message, deadline, in_child=in_child)
        from gevent import get_hub, getcurrent  # not installed where it is not used

        self._greenlet, self._hub = getcurrent(), get_hub()

    def _raise(self, cause: type[Interrupt]) -> None:
        self._hub.loop.run_callback(self._throw, cause)  # only the hub may switch to a greenlet that waits

    def _throw(self, cause: type[Interrupt]) -> None:
        if self._is_inside:  # else it has left its body meanwhile
            self._greenlet.throw(cause)

    def _take_back(self) -> None:
        """Nothing: `_throw` will see it."""


class Interrupts(Middleware):
    """Encloses every actor's function. Takes Dramatiq's option `time_limit`, in ms, and `in_child`, which says whether
    the body hands a message over to a child process and sees to its limit itself.
    """

    def __init__(self) -> None:
        self._runs: dict[int, Run] = {}
        self._make_run = _GreenletRun if is_gevent_active() else Run  # type: ignore[no-untyped-call]

    @property
    def actor_options(self) -> set[str]:
        return {"time_limit", "in_child"}

    def run_here(self) -> Run:
        """The run of the body that asks."""
        return self._runs[threading.get_ident()]

    def has_left_body(self) -> bool:
        """Whether the run of the thread that asks is past its body, as are the hooks that come after it."""
        run = self._runs.get(threading.get_ident())
        return run is None or run.has_left

    def interrupt(self, task_id: str) -> None:
        """Stops the run of this task with Revoked, unless others run together with it."""
        for run in list(self._runs.values()):
            has_others = isinstance(run.message, HeldMessage) and len(run.message.deliveries) > 1
            if run.message.message_id == task_id and not has_others:
                run.interrupt(Revoked)

    def kill(self, delivery: Delivery) -> None:
        """Its end will not be heard: it is stopped where it has a child process. A thread is not disturbed unasked."""
        for run in list(self._runs.values()):
            if run.in_child and isinstance(run.message, HeldMessage) and delivery in run.message.deliveries:
                run.interrupt(Revoked)

    def end_overdue(self) -> None:
        """Stops runs that exceed their time limit."""
        now = time.monotonic()
        for run in list(self._runs.values()):
            if now >= run.deadline:
                run.interrupt(TimeLimitExceeded)

    def before_declare_actor(self, _broker: Broker, actor: Actor[..., Any]) -> None:
        actor.fn = self._enclosed(actor.fn)
        # Dramatiq takes what is named here for an end, not for a failure to be tried again.
        throws = actor.options.get("throws", ())
        actor.options["throws"] = (*(throws if isinstance(throws, tuple) else (throws,)), Revoked)

    def _enclosed(self, body: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(body)
        def enclosed(*args: Any, **kwargs: Any) -> Any:
            run = self._runs.get(threading.get_ident())
            if run is None or run.has_begun:  # called as a plain function, maybe by the body of another actor
                return body(*args, **kwargs)
            with run:
                return body(*args, **kwargs)

        return enclosed

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        options = broker.get_actor(message.actor_name).options
        is_in_child = in_child(options, message)
        limit_ms = message.options.get("time_limit") or options.get("time_limit", USUAL_LIMIT_MS)
        deadline = math.inf if is_in_child or limit_ms is None else time.monotonic() + limit_ms / 1000
        self._runs[threading.get_ident()] = self._make_run(message, deadline, in_child=is_in_child)

    def after_process_message(
        self,
        _broker: Broker,
        _message: MessageProxy,
        *,
        result: object = None,  # noqa: ARG002
        exception: BaseException | None = None,  # noqa: ARG002
    ) -> None:
        self._runs.pop(threading.get_ident(), None)

    def after_skip_message(self, _broker: Broker, _message: MessageProxy) -> None:
        self._runs.pop(threading.get_ident(), None)


def in_child(actor_options: Mapping[str, Any], message: Message[Any] | MessageProxy) -> bool:
    """Whether the body of this actor hands this message over to a child process, as its option `in_child` says."""
    decides: Callable[[Message[Any] | MessageProxy], bool] | None = actor_options.get("in_child")
    return decides is not None and decides(message)


class TimeLimits(Loop):
    """Looks which runs exceed their limit."""

    def __init__(self, interrupts: Interrupts) -> None:
        super().__init__()
        self._interrupts = interrupts

    def turn(self) -> None:
        self._interrupts.end_overdue()
        self.stopping.wait(LOOK_EVERY_S)
