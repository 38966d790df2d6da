"""k8s/base renders to valid manifests that keep the rules, and each rule is shown to notice what breaks it."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from shared.settings import Settings
from tests.support.manifests import load, render
from tests.support.running_system import ROOT

PARTS = ("api", "worker-exams", "worker", "scheduler")
RUNNING = ("Deployment", "StatefulSet")

Manifest = dict[str, Any]
Manifests = list[Manifest]


@pytest.fixture(scope="session")
def rendered() -> str:
    return render()


@pytest.fixture
def manifests(rendered: str) -> Manifests:
    """A copy of each test's own, to be broken."""
    return load(rendered)


def find(manifests: Manifests, kind: str, name: str) -> Manifest:
    return next(one for one in manifests if one["kind"] == kind and one["metadata"]["name"] == name)


def workloads(manifests: Manifests) -> Manifests:
    return [one for one in manifests if one["kind"] in RUNNING]


def pod(workload: Manifest) -> Manifest:
    spec: Manifest = workload["spec"]["template"]["spec"]
    return spec


def container(workload: Manifest) -> Manifest:
    only: Manifest = pod(workload)["containers"][0]
    return only


def name_of(workload: Manifest) -> str:
    name: str = workload["metadata"]["name"]
    return name


def restricted(manifests: Manifests) -> Iterator[str]:
    """Each pod is what the namespace's Pod Security level, restricted, admits, and its root is read-only."""
    namespace = find(manifests, "Namespace", "invigil")["metadata"].get("labels", {})
    if namespace.get("pod-security.kubernetes.io/enforce") != "restricted":
        yield "the namespace does not enforce the level restricted"
    for workload in workloads(manifests):
        of_pod, of_container = pod(workload).get("securityContext", {}), container(workload).get("securityContext", {})
        wanted = (
            of_pod.get("runAsNonRoot") is True and of_pod.get("runAsUser", 0) > 0,
            of_pod.get("seccompProfile") == {"type": "RuntimeDefault"},
            isinstance(of_pod.get("fsGroup"), int),
            of_container.get("allowPrivilegeEscalation") is False,
            of_container.get("readOnlyRootFilesystem") is True,
            of_container.get("capabilities") == {"drop": ["ALL"]},
            not of_container.get("privileged"),
            not any(pod(workload).get(key) for key in ("hostNetwork", "hostPID", "hostIPC")),
            len(pod(workload)["containers"]) == 1 and "initContainers" not in pod(workload),  # all rules look at one
        )
        if not all(wanted):
            yield f"{name_of(workload)} may do too much: {wanted}"


def without_token(manifests: Manifests) -> Iterator[str]:
    """No pod carries a token, or variables that Kubernetes makes of Services and that look like settings."""
    accounts = {name_of(one): one for one in manifests if one["kind"] == "ServiceAccount"}
    for workload in workloads(manifests):
        account = accounts.get(pod(workload).get("serviceAccountName", ""))
        if account is None or account.get("automountServiceAccountToken") is not False:
            yield f"{name_of(workload)} has no account of its own, or one with a token"
        if pod(workload).get("automountServiceAccountToken") is not False:
            yield f"{name_of(workload)} mounts a token"
        if pod(workload).get("enableServiceLinks") is not False:
            yield f"{name_of(workload)} is given a variable for each Service"


def probed(manifests: Manifests) -> Iterator[str]:
    """A pod that hangs is started again; one that gets calls gets none while it is not ready."""
    called = [service["spec"]["selector"] for service in manifests if service["kind"] == "Service"]
    for workload in workloads(manifests):
        wanted = {"startupProbe", "livenessProbe"}
        if any(selector.items() <= labels(workload).items() for selector in called):
            wanted.add("readinessProbe")
        if lacking := wanted - container(workload).keys():
            yield f"{name_of(workload)} lacks {sorted(lacking)}"


def live_without_others(manifests: Manifests) -> Iterator[str]:
    """The liveness of the API asks for no other part: Redis away must not restart it."""
    path = container(find(manifests, "Deployment", "api"))["livenessProbe"]["httpGet"]["path"]
    if path != "/livez":
        yield f"the API is restarted when {path} fails"


def bounded(manifests: Manifests) -> Iterator[str]:
    """The scheduler knows what each pod needs, and none can take all of a node; memory file systems count."""
    for workload in workloads(manifests):
        resources = container(workload).get("resources", {})
        for side in ("requests", "limits"):
            if resources.get(side, {}).keys() != {"cpu", "memory"}:
                yield f"{name_of(workload)} lacks {side}"
        for volume in pod(workload).get("volumes", []):
            if "emptyDir" in volume and not volume["emptyDir"].get("sizeLimit"):
                yield f"{name_of(workload)} has an unbounded {volume['name']}"


def given_time(manifests: Manifests) -> Iterator[str]:
    """A part gives what it has begun 25 s; the pod must last longer than that."""
    for workload in workloads(manifests):
        lifecycle = container(workload).get("lifecycle", {})
        pause = lifecycle.get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if pod(workload).get("terminationGracePeriodSeconds", 0) < 30 + pause:
            yield f"{name_of(workload)} may be killed before it has ended in order"


def pinned(manifests: Manifests) -> Iterator[str]:
    """Every image has a version or a digest."""
    for workload in workloads(manifests):
        image = container(workload)["image"]
        if not re.search(r":\d[\w.-]*$|@sha256:[0-9a-f]{64}$", image):
            yield f"{name_of(workload)} has no version: {image}"


def on_one_node(manifests: Manifests) -> Iterator[str]:
    """Pods that mount a volume of one node are all drawn to the same node."""
    claims = {name_of(one): one["spec"]["accessModes"] for one in manifests if one["kind"] == "PersistentVolumeClaim"}
    for workload in workloads(manifests):
        mounted = [
            volume["persistentVolumeClaim"]["claimName"] for volume in pod(workload)["volumes"] if _is_claim(volume)
        ]
        if any(claims[name] != ["ReadWriteOnce"] for name in mounted):
            yield f"{name_of(workload)} mounts a volume of another kind"
        if mounted and not _is_drawn_to_its_like(workload):
            yield f"{name_of(workload)} may be placed where the volume {mounted} is not"


def _is_claim(volume: Manifest) -> bool:
    return "persistentVolumeClaim" in volume


def _is_drawn_to_its_like(workload: Manifest) -> bool:
    affinity = pod(workload).get("affinity", {}).get("podAffinity", {})
    return any(
        term["topologyKey"] == "kubernetes.io/hostname"
        and term["labelSelector"]["matchLabels"] == {"invigil/store": "shared"}
        and labels(workload).get("invigil/store") == "shared"
        for term in affinity.get("requiredDuringSchedulingIgnoredDuringExecution", [])
    )


def labels(workload: Manifest) -> dict[str, str]:
    found: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return found


def no_secrets(manifests: Manifests) -> Iterator[str]:
    """Secrets are made outside and arrive as files, of which each pod has its own few."""
    for one in manifests:
        if one["kind"] == "Secret":
            yield f"the Secret {name_of(one)} is in the manifests"
        for key, value in one.get("data", {}).items():
            if re.search(r"//[^/@]*:[^/@]*@", str(value)):
                yield f"{name_of(one)} has a password in {key}"
    for workload in workloads(manifests):
        if any("secretKeyRef" in variable.get("valueFrom", {}) for variable in container(workload).get("env", [])):
            yield f"{name_of(workload)} has a secret in its environment"
        if any("secretRef" in source for source in container(workload).get("envFrom", [])):
            yield f"{name_of(workload)} has secrets in its environment"
        for volume in pod(workload)["volumes"]:
            if "secret" in volume and not volume["secret"].get("items"):
                yield f"{name_of(workload)} mounts all of a Secret"


def walled(manifests: Manifests) -> Iterator[str]:
    """All traffic is denied but for named ports of named pods; only to mail servers a worker may go anywhere."""
    policies = {name_of(one): one["spec"] for one in manifests if one["kind"] == "NetworkPolicy"}
    deny = policies.get("default-deny", {})
    if deny != {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}:
        yield "not everything is denied at first"
    for name, policy in policies.items():
        if name != "default-deny" and not policy["podSelector"].get("matchLabels"):
            yield f"{name} opens every pod"
        if any("from" not in rule for rule in policy.get("ingress", [])):
            yield f"{name} lets everybody in"
        if any("to" not in rule for rule in policy.get("egress", [])) and name != "worker-to-mail-servers":
            yield f"{name} lets out to everywhere"
        if any(not rule.get("ports") for rule in [*policy.get("ingress", []), *policy.get("egress", [])]):
            yield f"{name} opens every port"


def one_at_a_time(manifests: Manifests) -> Iterator[str]:
    """Workers and scheduler end before their successors start; a budget for a single pod would only block drains."""
    for workload in workloads(manifests):
        strategy = workload["spec"].get("strategy")
        if name_of(workload) in ("worker-exams", "worker", "scheduler") and strategy != {"type": "Recreate"}:
            yield f"{name_of(workload)} runs twice while it is replaced"
    for one in manifests:
        if one["kind"] == "PodDisruptionBudget":
            selector = one["spec"]["selector"]["matchLabels"]
            if any(
                selector.items() <= labels(workload).items() and workload["spec"]["replicas"] == 1
                for workload in workloads(manifests)
            ):
                yield f"the budget {name_of(one)} is for a single pod"


def durable_redis(manifests: Manifests) -> Iterator[str]:
    """Redis keeps its append-only file on a volume of its own, evicts nothing and asks for a password."""
    redis = find(manifests, "StatefulSet", "redis")
    script = container(redis)["command"][-1]
    for line in ("appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction", "dir /data"):
        if line not in script.splitlines():
            yield f"redis lacks the setting {line}"
    if "requirepass $(cat " not in script:
        yield "redis has no password from a file"
    claims = {claim["metadata"]["name"] for claim in redis["spec"].get("volumeClaimTemplates", [])}
    if not any(mount["mountPath"] == "/data" and mount["name"] in claims for mount in container(redis)["volumeMounts"]):
        yield "redis has no volume"


Policy = Callable[[Manifests], Iterator[str]]
POLICIES: tuple[Policy, ...] = (
    restricted,
    without_token,
    probed,
    live_without_others,
    bounded,
    given_time,
    pinned,
    on_one_node,
    no_secrets,
    walled,
    one_at_a_time,
    durable_redis,
)


def test_the_manifests_are_valid(manifests: Manifests) -> None:
    """Kubernetes' own schemas admit every one of them, with no unknown field."""
    for manifest in manifests:
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_a_misspelt_field_is_not_valid(manifests: Manifests) -> None:
    """The check of the schemas notices what Kubernetes would ignore."""
    api = find(manifests, "Deployment", "api")
    container(api)["lifecyle"] = container(api).pop("lifecycle")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(api, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
def test_they_keep_the_policy(manifests: Manifests, policy: Policy) -> None:
    """No manifest breaks any of the rules."""
    assert list(policy(manifests)) == []


Change = Callable[[Manifests], None]


def in_pod(name: str, path: str, value: object) -> Change:
    """Sets what `path` names in the pod of a workload, or takes it away where the value is None."""
    return lambda manifests: put(pod(_workload(manifests, name)), path, value)


def in_container(name: str, path: str, value: object) -> Change:
    return lambda manifests: put(container(_workload(manifests, name)), path, value)


def in_manifest(kind: str, name: str, path: str, value: object) -> Change:
    return lambda manifests: put(find(manifests, kind, name), path, value)


def added(text: str) -> Change:
    return lambda manifests: manifests.append(yaml.safe_load(text))


def in_redis_settings(old: str, new: str) -> Change:
    def change(manifests: Manifests) -> None:
        command = container(find(manifests, "StatefulSet", "redis"))["command"]
        assert old in command[-1]
        command[-1] = command[-1].replace(old, new)

    return change


def _workload(manifests: Manifests, name: str) -> Manifest:
    return next(one for one in workloads(manifests) if name_of(one) == name)


def put(target: Any, path: str, value: object) -> None:
    *folders, last = (int(step) if step.isdigit() else step for step in path.split("."))
    for folder in folders:
        target = target[folder]
    if value is None:
        del target[last]
    else:
        target[last] = value


SECRET = "{apiVersion: v1, kind: Secret, metadata: {name: invigil}, stringData: {redis-password: x}}"
BUDGET = """
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: api}
spec: {maxUnavailable: 0, selector: {matchLabels: {app.kubernetes.io/component: api}}}
"""
OPEN_TO_ALL = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: wide}
spec: {podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 443}]}]}
"""

BREAKS: tuple[tuple[Policy, Change], ...] = (
    (restricted, in_manifest("Namespace", "invigil", "metadata.labels", {})),
    (restricted, in_pod("api", "securityContext.runAsNonRoot", None)),
    (restricted, in_pod("redis", "securityContext.runAsUser", 0)),
    (restricted, in_pod("worker", "securityContext.seccompProfile", None)),
    (restricted, in_pod("worker", "securityContext.fsGroup", None)),
    (restricted, in_pod("scheduler", "hostNetwork", True)),
    (restricted, in_container("api", "securityContext.allowPrivilegeEscalation", True)),
    (restricted, in_container("api", "securityContext.readOnlyRootFilesystem", None)),
    (restricted, in_container("redis", "securityContext.capabilities.add", ["NET_RAW"])),
    (restricted, in_container("worker-exams", "securityContext.privileged", True)),
    (restricted, in_pod("worker", "initContainers", [{"name": "chown", "image": "busybox:1"}])),
    (without_token, in_pod("api", "automountServiceAccountToken", True)),
    (without_token, in_pod("api", "enableServiceLinks", None)),
    (without_token, in_pod("api", "serviceAccountName", "default")),
    (without_token, in_manifest("ServiceAccount", "invigil", "automountServiceAccountToken", True)),
    (probed, in_container("worker", "livenessProbe", None)),
    (probed, in_container("worker-exams", "startupProbe", None)),
    (probed, in_container("api", "readinessProbe", None)),
    (live_without_others, in_container("api", "livenessProbe.httpGet.path", "/readyz")),
    (bounded, in_container("redis", "resources.limits", None)),
    (bounded, in_container("api", "resources.requests.memory", None)),
    (bounded, in_pod("api", "volumes.2.emptyDir", {})),
    (given_time, in_pod("worker", "terminationGracePeriodSeconds", 10)),
    (given_time, in_pod("worker", "terminationGracePeriodSeconds", None)),
    (given_time, in_container("api", "lifecycle.preStop.sleep.seconds", 20)),
    (pinned, in_container("api", "image", "invigil")),
    (pinned, in_container("redis", "image", "redis:latest")),
    (on_one_node, in_pod("worker-exams", "affinity", None)),
    (
        on_one_node,
        in_pod(
            "worker",
            "affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution.0.topologyKey",
            "topology.kubernetes.io/zone",
        ),
    ),
    (on_one_node, in_manifest("Deployment", "api", "spec.template.metadata.labels.invigil/store", "own")),
    (on_one_node, in_manifest("PersistentVolumeClaim", "store", "spec.accessModes", ["ReadOnlyMany"])),
    (no_secrets, added(SECRET)),
    (no_secrets, in_pod("api", "volumes.1.secret.items", None)),
    (no_secrets, in_container("api", "envFrom", [{"secretRef": {"name": "invigil"}}])),
    (no_secrets, in_container("api", "env", [{"name": "X", "valueFrom": {"secretKeyRef": {"key": "redis-url"}}}])),
    (walled, added(OPEN_TO_ALL)),
    (walled, in_manifest("NetworkPolicy", "default-deny", "spec.policyTypes", ["Ingress"])),
    (walled, in_manifest("NetworkPolicy", "invigil-to-redis", "spec.ingress.0.from", None)),
    (walled, in_manifest("NetworkPolicy", "callers-to-api", "spec.ingress.0.ports", None)),
    (one_at_a_time, in_manifest("Deployment", "scheduler", "spec.strategy", {"type": "RollingUpdate"})),
    (one_at_a_time, added(BUDGET)),
    (durable_redis, in_redis_settings("appendonly yes", "appendonly no")),
    (durable_redis, in_redis_settings("noeviction", "allkeys-lru")),
    (durable_redis, in_redis_settings("requirepass $(cat /run/redis/password)", "")),
    (durable_redis, in_manifest("StatefulSet", "redis", "spec.volumeClaimTemplates", None)),
)


@pytest.mark.parametrize(("policy", "change"), BREAKS, ids=lambda value: getattr(value, "__name__", None))
def test_a_policy_notices_what_breaks_it(manifests: Manifests, policy: Policy, change: Change) -> None:
    """A rule that let a broken manifest through would prove nothing of the real ones."""
    change(manifests)
    assert list(policy(manifests)) != []


def test_every_policy_is_shown_to_notice_something() -> None:
    """None of them is without a manifest that it refuses."""
    assert {policy for policy, _ in BREAKS} == set(POLICIES)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_the_same_as_under_compose(manifests: Manifests, part: str) -> None:
    """The same command in the same image: what is tried out on one host is what runs in a cluster. Only that the
    number of worker processes is left to Kubernetes there."""
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    found = container(_workload(manifests, part))
    command, _, scaling = " ".join(compose[part]["command"]).partition(" --autoscale")
    assert " ".join(found["command"]) == command
    assert bool(scaling) == (part == "worker")
    assert found["image"].split(":")[0] == "invigil"
    assert container(find(manifests, "StatefulSet", "redis"))["image"] == compose["redis"]["image"]


@pytest.mark.parametrize("part", PARTS)
def test_the_environment_of_a_part_is_settings_it_knows(manifests: Manifests, part: str, tmp_path: Path) -> None:
    """A misspelt name would leave a default in force without a word; a missing one would stop the boot."""
    for name, text in {"redis-url": "redis://:x@redis:6379/0", "mail-url": "smtp://mail.example.org"}.items():
        (tmp_path / name).write_text(text)
    settings = Settings.from_environ(environment(manifests, part, tmp_path))
    assert settings.unknown == ()
    assert (settings.store, settings.redis_url) == ("/var/lib/invigil", "redis://:x@redis:6379/0")
    assert settings.bind == "0.0.0.0:8000"
    assert (settings.keys is not None) == (part == "api")
    assert (settings.mail_url is not None) == (part == "worker")
    assert settings.mail_from and settings.mail_to


def environment(manifests: Manifests, part: str, secret: Path) -> dict[str, str]:
    """The variables of a part, its Secret mounted at `secret`. Fails where one names a key that is not mounted."""
    workload = _workload(manifests, part)
    values: dict[str, str] = {}
    for source in container(workload)["envFrom"]:
        values |= find(manifests, "ConfigMap", source["configMapRef"]["name"])["data"]
    values |= {variable["name"]: variable["value"] for variable in container(workload).get("env", [])}
    mounted = {
        item["path"] for volume in pod(workload)["volumes"] for item in volume.get("secret", {}).get("items", [])
    }
    for name, value in values.items():
        if value.startswith("/run/invigil/"):
            assert Path(value).name in mounted, f"{name} names a file that {part} is not given"
    return {name: value.replace("/run/invigil", str(secret)) for name, value in values.items()}
