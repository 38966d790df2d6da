"""A private Redis: a real server on a unix socket in a folder of its own."""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import redis

START_WITHIN_S = 10


class PrivateRedis:
    """Started at once; append-only file on, so that `kill` and `start` keep what was written."""

    def __init__(self, program: str) -> None:
        self._program = program
        # Not pytest's folder: a unix socket's path may have only 107 bytes.
        self._folder = tempfile.TemporaryDirectory(prefix="invigil-redis-")
        self.socket = Path(self._folder.name) / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        command = [self._program, "--port", "0", "--unixsocket", str(self.socket), "--dir", self._folder.name]
        command += ["--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        give_up_at = time.monotonic() + START_WITHIN_S
        while True:
            try:
                self.client().ping()
            except (redis.ConnectionError, redis.BusyLoadingError):
                assert self._process.poll() is None, f"{self._program} did not start"
                assert time.monotonic() < give_up_at, f"{self._program} does not answer"
            else:
                return

    def client(self) -> "redis.Redis":
        return redis.Redis.from_url(self.url)

    def pause(self) -> None:
        """It hangs: connections are taken and never answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """It is gone, as after `kill -9`."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
        self.socket.unlink(missing_ok=True)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.resume()
        self.kill()
        self._folder.cleanup()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, number)
