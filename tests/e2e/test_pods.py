"""The pods of k8s/base do their work as they are written, run as containers on one network."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.keys import SCOPES, KeyFile
from shared.clock import SystemClock
from tests.support.manifests import load, render
from tests.support.pods import Pods
from tests.support.waiting import eventually

pytestmark = pytest.mark.xdist_group("compose")  # after the other containers, not beside them: the build is shared

WORKLOADS = {
    "redis": "StatefulSet",
    "api": "Deployment",
    "worker-exams": "Deployment",
    "worker": "Deployment",
    "scheduler": "Deployment",
}
SETTLED_WITHIN_S = 16.0


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def key(key_file: Path) -> str:
    return KeyFile(str(key_file)).new("tests", SCOPES, SystemClock().now(), lifetime=None)


@pytest.fixture(scope="module")
def pods(key: str, key_file: Path) -> Iterator[Pods]:
    secret = {
        "keys.json": key_file.read_text(),
        "redis-password": "not-to-be-guessed",
        "redis-url": "redis://:not-to-be-guessed@redis:6379/0",
        "mail-url": "smtp://mail.example.org:587",
    }
    running = Pods(load(render()), secret)
    try:
        for name, kind in WORKLOADS.items():
            running.start(kind, name)
        yield running
    finally:
        running.close()


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_started_pod_passes_its_probes(pods: Pods, name: str) -> None:
    """What the kubelet would ask finds a pod alive and ready that has read its Secret and reached its volumes."""
    assert pods.probe(name, "livenessProbe")
    assert pods.probe(name, "readinessProbe")


def test_an_exam_goes_its_way_through_the_pods(pods: Pods, key: str) -> None:
    """The API stores a start, the exams worker its end, on the volume that they share; Redis carries the task."""
    exam = post_exam(pods, key)

    def is_stored_as_ended() -> bool:
        return f"{exam['pk']}.2" in pods.run_in("worker-exams", "find", "/var/lib/invigil/exams", "-name", "*.2")

    eventually(is_stored_as_ended, SETTLED_WITHIN_S, "the outcome")
    with urllib.request.urlopen(f"{pods.url('api')}/readyz", timeout=10) as response:
        assert json.load(response)["checks"]["redis"]["status"] == "ok"


def post_exam(pods: Pods, key: str) -> dict[str, Any]:
    """A new exam of one second."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{pods.url('api')}/v1/exams", b'{"duration_s": 1}', headers)
    with urllib.request.urlopen(request, timeout=10) as response:
        exam: dict[str, Any] = json.load(response)
        return exam


def test_redis_asks_for_the_password(pods: Pods) -> None:
    """Who reaches its port without the password gets nothing, and the command line does not tell it."""
    assert pods.run_in("redis", "redis-cli", "get", "x").startswith("NOAUTH")
    assert "not-to-be-guessed" not in pods.run_in("redis", "cat", "/proc/1/cmdline")


def test_every_pod_ends_in_order_when_asked_to(pods: Pods) -> None:
    """SIGTERM is enough, within the time that the manifest leaves: none has to be killed."""
    assert {name: pods.stop(name) for name in reversed(WORKLOADS)} == dict.fromkeys(WORKLOADS, 0)
