"""The whole system as `docker compose up --wait` starts it: a project and an image of its own, on free ports."""

import json
import os
import subprocess
import urllib.error
import urllib.request
import uuid
from typing import Any

from tests.support.rest import Answer, call
from tests.support.running_system import ROOT, free_port
from tests.support.tools import missing
from tests.support.waiting import eventually

BUILD_WITHIN_S = 600  # with empty caches it installs what the image holds
UP_WITHIN_S = 120
COMMAND_WITHIN_S = 60

OURS = ("api", "worker-exams", "worker", "scheduler")


class Containers:
    """Built and healthy when made; `close` leaves nothing of it on the engine."""

    def __init__(self, **settings: str) -> None:
        need_engine()
        self.project = f"invigil-test-{uuid.uuid4().hex[:8]}"
        self.image = f"{self.project}:test"
        self._api, self._maildev = free_port(), free_port()
        strange = ("INVIGIL_", "COMPOSE_", "MAILDEV_")
        self._environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(strange)},
            "INVIGIL_IMAGE": self.image,
            "INVIGIL_PORT": str(self._api),
            "MAILDEV_PORT": str(self._maildev),
            **settings,
        }
        self.started: list[str] = []  # the pks of all exams
        try:
            self.up(BUILD_WITHIN_S)
            self.key = self.first_key()
        except BaseException:
            self.close()
            raise

    def compose(self, *arguments: str, within_s: float = COMMAND_WITHIN_S) -> str:
        """What `docker compose` prints; fails the test where it fails. A developer's .env is left aside."""
        command = ["docker", "compose", "--env-file", os.devnull, "--project-name", self.project, *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=self._environ, capture_output=True, text=True, timeout=within_s, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}{done.stdout}"
        return done.stdout

    def up(self, within_s: float = UP_WITHIN_S) -> None:
        """The one command that the README names; where there is no image yet, it builds it."""
        self.compose("up", "--wait", within_s=within_s)

    def first_key(self) -> str:
        return self.compose("exec", "-T", "api", "cat", "/run/invigil/first-key")

    def run_in(self, service: str, *command: str) -> str:
        return self.compose("exec", "-T", service, *command)

    def redis(self, command: str) -> str:
        """What Redis answers, asked from within its container."""
        script = f'REDISCLI_AUTH="$(cat /run/redis/password)" redis-cli -s /run/redis/redis.sock {command}'
        return self.run_in("redis", "sh", "-c", script).strip()

    def call(self, method: str, path: str, body: object = None) -> Answer:
        return call(f"127.0.0.1:{self._api}", self.key, method, path, body)

    def start_exam(self, **body: object) -> dict[str, Any]:
        answer = self.call("POST", "/v1/exams", body)
        assert answer.status == 201, answer
        exam: dict[str, Any] = answer.body
        self.started.append(exam["pk"])
        return exam

    def decide(self, pk: str, status: str) -> Answer:
        return self.call("PUT", f"/v1/exams/{pk}/result", {"status": status})

    def stored_ends(self) -> set[str]:
        """The exams whose outcome is on disk; looking over REST would settle an overdue one."""
        found = self.run_in("api", "find", "/var/lib/invigil/exams", "-name", "*.2")
        return {path.rpartition("/")[2].removesuffix(".2") for path in found.split()}

    def mails(self) -> list[dict[str, Any]]:
        """All mails that maildev has caught, by its REST API."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._maildev}/email", timeout=10) as response:
            caught: list[dict[str, Any]] = json.load(response)
            return caught

    def output(self, service: str) -> tuple[str, str]:
        """What a container has written to standard output and to standard error, where the logs go.

        Not by `compose logs`, which puts escape sequences before each line.
        """
        identity = str(self.inspected(service)["Id"])
        done = subprocess.run(["docker", "logs", identity], capture_output=True, text=True, check=True, timeout=60)
        return done.stdout, done.stderr

    def inspected(self, service: str) -> dict[str, Any]:
        """What the engine knows of a service's container."""
        identity = self.compose("ps", "--all", "--quiet", service).strip()
        container: dict[str, Any] = json.loads(docker("inspect", identity))[0]
        return container

    def crash(self, service: str) -> None:
        """Kills a container's process as the kernel would, and waits until the engine has started it again.

        Not by `docker kill`: the engine takes that as an operator's wish and leaves the container dead. The signal
        comes from a helper in the host's process namespace, as the process's own user.
        """
        before = self.inspected(service)
        program = "import os, sys; os.kill(int(sys.argv[1]), 9)"
        user = self.run_in(service, "id", "-u").strip()
        command = ["run", "--rm", "--network=none", "--pid=host", f"--user={user}", self.image, "python", "-c", program]
        docker(*command, str(before["State"]["Pid"]))

        def has_returned() -> bool:
            after = self.inspected(service)
            return bool(after["RestartCount"] > before["RestartCount"] and after["State"]["Running"])

        eventually(has_returned, 30, f"the return of {service}")

    def close(self) -> None:
        self.compose("down", "--volumes", "--timeout", "10", within_s=UP_WITHIN_S)
        subprocess.run(["docker", "image", "rm", self.image], capture_output=True, check=False, timeout=60)


def docker(*arguments: str, given: str | None = None, within_s: float = COMMAND_WITHIN_S) -> str:
    """What `docker` prints, `given` on its standard input; fails the test where it fails."""
    command = ["docker", *arguments]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=within_s)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def need_engine() -> None:
    """Ends the test where there is none."""
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        try:
            is_there = subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0
        except FileNotFoundError:
            is_there = False
        if not is_there:
            missing("a Docker engine with compose")
