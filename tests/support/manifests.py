"""What `kubectl apply -k k8s/base` would send."""

import subprocess
from typing import Any

import yaml

from tests.support.running_system import ROOT
from tests.support.tools import program


def render() -> str:
    command = [program("kubectl"), "kustomize", str(ROOT / "k8s/base")]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def load(rendered: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(rendered))
