"""The whole system as `make run` starts it, on a free port and in a folder of its own, with short times."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import redis

from tests.support.rest import Answer, call
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]


class RunningSystem:
    """Started and answering when made. Its data are gone when it is closed, unless `var` says where to leave them."""

    def __init__(self, var: Path | None = None, /, **settings: str) -> None:
        self._folder = None if var else tempfile.TemporaryDirectory(prefix="invigil-run-")
        self.var = var or Path(self._folder.name if self._folder else "")
        self.bind = f"127.0.0.1:{free_port()}"
        self._output = open(self.var / "stdout", "wb")  # noqa: SIM115 - closed with the system
        self._errors = open(self.var / "stderr", "wb")  # noqa: SIM115
        self._environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("INVIGIL_")},
            "INVIGIL_VAR": str(self.var),
            "INVIGIL_BIND": self.bind,
            **settings,
        }
        self.launch()

    def launch(self) -> None:
        self._launcher = subprocess.Popen(
            [sys.executable, "run.py"], cwd=ROOT, env=self._environ, stdout=self._output, stderr=self._errors
        )
        eventually(self._is_ready, 30, "the system's start")

    def _is_ready(self) -> bool:
        assert self._launcher.poll() is None, f"run.py ended: {self.output()}{self.errors()}"
        try:
            return self.call("GET", "/readyz").status == 200 and len(self.pids("worker")) >= 3
        except OSError:
            return False

    def call(self, method: str, path: str, body: object = None, key: str | None = None) -> Answer:
        """With the key made at the first start, unless another is given."""
        kept = self.var / "dev-key"
        return call(self.bind, key or (kept.read_text() if kept.exists() else ""), method, path, body)

    def start_exam(self, **body: object) -> dict[str, Any]:
        answer = self.call("POST", "/v1/exams", body or None)
        assert answer.status == 201, answer
        exam: dict[str, Any] = answer.body
        return exam

    def is_stored_as_ended(self, pk: str) -> bool:
        """Whether the outcome is on disk, without reading it over REST, which would settle it."""
        return any((self.var / "store/exams").rglob(f"{pk}.2"))

    def mails(self) -> list[EmailMessage]:
        """All digests delivered so far."""
        folder = self.var / "mail/new"
        return [message_from_bytes(path.read_bytes(), policy=default) for path in sorted(folder.glob("*"))]

    def mentions(self, pk: str) -> int:
        """In how many digests an exam is."""
        return sum(pk in mail.get_body(("plain",)).get_content() for mail in self.mails())  # type: ignore[union-attr]

    def redis(self) -> "redis.Redis":
        return redis.Redis.from_url(f"unix://{self.var}/redis.sock")

    def output(self) -> str:
        return (self.var / "stdout").read_text()

    def errors(self) -> str:
        return (self.var / "stderr").read_text()

    def log(self) -> list[dict[str, Any]]:
        """What the parts have logged."""
        return [json.loads(line) for line in self.errors().splitlines() if line.startswith("{") and line.endswith("}")]

    def states(self, state: str, task: str) -> list[str]:
        """The ids of tasks that are in this state now."""
        found: list[dict[str, Any]] = self.call("GET", f"/v1/tasks?state={state}&task={task}").body["items"]
        return [each["id"] for each in found]

    def pids(self, part: str = "") -> list[int]:
        """The processes of this system whose command line has `part` as a word or a program's name; "redis" is the
        private Redis, whatever its program.
        """
        mark, address = f"INVIGIL_VAR={self.var}".encode(), f"{self.var}/redis.sock".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes()
                # Redis writes a title over its environment.
                is_ours = mark in (folder / "environ").read_bytes().split(b"\0") or address in command
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            words = command.decode(errors="replace").split("\0")
            names = {"redis"} if address in command else {word.rpartition("/")[2] for word in words}
            if is_ours and int(folder.name) != self._launcher.pid and (not part or part in names):
                found.append(int(folder.name))
        return sorted(found)

    def signal(self, part: str, number: signal.Signals) -> list[int]:
        """Sends it to every process of a part."""
        pids = self.pids(part)
        for pid in pids:
            os.kill(pid, number)
        return pids

    def kill(self, part: str) -> None:
        """`kill -9` of a part, and then waits until it has been started again: as many processes as are needed."""
        killed = set(self.signal(part, signal.SIGKILL))
        assert killed, f"no process of {part} runs"
        eventually(lambda: set(self.pids(part)) - killed, 15, f"the return of {part}")

    def interrupt(self) -> int:
        """Ctrl-C; the launcher's exit status."""
        self._launcher.send_signal(signal.SIGINT)
        return self._launcher.wait(40)

    def kill_launcher(self) -> None:
        self._launcher.kill()
        self._launcher.wait()

    def close(self) -> None:
        if self._launcher.poll() is None:
            self.interrupt()
        eventually(lambda: not self.pids(), 40, "the end of all parts")
        self._output.close()
        self._errors.close()
        if self._folder:
            self._folder.cleanup()


def free_port() -> int:
    """One that nobody listens on now. Somebody may a moment later; the launcher says so if that happens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
