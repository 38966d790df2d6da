"""Tasks that do what tasks may do, with their bodies, for workers and their child processes in tests."""

import ctypes
import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from shared.errors import Ignore, Reject, SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLost
from shared.services import for_worker
from shared.settings import Settings
from shared.tasks.payloads import PAYLOAD_BYTES
from shared.tasks.result import AsyncResult
from shared.tasks.task import Task, task
from worker.bodies import bodies_in, body_of
from worker.bound_task import BoundTask
from worker.child import ChildRunner

SHORT = timedelta(milliseconds=20)


class Point(msgspec.Struct):
    x: float
    y: float


@task(is_public=True)
def add(x: int, y: int = 0) -> int:
    """x + y."""


@task(is_public=True)
def echo(value: Any) -> Any:
    """What it is given."""


@task()
def later(at: datetime, point: Point, *, note: Annotated[str, Meta(max_length=10)] = "") -> str:
    """Types of ours that JSON has not."""


@task(is_public=True)
def fail(message: str = "on purpose") -> None:
    """Raises ValueError."""


@task(autoretry_for=(ValueError,), max_retries=2, min_backoff=timedelta(milliseconds=20))
def fail_again(message: str) -> None:
    """Raises ValueError each time."""


@task(max_retries=3, min_backoff=timedelta(milliseconds=20))
def retry_until(path: str, tries: int, countdown: float | None = None) -> int:
    """Retries itself until it has been tried so often; notes its retries in a file."""


@task(is_public=True)
def wait_for(path: str, seconds: float = 30.0) -> str:
    """Waits in a thread until the file is there."""


@task(is_public=True, isolated=True)
def wait_in_child(path: str, seconds: float = 30.0) -> str:
    """The same in a child process."""


@task(isolated=True)
def add_in_child(x: int, y: int = 0) -> int:
    """x + y."""


@task(time_limit=timedelta(seconds=0.3))
def spin() -> None:
    """Never ends."""


@task(soft_time_limit=timedelta(seconds=0.2), time_limit=timedelta(seconds=20))
def clean_up(path: str) -> str:
    """Sleeps, and cleans up at its soft limit."""


@task(
    isolated=True, autoretry_for=(WorkerLost, TimeLimitExceeded), max_retries=1, min_backoff=timedelta(milliseconds=20)
)
def crash_once(path: str) -> str:
    """Crashes unless it has before."""


@task(isolated=True)
def crash() -> None:
    """A segmentation fault."""


@task()
def tell(steps: int, path: str) -> list[Any]:
    """Tells its progress, then waits for the file; returns what it is given as self.request."""


@task(isolated=True)
def tell_in_child(steps: int, path: str) -> list[Any]:
    """The same in a child process."""


@task(is_public=True)
def ignore() -> None:
    """Raises Ignore."""


@task()
def reject() -> None:
    """Raises Reject."""


@task(isolated=True)
def fail_in_child(how: str) -> None:
    """Raises what its name says."""


@task()
def blob(size: int) -> str:
    """So many characters."""


@task(isolated=True)
def blob_in_child(size: int) -> str:
    """So many characters."""


@task()
def length(text: str) -> int:
    """Of a text."""


@task()
def note(path: str, text: str) -> None:
    """Writes a line into a file."""


@task(time_limit=timedelta(seconds=0.3))
def stuck(how: str) -> None:
    """Never ends."""


@task(time_limit=timedelta(seconds=0.2), autoretry_for=(TimeLimitExceeded,), max_retries=1, min_backoff=SHORT)
def stuck_again(path: str) -> None:
    """Never ends; notes each run in a file."""


@task(time_limit=timedelta(seconds=0.2), autoretry_for=(Exception,), max_retries=1, min_backoff=SHORT)
def stuck_once(path: str) -> None:
    """Never ends; notes each run in a file."""


@task(soft_time_limit=timedelta(seconds=0.2), autoretry_for=(Exception,), max_retries=1, min_backoff=SHORT)
def sleep_long(path: str) -> None:
    """Sleeps beyond its soft limit; notes each run in a file."""


@task(soft_time_limit=timedelta(seconds=0.1), time_limit=timedelta(seconds=0.4))
def go_on() -> None:
    """Goes on after its soft limit."""


@task(is_public=True)
def sleep(seconds: float) -> float:
    """In a thread, unless its call has a limit."""


@task(
    autoretry_for=(ValueError,), max_retries=3, min_backoff=timedelta(seconds=0.1), max_backoff=timedelta(seconds=0.3)
)
def back_off(path: str) -> None:
    """Raises ValueError; notes when in a file."""


@task(autoretry_for=(ValueError,), max_retries=2, min_backoff=SHORT)
def fail_slowly(path: str) -> None:
    """Raises ValueError once the file is there."""


@task(autoretry_for=(Exception,), max_retries=2, min_backoff=SHORT)
def end(how: str, path: str) -> None:
    """Ends as it is told; notes each run in a file."""


@task(isolated=True, autoretry_for=(Exception,), max_retries=2, min_backoff=SHORT)
def end_in_child(how: str, path: str) -> None:
    """The same in a child process."""


@task(max_retries=1, min_backoff=SHORT)
def retry(max_retries: int | None, exc: str | None) -> int:
    """Retries itself for ever, with these options of self.retry."""


@task(max_retries=1, min_backoff=SHORT)
def retry_more(path: str) -> None:
    """Retries itself for ever, at first with more retries than it has; notes what it is told of them in a file."""


@task()
def retry_oddly(how: str) -> None:
    """Retries itself with one of ODD_RETRIES."""


@task(isolated=True)
def retry_oddly_in_child(how: str) -> None:
    """The same in a child process."""


@task(autoretry_for=(ValueError,), min_backoff=SHORT)
def fail_with(path: str, text: str) -> None:
    """Raises ValueError once the file is there."""


@task()
def blob_after(path: str, size: int) -> str:
    """So many characters, once the file is there."""


@task()
def fork() -> str:
    """In two processes from then on."""


@task()
def give(what: str) -> Any:
    """Returns something of this kind."""


@task(isolated=True)
def give_in_child(what: str) -> Any:
    """The same in a child process."""


@task()
def wait_within(x: int) -> int:
    """Sends another task, and returns its result."""


@task()
def wait_for_task(path: str, task_id: str, timeout: float) -> str:
    """Once the file is there. Returns its result or what `get` raises, and notes that in a file."""


@task()
def send_on(x: int) -> str:
    """Sends another task, and returns its id."""


@task(isolated=True)
def send_on_in_child(x: int) -> str:
    """The same in a child process."""


@task(priority=8, queue="slow")
def request(how: str = "") -> dict[str, Any]:
    """What it is given as self.request."""


@task()
def progress(current: Any, total: Any, note: Any) -> None:
    """Tells this progress."""


TASKS = {each.name: each for each in list(vars().values()) if isinstance(each, Task)}


@body_of(add)
def _add(x: int, y: int = 0) -> int:
    return x + y


@body_of(add_in_child)
def _add_in_child(x: int, y: int = 0) -> int:
    return x + y


@body_of(echo)
def _echo(value: Any) -> Any:
    return value


@body_of(later)
def _later(at: datetime, point: Point, *, note: str = "") -> str:
    return f"{type(at).__name__} {type(point).__name__} {at.isoformat()} {point.x + point.y} {note}"


@body_of(fail)
def _fail(message: str = "on purpose") -> None:
    raise ValueError(message)


@body_of(fail_again)
def _fail_again(message: str) -> None:
    raise ValueError(message)


@body_of(retry_until, bind=True)
def _retry_until(self: BoundTask, path: str, tries: int, countdown: float | None = None) -> int:
    append(path, str(self.request.retries))
    if self.request.retries + 1 < tries:
        self.retry(countdown=countdown, exc=ValueError("not yet"))
    return self.request.retries


def await_file(path: str, seconds: float, is_aborted: Callable[[], bool]) -> str:
    give_up_at = time.monotonic() + seconds
    Path(f"{path}.begun").write_text(str(os.getpid()), encoding="utf-8")
    while not Path(path).exists():
        if is_aborted():
            return "aborted"
        if time.monotonic() >= give_up_at:
            raise TimeoutError(path)
        time.sleep(0.005)
    return Path(path).read_text(encoding="utf-8")


@body_of(wait_for, bind=True)
def _wait_for(self: BoundTask, path: str, seconds: float = 30.0) -> str:
    return await_file(path, seconds, self.is_aborted)


@body_of(wait_in_child, bind=True)
def _wait_in_child(self: BoundTask, path: str, seconds: float = 30.0) -> str:
    return await_file(path, seconds, self.is_aborted)


@body_of(spin)
def _spin() -> None:
    while True:
        pass


@body_of(clean_up)
def _clean_up(path: str) -> str:
    try:
        time.sleep(20)
    except SoftTimeLimitExceeded:
        append(path, "cleaned up")
        return "cleaned up"
    return "slept"


@body_of(crash_once)
def _crash_once(path: str) -> str:
    if not Path(path).exists():
        Path(path).touch()
        os._exit(3)
    return "survived"


@body_of(crash)
def _crash() -> None:
    ctypes.string_at(0)


def tell_progress(self: BoundTask, steps: int, path: str) -> list[Any]:
    for step in range(1, steps + 1):
        self.update_progress(step, steps, f"step {step}")
    await_file(path, 30.0, self.is_aborted)
    request = self.request
    return [request.id, request.retries, request.deliveries, request.queue, request.priority, request.max_retries]


@body_of(tell, bind=True)
def _tell(self: BoundTask, steps: int, path: str) -> list[Any]:
    return tell_progress(self, steps, path)


@body_of(tell_in_child, bind=True)
def _tell_in_child(self: BoundTask, steps: int, path: str) -> list[Any]:
    return tell_progress(self, steps, path)


@body_of(ignore)
def _ignore() -> None:
    raise Ignore("nothing to do")


@body_of(reject)
def _reject() -> None:
    raise Reject("cannot be done")


@body_of(fail_in_child, bind=True)
def _fail_in_child(self: BoundTask, how: str) -> None:
    if how == "retry":
        self.retry(countdown=0)
    if how == "ignore":
        raise Ignore("nothing to do")
    if how == "exit":
        raise SystemExit(7)
    raise ValueError(how)


@body_of(blob)
def _blob(size: int) -> str:
    return "x" * size


@body_of(blob_in_child)
def _blob_in_child(size: int) -> str:
    return "x" * size


@body_of(length)
def _length(text: str) -> int:
    return len(text)


@body_of(note)
def _note(path: str, text: str) -> None:
    append(path, text)


@body_of(stuck)
def _stuck(how: str) -> None:
    never_end(how)


def never_end(how: str) -> None:
    if how == "sleep":
        time.sleep(60)
    if how == "c":
        re.match("(a+)+$", "a" * 60 + "b")  # takes years, in C and with the GIL
    if how == "deaf":
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    while True:
        try:
            time.sleep(0.001 if how == "deaf" else 0)
        except BaseException:
            if how != "deaf":
                raise


@body_of(stuck_again)
def _stuck_again(path: str) -> None:
    append(path, "run")
    never_end("spin")


@body_of(stuck_once)
def _stuck_once(path: str) -> None:
    append(path, "run")
    never_end("spin")


@body_of(sleep_long)
def _sleep_long(path: str) -> None:
    append(path, "run")
    time.sleep(60)


@body_of(go_on)
def _go_on() -> None:
    with suppress(SoftTimeLimitExceeded):
        time.sleep(60)
    never_end("spin")


@body_of(sleep)
def _sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@body_of(back_off)
def _back_off(path: str) -> None:
    append(path, str(time.monotonic()))
    raise ValueError("again")


@body_of(fail_slowly)
def _fail_slowly(path: str) -> None:
    await_file(path, 30.0, lambda: False)
    raise ValueError("slowly")


def end_so(how: str, path: str) -> None:
    append(path, "run")
    ends = {
        "ignore": Ignore("nothing to do"),
        "ignore oddly": Ignore("\ud800", _OddError()),
        "reject": Reject("cannot be done"),
        "odd": _OddError(),
        "leaving": _LeavingError(),
        "badly named": _BadlyNamedError(),
        "surrogate": ValueError("\ud800"),
        "long": ValueError("x" * 100_000),
        "exit": SystemExit(7),
        "interrupt": KeyboardInterrupt(),
    }
    raise ends[how]


class _OddError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("cannot say")


class _LeavingError(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class _BadlyNamedError(Exception):
    pass


_BadlyNamedError.__qualname__ = "Bad\ud800"


@body_of(end)
def _end(how: str, path: str) -> None:
    end_so(how, path)


@body_of(end_in_child)
def _end_in_child(how: str, path: str) -> None:
    end_so(how, path)


@body_of(retry, bind=True)
def _retry(self: BoundTask, max_retries: int | None, exc: str | None) -> int:
    self.retry(countdown=0, max_retries=max_retries, exc=None if exc is None else KeyError(exc))


@body_of(retry_more, bind=True)
def _retry_more(self: BoundTask, path: str) -> None:
    append(path, f"{self.request.retries} {self.request.max_retries}")
    self.retry(countdown=0, max_retries=2 if self.request.retries == 0 else None)


ODD_RETRIES: dict[str, dict[str, Any]] = {
    "too far": {"countdown": 1e13},
    "much too far": {"countdown": 1e18},
    "for ever": {"countdown": math.inf},
    "back": {"countdown": -1},
    "soon": {"countdown": "soon"},
    "too often": {"max_retries": 1001},
    "much too often": {"max_retries": 2**70},
    "half": {"max_retries": 2.5},
    "less than never": {"max_retries": -1},
}


@body_of(retry_oddly, bind=True)
def _retry_oddly(self: BoundTask, how: str) -> None:
    self.retry(**ODD_RETRIES[how])


@body_of(retry_oddly_in_child, bind=True)
def _retry_oddly_in_child(self: BoundTask, how: str) -> None:
    self.retry(**ODD_RETRIES[how])


@body_of(fail_with)
def _fail_with(path: str, text: str) -> None:
    await_file(path, 60.0, lambda: False)
    raise ValueError("on purpose")


@body_of(blob_after)
def _blob_after(path: str, size: int) -> str:
    await_file(path, 30.0, lambda: False)
    return "x" * size


@body_of(fork)
def _fork() -> str:
    forked = os.fork()
    if forked == 0:
        return "forked"
    os.waitpid(forked, 0)
    return "original"


def made(what: str) -> Any:
    things: dict[str, Any] = {
        "nested": {"a": [1, 2.5, None, True, "ä", {"b": []}]},
        "tuple": (1, (2, 3)),
        "object": object(),
        "set": {1},
        "bytes": b"x",
        "NaN": math.nan,
        "surrogate": "\ud800",
        "instant": datetime(2026, 1, 1, tzinfo=UTC),
        "struct": Point(1, 2),
        "keys": {1: 2},
        "large integer": 2**64,
        "too large": "x" * (PAYLOAD_BYTES + 1),
        "too deep": nested(200),
    }
    return things[what]


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


@body_of(give)
def _give(what: str) -> Any:
    return made(what)


@body_of(give_in_child)
def _give_in_child(what: str) -> Any:
    return made(what)


@body_of(wait_within)
def _wait_within(x: int) -> int:
    return add.delay(x, 1).get(20)


@body_of(wait_for_task)
def _wait_for_task(path: str, task_id: str, timeout: float) -> str:
    await_file(path, 30.0, lambda: False)
    try:
        told = str(AsyncResult[Any](task_id).get(timeout))
    except Exception as error:  # noqa: BLE001 - this is what it is for
        told = type(error).__name__
    append(f"{path}.{timeout:g}", told)
    return told


@body_of(send_on)
def _send_on(x: int) -> str:
    return add.delay(x, 1).id


@body_of(send_on_in_child)
def _send_on_in_child(x: int) -> str:
    return add.delay(x, 1).id


@body_of(request, bind=True)
def _request(self: BoundTask, how: str = "") -> dict[str, Any]:
    if how == "retry" and self.request.retries == 0:
        self.retry(countdown=0)
    told: dict[str, Any] = msgspec.to_builtins(self.request)
    return told


@body_of(progress, bind=True)
def _progress(self: BoundTask, current: Any, total: Any, note: Any) -> None:
    self.update_progress(current, total, note)


def append(path: str, line: str) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def runner() -> Callable[[bytes, Callable[[bytes], bytes]], bytes]:
    """Of these tasks, in a child process."""
    services = for_worker(Settings.from_environ(os.environ), tasks=list(TASKS.values()), is_child=True)
    return ChildRunner(services, bodies_in([sys.modules[__name__]], TASKS.values()))
