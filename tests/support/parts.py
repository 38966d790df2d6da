"""Parts of the system as processes, each started as its container starts it."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
START_WITHIN_S = 20.0
END_WITHIN_S = 10.0


def settings_of(folder: Path, redis_url: str, **more: str) -> dict[str, str]:
    """Variables for a store and a Maildir below `folder`; `more` are others, without their INVIGIL_."""
    values = {
        "REDIS_URL": redis_url,
        "STORE": f"file://{folder}/store",
        "MAIL_URL": f"maildir://{folder}/mail",
        "MAIL_FROM": "invigil@example.org",
        "MAIL_TO": "dean@example.org",
        "PULSE_FILE": f"{folder}/pulse",
    }
    return {f"INVIGIL_{name}": value for name, value in (values | more).items()}


def run(*command: str, environ: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """`python -m command`, to its end."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=_with_path(environ),
        capture_output=True,
        text=True,
        timeout=START_WITHIN_S,
        check=False,
    )


class Part:
    """`python -m command`, running; its output goes into files in `folder`."""

    def __init__(self, folder: Path, *command: str, environ: Mapping[str, str]) -> None:
        folder.mkdir(exist_ok=True)
        self._output, self._errors = folder / "stdout", folder / "stderr"
        with open(self._output, "wb") as output, open(self._errors, "wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *command], cwd=ROOT, env=_with_path(environ), stdout=output, stderr=errors
            )

    def __enter__(self) -> "Part":
        return self

    def __exit__(self, *_error: object) -> None:
        self.kill()

    def wait_for_log(self, event: str) -> None:
        eventually(lambda: f'"{event}"' in self.errors(), START_WITHIN_S, f"{event}: {self.errors()}")

    def output(self) -> str:
        return self._output.read_text()

    def errors(self) -> str:
        return self._errors.read_text()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its status after this signal."""
        self.signal(number)
        return self.wait()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, within_s: float = END_WITHIN_S) -> int:
        """Its status once it has ended by itself."""
        return self._process.wait(within_s)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def _with_path(environ: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("INVIGIL_")}
    return inherited | dict(environ)
