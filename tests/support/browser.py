"""A real browser: Debian's Chromium without a window, told what to do over a pipe (DevTools protocol)."""

import json
import os
import select
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.tools import program
from tests.support.waiting import eventually

ANSWER_WITHIN_S = 30


class Browser:
    """One page, open within its `with`. `complaints` are all errors and warnings of the page so far."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.complaints: list[str] = []
        self._number = 0
        self._received = b""

    def __enter__(self) -> "Browser":
        chromium = program("chromium")
        read_by_it, self._to_it = os.pipe()
        self._from_it, written_by_it = os.pipe()
        # It reads commands from descriptor 3 and writes answers to 4, so it is started by a shell that puts them there.
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        command += ["--remote-debugging-pipe", f"--user-data-dir={self._folder}/chromium", "about:blank"]
        redirected = f'exec "$@" 3<&{read_by_it} 4>&{written_by_it}'
        with open(self._folder / "chromium.log", "wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", redirected, "bash", *command],
                pass_fds=(read_by_it, written_by_it),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        os.close(read_by_it)
        os.close(written_by_it)
        self._session: str | None = None
        (page,) = [info for info in self._targets() if info["type"] == "page"]
        self._session = self._do("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._do(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._to_it)  # it ends by itself then
        os.close(self._from_it)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, 9)
            self._process.wait()

    def open(self, address: str) -> None:
        self._do("Page.navigate", url=address)

    def evaluate(self, script: str) -> Any:
        """What a JavaScript expression gives in the page, promises awaited. Fails the test where it throws."""
        answer = self._do("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, script: str) -> Any:
        """Its value once it is truthy."""
        return eventually(lambda: self.evaluate(script), within_s=ANSWER_WITHIN_S, what=script)

    def _targets(self) -> list[dict[str, Any]]:
        def pages() -> list[dict[str, Any]]:
            found = self._do("Target.getTargets")["targetInfos"]
            return [info for info in found if info["type"] == "page"]

        return eventually(pages, within_s=ANSWER_WITHIN_S, what="a page") or []

    def _do(self, method: str, **parameters: object) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to_it, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, answer
        return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._from_it], [], [], ANSWER_WITHIN_S)
            assert ready, "the browser does not answer"
            received = os.read(self._from_it, 1 << 20)
            assert received, (self._folder / "chromium.log").read_text()
            self._received += received
        message, _, self._received = self._received.partition(b"\0")
        return dict(json.loads(message))

    def _note(self, event: dict[str, Any]) -> None:
        """What the page's console would show in red or yellow; violations of its policy are among it."""
        found = event.get("params", {})
        if event.get("method") == "Log.entryAdded" and found["entry"]["level"] in ("warning", "error"):
            self.complaints.append(f"{found['entry']['text']} ({found['entry'].get('url')})")
        if event.get("method") == "Runtime.consoleAPICalled" and found["type"] in ("warning", "error", "assert"):
            self.complaints.append(str([each.get("value", each.get("description")) for each in found["args"]]))
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(found["exceptionDetails"]))
