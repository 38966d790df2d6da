"""The API as it is deployed: gunicorn in a process of its own, on a free port."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from api.keys import SCOPES, KeyFile
from shared.clock import SystemClock
from shared.settings import Settings
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
GUNICORN = str(Path(sys.executable).with_name("gunicorn"))
STARTS_TRIED = 3  # another process may take the free port first
ANSWER_WITHIN_S = 10
END_WITHIN_S = 30


class ApiServer:
    """One worker process; up within its `with`. Its log is a file of JSON lines in `folder`."""

    def __init__(self, folder: Path, redis_url: str, **more: str) -> None:
        values = {"STORE": f"file://{folder}/store", "KEYS": f"{folder}/keys.json", "REDIS_URL": redis_url} | more
        self._environ = {f"INVIGIL_{name}": value for name, value in values.items()} | {"WEB_CONCURRENCY": "1"}
        self._log = folder / "api.log"
        keys = KeyFile(str(Settings.from_environ(self._environ).keys))
        self.key = keys.new("tests", SCOPES, SystemClock().now(), lifetime=None)
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "ApiServer":
        for _ in range(STARTS_TRIED):
            if self._start():
                return self
            self._stop()
        raise AssertionError(self._log.read_text())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def exchange(self, *parts: bytes) -> bytes:
        """Everything the server sends on a connection of its own until it closes it."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=ANSWER_WITHIN_S) as connection:
            answer = b""
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may hang up before the end
                for part in parts:
                    connection.sendall(part)
                while received := connection.recv(65_536):
                    answer += received
        return answer

    def leave(self, *parts: bytes) -> None:
        """Sends this and goes away without waiting for an answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=ANSWER_WITHIN_S) as connection:
            for part in parts:
                connection.sendall(part)

    def request(self, method: str, path: str, *headers: str, body: bytes = b"") -> bytes:
        """A request with the key, after which the server closes the connection."""
        lines = [f"{method} {path} HTTP/1.1", "Host: invigil", f"Authorization: Bearer {self.key}", "Connection: close"]
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1") + body

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_bytes().splitlines()]  # of bytes: a path may have U+2028

    def logged(self, request_id: str) -> dict[str, Any]:
        """The line of the request with this id, once it is there."""

        def look() -> dict[str, Any] | None:
            lines = [line for line in self.log() if line.get("request_id") == request_id and line["event"] == "request"]
            return lines[0] if lines else None

        line = eventually(look, what=f"the log line of {request_id}")
        assert line is not None
        return line

    def worker_pid(self) -> int:
        """The process that answers."""
        assert self._process is not None
        (pid,) = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(pid)

    def is_alive(self) -> bool:
        return self.exchange(self.request("GET", "/livez")).startswith(b"HTTP/1.1 200 ")

    def end(self) -> float:
        """As a container is stopped; the seconds that it took."""
        assert self._process is not None
        began = time.monotonic()
        self._process.terminate()
        assert self._process.wait(END_WITHIN_S) == 0
        return time.monotonic() - began

    def _start(self) -> bool:
        """False where the port was taken after all."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("INVIGIL_")}
        environ |= self._environ | {"INVIGIL_BIND": f"127.0.0.1:{self.port}"}
        command = [GUNICORN, "-c", "api/gunicorn.conf.py", "api.asgi:app"]
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environ, stdout=log, stderr=log, start_new_session=True
            )
        return bool(eventually(lambda: self._has_ended() or self._answers(), within_s=30)) and not self._has_ended()

    def _has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _answers(self) -> bool:
        try:
            return self.is_alive()
        except OSError:
            return False

    def _stop(self) -> None:
        """gunicorn ends its worker; whatever is left of its session is killed."""
        if self._process is None:
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
