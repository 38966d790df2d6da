"""compose.yaml keeps the rules for containers, and each rule is shown to notice the file that breaks it."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.settings import Settings
from shared.tasks.catalog import QUEUES

ROOT = Path(__file__).parents[2]
PARTS = ("api", "worker-exams", "worker", "scheduler")

Compose = dict[str, Any]
Service = dict[str, Any]


@pytest.fixture
def compose() -> Compose:
    """compose.yaml with merges and anchors resolved; variables stay as they are written."""
    loaded: Compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return loaded


def unprivileged(name: str, service: Service, _compose: Compose) -> Iterator[str]:
    """No capability, no way to gain one, nothing of the host."""
    if service.get("cap_drop") != ["ALL"] or service.get("cap_add"):
        yield f"{name} has capabilities"
    if "no-new-privileges:true" not in service.get("security_opt", []):
        yield f"{name} may gain privileges"
    if service.get("privileged") or any(service.get(key) == "host" for key in ("network_mode", "pid", "ipc", "userns")):
        yield f"{name} shares something of the host"
    if str(service.get("user", "")).split(":")[0] in ("0", "root"):
        yield f"{name} runs as root"


def read_only(name: str, service: Service, compose: Compose) -> Iterator[str]:
    """Only named volumes and small tmpfs can be written."""
    if service.get("read_only") is not True:
        yield f"{name} can write to its root"
    for mount in service.get("volumes", []):
        if not isinstance(mount, str) or mount.split(":")[0] not in compose["volumes"]:
            yield f"{name} mounts {mount}, which is no named volume"
    for mount in service.get("tmpfs", []):
        if "size=" not in mount:
            yield f"{name} has an unbounded tmpfs"


def bounded(name: str, service: Service, _compose: Compose) -> Iterator[str]:
    """A service that runs wild takes neither the memory nor the process table of the host."""
    limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
    for limit in ("memory", "pids"):
        if not limits.get(limit):
            yield f"{name} has no limit of {limit}"


def restarted(name: str, service: Service, _compose: Compose) -> Iterator[str]:
    """What should run comes back, and is given the time to end what it has begun; the first run is run once."""
    if service.get("restart") != ("no" if name == "init" else "unless-stopped"):
        yield f"{name} has restart {service.get('restart')!r}"
    if service.get("stop_grace_period") != "30s":
        yield f"{name} may be killed before it has ended in order"


def watched(name: str, service: Service, _compose: Compose) -> Iterator[str]:
    """Everything that runs on has a health check, so that `up --wait` waits for it."""
    if name != "init" and not service.get("healthcheck", {}).get("test"):
        yield f"{name} has no health check"


def local(name: str, service: Service, _compose: Compose) -> Iterator[str]:
    """Ports are open to this host only and can be moved; names are left to compose, so that projects never collide."""
    for port in service.get("ports", []):
        if not re.fullmatch(r"127\.0\.0\.1:\$\{[A-Z_]+:-\d+}:\d+", str(port)):
            yield f"{name} publishes {port}"
    if "container_name" in service:
        yield f"{name} has a fixed name"


def pinned(name: str, service: Service, _compose: Compose) -> Iterator[str]:
    """Foreign images have a version; ours is built here, once, and never looked for elsewhere."""
    image = service["image"]
    if "INVIGIL_IMAGE" in image:
        if service.get("pull_policy") != "never":
            yield f"{name} would look for our image in a registry"
    elif not re.fullmatch(r"[a-z/]+:\d[\w.-]*", image):
        yield f"{name} has no version: {image}"
    if ("build" in service) != (name == "init"):
        yield f"{name} should {'' if name == 'init' else 'not '}build the image"


def ordered(name: str, service: Service, _compose: Compose) -> Iterator[str]:
    """Nobody starts before the password exists, nor our parts before Redis answers."""
    wanted = {}
    if name in (*PARTS, "redis"):
        wanted["init"] = "service_completed_successfully"
    if name in PARTS:
        wanted["redis"] = "service_healthy"
    found = {other: how["condition"] for other, how in service.get("depends_on", {}).items()}
    if found != wanted:
        yield f"{name} waits for {found}"


def durable_redis(name: str, service: Service, _compose: Compose) -> Iterator[str]:
    """Redis keeps its append-only file, evicts nothing, asks for a password and is on no network."""
    if name != "redis":
        return
    script = service["command"][-1]
    for line in ("appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction", "port 0", "dir /data"):
        if line not in script.splitlines():
            yield f"redis lacks the setting {line}"
    if "requirepass $$(cat " not in script:
        yield "redis has no password from a file"
    if "redis:/data" not in service["volumes"] or service.get("network_mode") != "none":
        yield "redis has no volume, or a network"


def no_secrets(name: str, service: Service, _compose: Compose) -> Iterator[str]:
    """Passwords are in files of volumes, not where `docker inspect` shows them."""
    for variable, value in (service.get("environment") or {}).items():
        if re.search("PASS|SECRET|TOKEN", variable) or re.search(r"//[^/@]*:[^/@]*@", str(value)):
            yield f"{name} has a secret in {variable}"


def exams_apart(name: str, _service: Service, compose: Compose) -> Iterator[str]:
    """Every queue has one worker service, and that of the exams has no other queue."""
    if name != "worker-exams":
        return
    served = [_queues(other) for other in compose["services"].values() if "--queues" in other.get("command", [])]
    if sorted(queue for queues in served for queue in queues) != sorted(QUEUES) or ["exams"] not in served:
        yield f"the queues are served as {served}"


def _queues(service: Service) -> list[str]:
    command: list[str] = service["command"]
    return command[command.index("--queues") + 1].split(",")


Policy = Callable[[str, Service, Compose], Iterator[str]]
POLICIES: tuple[Policy, ...] = (
    unprivileged,
    read_only,
    bounded,
    restarted,
    watched,
    local,
    pinned,
    ordered,
    durable_redis,
    no_secrets,
    exams_apart,
)


def complaints(compose: Compose, policy: Policy) -> list[str]:
    return [told for name, service in compose["services"].items() for told in policy(name, service, compose)]


def test_it_has_the_services_of_the_design(compose: Compose) -> None:
    """Our four processes, what they need, and what is run once before them."""
    assert set(compose["services"]) == {*PARTS, "init", "redis", "maildev"}


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
def test_it_keeps_the_policy(compose: Compose, policy: Policy) -> None:
    """No service breaks any of the rules."""
    assert complaints(compose, policy) == []


def broken(service: str, key: str, value: object) -> Callable[[Compose], None]:
    """Sets `key` of a service, or takes it away where the value is None."""

    def change(compose: Compose) -> None:
        compose["services"][service][key] = value
        if value is None:
            del compose["services"][service][key]

    return change


def in_redis_settings(old: str, new: str) -> Callable[[Compose], None]:
    def change(compose: Compose) -> None:
        command = compose["services"]["redis"]["command"]
        assert old in command[-1]
        command[-1] = command[-1].replace(old, new)

    return change


BREAKS: tuple[tuple[Policy, Callable[[Compose], None]], ...] = (
    (unprivileged, broken("api", "cap_drop", ["NET_RAW"])),
    (unprivileged, broken("api", "cap_add", ["SYS_ADMIN"])),
    (unprivileged, broken("redis", "security_opt", None)),
    (unprivileged, broken("worker", "privileged", True)),
    (unprivileged, broken("worker", "network_mode", "host")),
    (unprivileged, broken("redis", "user", "0:0")),
    (read_only, broken("scheduler", "read_only", None)),
    (read_only, broken("api", "volumes", ["/srv/store:/var/lib/invigil"])),
    (read_only, broken("api", "volumes", ["./store:/var/lib/invigil"])),
    (read_only, broken("maildev", "tmpfs", ["/tmp"])),
    (bounded, broken("maildev", "deploy", None)),
    (bounded, broken("api", "deploy", {"resources": {"limits": {"memory": "1g"}}})),
    (restarted, broken("worker-exams", "restart", None)),
    (restarted, broken("init", "restart", "unless-stopped")),
    (restarted, broken("worker", "stop_grace_period", None)),
    (watched, broken("worker", "healthcheck", None)),
    (local, broken("api", "ports", ["8000:8000"])),
    (local, broken("api", "ports", ["127.0.0.1:8000:8000"])),
    (local, broken("api", "ports", ["0.0.0.0:${INVIGIL_PORT:-8000}:8000"])),
    (local, broken("redis", "container_name", "redis")),
    (pinned, broken("redis", "image", "redis")),
    (pinned, broken("redis", "image", "redis:latest")),
    (pinned, broken("api", "pull_policy", None)),
    (pinned, broken("api", "build", ".")),
    (pinned, broken("init", "build", None)),
    (ordered, broken("api", "depends_on", None)),
    (ordered, broken("redis", "depends_on", {"init": {"condition": "service_started"}})),
    (durable_redis, in_redis_settings("appendonly yes", "appendonly no")),
    (durable_redis, in_redis_settings("everysec", "no")),
    (durable_redis, in_redis_settings("noeviction", "allkeys-lru")),
    (durable_redis, in_redis_settings("requirepass $$(cat /run/redis/password)", "requirepass secret")),
    (durable_redis, in_redis_settings("port 0", "port 6379")),
    (durable_redis, broken("redis", "volumes", ["redis-access:/run/redis"])),
    (durable_redis, broken("redis", "network_mode", None)),
    (no_secrets, broken("api", "environment", {"REDIS_PASSWORD": "x"})),
    (no_secrets, broken("api", "environment", {"INVIGIL_REDIS_URL": "redis://:secret@redis:6379/0"})),
    (exams_apart, broken("worker-exams", "command", ["python", "-m", "worker", "--queues", "exams,mail"])),
    (exams_apart, broken("worker", "command", ["python", "-m", "worker", "--queues", "default"])),
)


@pytest.mark.parametrize(("policy", "change"), BREAKS, ids=lambda value: getattr(value, "__name__", None))
def test_a_policy_notices_the_file_that_breaks_it(
    compose: Compose, policy: Policy, change: Callable[[Compose], None]
) -> None:
    """A rule that let a broken file through would prove nothing of the real one."""
    change(compose)
    assert complaints(compose, policy) != []


def test_every_policy_is_shown_to_notice_something() -> None:
    """None of them is without a file that it refuses."""
    assert {policy for policy, _ in BREAKS} == set(POLICIES)


@pytest.mark.parametrize("part", PARTS)
def test_the_environment_of_a_part_is_settings_it_knows(compose: Compose, part: str, tmp_path: Path) -> None:
    """A misspelt name would leave a default in force without a word."""
    environ = given(compose["services"][part]["environment"], tmp_path)
    settings = Settings.from_environ(environ)
    assert settings.unknown == ()
    assert settings.redis_url == "unix:///run/redis/redis.sock"
    assert settings.store == "/var/lib/invigil"


def given(environment: dict[str, str | None], folder: Path) -> dict[str, str]:
    """The environment as a part sees it when the shell says nothing, with a file for the URL of Redis."""
    url = folder / "url"
    url.write_text("unix:///run/redis/redis.sock")
    values = {name: re.sub(r"\$\{\w+:-(.*)}", r"\1", value) for name, value in environment.items() if value is not None}
    return {**values, "INVIGIL_REDIS_URL_FILE": str(url)}


def test_settings_that_only_the_shell_gives_are_settings(compose: Compose) -> None:
    """The names passed through without a value are as right as those with one."""
    passed_on = {
        name
        for part in PARTS
        for name, value in compose["services"][part]["environment"].items()
        if value is None and name.startswith("INVIGIL_")
    }
    values = dict.fromkeys(passed_on, "1") | {"INVIGIL_LOG_FORMAT": "json", "INVIGIL_ROUTES": "print_message=slow"}
    assert {"INVIGIL_EXAM_SECONDS", "INVIGIL_DIGEST_SECONDS"} < passed_on
    assert Settings.from_environ(values).unknown == ()


def test_nothing_but_the_packages_is_sent_to_the_builder() -> None:
    """The store, keys and tests of a working copy never get into an image, since everything is left out by default."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == {
        "api",
        "pyproject.toml",
        "scheduler",
        "shared",
        "worker",
        "requirements/gevent.txt",
        "requirements/runtime.txt",
    }


def test_every_named_volume_is_used(compose: Compose) -> None:
    """A volume that nobody mounts would be a leftover of a service that is gone."""
    used = {mount.split(":")[0] for service in compose["services"].values() for mount in service.get("volumes", [])}
    assert used == set(compose["volumes"])


def test_the_image_is_built_from_locked_packages_on_one_base() -> None:
    """Both stages have the same Python, and nothing is installed without its hash."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE) == ["python:3.13-slim"] * 2
    installs = re.findall(r"(?:pip|apt-get|apk) .*install.*", dockerfile)
    assert len(installs) == 1
    assert "--require-hashes" in installs[0]
    assert re.findall(r"^USER (\S+)", dockerfile, re.MULTILINE) == ["10001:10001"]
