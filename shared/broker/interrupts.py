"""Interrupts bodies, and nothing but bodies: a run that takes too long, or that somebody wants stopped.

CPython raises an exception in another thread at its next bytecode, which may be long after it was asked to. So the
body is enclosed: an exception is only set while the thread is inside, once at most for a run, and one that has not
come up when the body is left is taken back. Acknowledging is never interrupted. A body that is inside a call which
does not return (a sleep, a system call) is interrupted when that returns.
"""

import ctypes
import functools
import threading
import time
from collections.abc import Callable
from typing import Any

from dramatiq import Actor, Broker, MessageProxy, Middleware
from dramatiq.middleware import Interrupt, TimeLimitExceeded
from dramatiq.threading import raise_thread_exception

from shared.broker.deliveries import HeldMessage
from shared.broker.loops import Loop

LOOK_EVERY_S = 0.25
USUAL_LIMIT_MS = 600_000  # Dramatiq's own


class Revoked(Interrupt):
    """Somebody has cancelled the task that is running."""


class _Run:
    """One run of a body in one thread."""

    def __init__(self, message: MessageProxy, deadline: float) -> None:
        self.message = message
        self.deadline = deadline
        self.has_begun = False
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._is_inside = False
        self._cause: type[Interrupt] | None = None

    def interrupt(self, cause: type[Interrupt]) -> None:
        """At once if it is inside its body, or as soon as it enters."""
        with self._lock:
            if self._cause is None:
                self._cause = cause
                if self._is_inside:
                    raise_thread_exception(self._thread, cause)  # type: ignore[no-untyped-call]

    def __enter__(self) -> None:
        with self._lock:
            self.has_begun = True
            if self._cause is not None:
                raise self._cause
            self._is_inside = True

    def __exit__(self, *_error: object) -> None:
        # An exception that comes up in here comes up once, and the caller takes it for the body's.
        with self._lock:
            self._is_inside = False
            if self._cause is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), None)


class Interrupts(Middleware):
    """Encloses every actor's function. Takes Dramatiq's option `time_limit`, in ms."""

    def __init__(self) -> None:
        self._runs: dict[int, _Run] = {}

    @property
    def actor_options(self) -> set[str]:
        return {"time_limit"}

    def interrupt(self, task_id: str) -> None:
        """Stops the run of this task with Revoked, unless others run together with it."""
        for run in list(self._runs.values()):
            has_others = isinstance(run.message, HeldMessage) and len(run.message.deliveries) > 1
            if run.message.message_id == task_id and not has_others:
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
        limit_ms = message.options.get("time_limit") or options.get("time_limit", USUAL_LIMIT_MS)
        self._runs[threading.get_ident()] = _Run(message, time.monotonic() + limit_ms / 1000)

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


class TimeLimits(Loop):
    """Looks which runs exceed their limit."""

    def __init__(self, interrupts: Interrupts) -> None:
        super().__init__()
        self._interrupts = interrupts

    def turn(self) -> None:
        self._interrupts.end_overdue()
        self.stopping.wait(LOOK_EVERY_S)
