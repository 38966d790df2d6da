"""Jobs for the children of tests: a function's name and its arguments as JSON, its answer as JSON."""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from shared.errors import SoftTimeLimitExceeded
from worker.slot_child import Ask, Run
from worker.soft_limit import soft_limit

_never = threading.Event()


def make() -> Run:
    return _run


def broken() -> Run:
    raise RuntimeError("this runner cannot be made")


def make_once_allowed() -> Run:
    """When the file is there that the environment names."""
    if not os.path.exists(os.environ["ALLOWED"]):
        raise RuntimeError("not yet")
    return _run


def job(name: str, *arguments: object) -> bytes:
    return json.dumps([name, *arguments]).encode()


def _run(data: bytes, ask: Ask) -> bytes:
    if data.startswith(b"echo "):  # whatever bytes
        return data[5:]
    name, *arguments = json.loads(data)
    body: Callable[..., object] = globals()[name]
    return json.dumps(body(ask, *arguments)).encode()


def nothing(ask: Ask) -> float:
    return time.monotonic()


def pid(ask: Ask) -> int:
    return os.getpid()


def questions(ask: Ask, number: int, size: int) -> int:
    return sum(len(ask(b"?" * size)) for _ in range(number))


def questions_for_ever(ask: Ask) -> None:
    while True:
        ask(b"again")


def questions_from_threads(ask: Ask, number: int) -> list[str]:
    answers: list[str] = []
    threads = [
        threading.Thread(target=lambda mine=str(each): answers.append(ask(mine.encode()).decode()))
        for each in range(number)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(answers, key=int)


def question_too_late(ask: Ask, path: str) -> None:
    """A thread of this job asks when it is over."""

    def later() -> None:
        _never.wait(0.2)
        try:
            ask(b"too late")
        except RuntimeError as error:
            with open(path, "w") as file:
                file.write(str(error))

    threading.Thread(target=later).start()


def question_of_a_forked_process(ask: Ask) -> int:
    forked = os.fork()
    if forked == 0:
        try:
            ask(b"who am I?")
        except RuntimeError:
            os._exit(7)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1])


def sleep(ask: Ask, seconds: float) -> None:
    time.sleep(seconds)


def tell_and_sleep(ask: Ask, seconds: float) -> None:
    ask(str(os.getpid()).encode())
    time.sleep(seconds)


def spin(ask: Ask) -> None:
    ask(str(os.getpid()).encode())
    while True:
        pass


def hold_the_gil(ask: Ask) -> None:
    """In a C call that never lets go of it and returns for no signal: seconds of it."""
    ask(str(os.getpid()).encode())
    10 ** (10**8)


def ignore_signals(ask: Ask) -> None:
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    ask(str(os.getpid()).encode())
    while True:
        time.sleep(1000)


def start_others(ask: Ask, then: str) -> None:
    """A child, one in a session of its own, a daemon (forked twice), a forked process that keeps every connection."""
    wait = [sys.executable, "-c", "import time; time.sleep(1000)"]
    pids = [os.getpid(), subprocess.Popen(wait).pid, subprocess.Popen(wait, start_new_session=True).pid]
    ours, theirs = socket.socketpair()
    first = os.fork()
    if first == 0:
        os.setsid()
        second = os.fork()
        if second:
            theirs.send(str(second).encode())
            os._exit(0)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        while True:
            time.sleep(1000)
    os.waitpid(first, 0)
    pids.append(int(ours.recv(20)))
    ask(json.dumps(pids).encode())
    globals()[then](lambda _: b"")


def flee(ask: Ask, seconds: float) -> None:
    """One process after the other, each the parent of the next and gone at once."""
    until = time.monotonic() + seconds
    if os.fork() == 0:
        os.setsid()
        while time.monotonic() < until:
            if os.fork():
                os._exit(0)
        os._exit(0)
    wait_for_ever(ask)


def leave_orphans(ask: Ask, number: int) -> int:
    """They have ended when this has."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    for _ in range(number):
        subprocess.run(["sh", "-c", "sleep 0.05 &"], close_fds=False, check=True)
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
    return os.getpid()


def wait_for_ever(ask: Ask) -> None:
    while True:
        time.sleep(1000)


def fall_over(ask: Ask) -> None:
    ctypes.string_at(0)


def leave(ask: Ask, status: int) -> None:
    os._exit(status)


def exit_(ask: Ask) -> None:
    sys.exit(3)


def kill_itself(ask: Ask) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def raise_(ask: Ask) -> None:
    raise ZeroDivisionError


def return_twice(ask: Ask) -> str:
    """Forks, and both go on as if each had been given the job."""
    return "forked" if os.fork() == 0 else "original"


def write(ask: Ask, text: str, then: str) -> None:
    """Into the connection with the worker."""
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            is_socket = os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
        except OSError:
            continue
        if is_socket and fd > 2:
            os.write(fd, text.encode("latin-1"))
    globals()[then](ask)


def close_everything(ask: Ask) -> None:
    os.closerange(3, 1000)
    wait_for_ever(ask)


def sockets(ask: Ask) -> list[str]:
    """What this process has open but for its three standard files."""
    found = []
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd > 2:
            try:
                found.append(os.readlink(f"/proc/self/fd/{fd}"))
            except OSError:  # the listing's own
                continue
    return found


def signals_of_a_started_process(ask: Ask) -> list[str]:
    """What it ignores and blocks, as the kernel has it."""
    status = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=True).stdout
    return [line.split()[1] for line in status.splitlines() if line.startswith(("SigIgn", "SigBlk"))]


def oom_score_adj(ask: Ask) -> int:
    with open("/proc/self/oom_score_adj") as file:
        return int(file.read())


def gently(ask: Ask, seconds: float, body: str, *arguments: Any) -> str:
    """How `body` ends within this soft limit."""
    began = time.monotonic()
    try:
        with soft_limit(seconds):
            globals()[body](ask, *arguments)
    except SoftTimeLimitExceeded:
        return f"{time.monotonic() - began:.2f}"
    return "ended"


def clean_up(ask: Ask) -> None:
    try:
        time.sleep(1000)
    except SoftTimeLimitExceeded:
        ask(b"cleaning up")
        time.sleep(0.2)
        ask(b"cleaned up")


def never_give_up(ask: Ask) -> None:
    while True:
        try:
            time.sleep(1000)
        except SoftTimeLimitExceeded:
            ask(b"no")


def count(ask: Ask) -> None:
    number = 0
    while True:
        number += 1


def ask_slowly(ask: Ask) -> None:
    """The limit comes while the worker answers."""
    ask(b"take your time")
    ask(b"never asked")
