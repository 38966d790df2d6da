"""The pods of rendered manifests, run as containers with what Kubernetes would give them. There is no cluster in it:
scheduling, Services and network policies are left out; users, mounts, environment, commands and probes are as written.
"""

import json
import subprocess
import urllib.request
import uuid
from collections.abc import Mapping
from typing import Any

from tests.support.containers import docker, need_engine
from tests.support.running_system import ROOT, free_port
from tests.support.waiting import eventually

BUILD_WITHIN_S = 600

_FILL = """
import json, os, sys
for name, text in json.load(sys.stdin).items():
    with open(f"/volume/{name}", "w") as file:
        os.fchmod(file.fileno(), 0o440)
        os.fchown(file.fileno(), 0, int(sys.argv[1]))
        file.write(text)
os.chown("/volume", 0, int(sys.argv[1]))
os.chmod("/volume", 0o2775)
"""


class Pods:
    """`secret` is the content of the Secret that the manifests expect. `close` leaves nothing on the engine."""

    def __init__(self, manifests: list[dict[str, Any]], secret: Mapping[str, str]) -> None:
        need_engine()
        self._name = f"invigil-pods-{uuid.uuid4().hex[:8]}"
        self._image = f"{self._name}:test"
        self._manifests = manifests
        self._secret = secret
        self._ports: dict[str, int] = {}
        self._volumes: set[str] = set()
        self._pods: dict[str, dict[str, Any]] = {}
        try:
            docker("build", "--quiet", "--tag", self._image, str(ROOT), within_s=BUILD_WITHIN_S)
            docker("network", "create", self._name)
        except BaseException:
            self.close()
            raise

    def start(self, kind: str, name: str) -> None:
        """Runs the pod of a workload, and waits for its startup probe."""
        workload = self._manifest(kind, name)
        spec = self._pods[name] = workload["spec"]["template"]["spec"]
        container = spec["containers"][0]
        user = spec["securityContext"]
        image = self._image if container["image"].startswith("invigil:") else container["image"]
        assert container["securityContext"]["readOnlyRootFilesystem"], "the pod would be run otherwise than written"
        docker(
            *("run", "--detach", "--name", self._container(name), "--network", self._name, "--network-alias", name),
            *(f"--user={user['runAsUser']}:{user['runAsGroup']}", f"--group-add={user['fsGroup']}"),
            *("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
            *(f"--memory={container['resources']['limits']['memory'].removesuffix('i')}", "--pids-limit=256"),
            *self._environment(container),
            *self._mounts(name, workload, container),
            *self._published(name, container),
            *("--entrypoint", container["command"][0], image, *container["command"][1:]),
        )
        eventually(lambda: self.probe(name, "startupProbe"), 60, f"the start of {name}")

    def probe(self, name: str, kind: str) -> bool:
        """What the kubelet would find; a pod without this probe passes it."""
        probe = self._pods[name]["containers"][0].get(kind)
        if probe is None:
            return True
        if "exec" in probe:
            command = ["docker", "exec", self._container(name), *probe["exec"]["command"]]
            return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0
        try:
            with urllib.request.urlopen(self.url(name) + probe["httpGet"]["path"], timeout=10) as response:
                return bool(response.status < 400)
        except OSError:
            return False

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._ports[name]}"

    def run_in(self, name: str, *command: str) -> str:
        return docker("exec", self._container(name), *command)

    def stop(self, name: str) -> int:
        """Asks the pod to end, as Kubernetes does, and returns its exit status: 137 where it had to be killed."""
        grace_s = self._pods[name]["terminationGracePeriodSeconds"]
        docker("stop", "--time", str(grace_s), self._container(name), within_s=grace_s + 30)
        return int(docker("inspect", "--format", "{{.State.ExitCode}}", self._container(name)))

    def close(self) -> None:
        for command in (
            *(("rm", "--force", self._container(name)) for name in self._pods),
            *(("volume", "rm", volume) for volume in self._volumes),
            ("network", "rm", self._name),
            ("image", "rm", self._image),
        ):
            subprocess.run(["docker", *command], capture_output=True, check=False, timeout=60)

    def _manifest(self, kind: str, name: str) -> dict[str, Any]:
        return next(one for one in self._manifests if one["kind"] == kind and one["metadata"]["name"] == name)

    def _container(self, name: str) -> str:
        return f"{self._name}-{name}"

    def _environment(self, container: dict[str, Any]) -> list[str]:
        values: dict[str, str] = {}
        for source in container.get("envFrom", []):
            values |= self._manifest("ConfigMap", source["configMapRef"]["name"])["data"]
        values |= {variable["name"]: variable["value"] for variable in container.get("env", [])}
        return [f"--env={name}={value}" for name, value in values.items()]

    def _mounts(self, name: str, workload: dict[str, Any], container: dict[str, Any]) -> list[str]:
        spec = workload["spec"]["template"]["spec"]
        group = spec["securityContext"]["fsGroup"]
        sources = {volume["name"]: volume for volume in spec["volumes"]}
        options = []
        for mount in container["volumeMounts"]:
            source = sources.get(mount["name"], {})
            if "emptyDir" in source:
                size = source["emptyDir"]["sizeLimit"].removesuffix("i")
                options.append(f"--tmpfs={mount['mountPath']}:size={size},mode=1777")
                continue
            if "secret" in source:
                files = {item["path"]: self._secret[item["key"]] for item in source["secret"]["items"]}
                volume = self._volume(f"{name}-secret", group, files)
            else:  # a claim, of the pod or of the namespace
                claim = source.get("persistentVolumeClaim", {}).get("claimName", f"{name}-{mount['name']}")
                volume = self._volume(claim, group, {})
            options.append(f"--volume={volume}:{mount['mountPath']}:nocopy{',ro' if mount.get('readOnly') else ''}")
        return options

    def _volume(self, name: str, group: int, files: dict[str, str]) -> str:
        """A volume that belongs to the group, as fsGroup makes it."""
        volume = f"{self._name}-{name}"
        if volume not in self._volumes:
            self._volumes.add(volume)
            command = [
                "run",
                "--rm",
                "--interactive",
                "--user=0",
                "--network=none",
                f"--volume={volume}:/volume:nocopy",
            ]
            docker(*command, self._image, "python", "-c", _FILL, str(group), given=json.dumps(files))
        return volume

    def _published(self, name: str, container: dict[str, Any]) -> list[str]:
        if name != "api":
            return []
        self._ports[name] = free_port()
        return [f"--publish=127.0.0.1:{self._ports[name]}:{container['ports'][0]['containerPort']}"]
