"""What is made once, before the containers of a deployment start for the first time."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from api.keys import SCOPES, KeyFile
from api.whole_file import write_whole
from shared.clock import SystemClock
from shared.settings import Settings


class Deployment(NamedTuple):
    """The two folders that it fills."""

    redis: Path
    api: Path

    def run(self) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "api.first_run", str(self.redis), str(self.api)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    def files(self) -> dict[str, str]:
        return {path.name: path.read_text() for folder in self for path in folder.iterdir()}


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    folders = Deployment(tmp_path / "redis", tmp_path / "api")
    for folder in folders:
        folder.mkdir()
    return folders


def test_it_makes_a_password_and_a_key(deployment: Deployment) -> None:
    """256 bits for Redis, in a URL that settings accept; a key with all scopes that the API accepts."""
    done = deployment.run()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    made = deployment.files()
    assert len(bytes.fromhex(made["password"])) == 32
    settings = Settings.from_environ({"INVIGIL_REDIS_URL_FILE": str(deployment.redis / "url")})
    assert settings.redis_url == f"unix://:{made['password']}@{deployment.redis}/redis.sock"
    keys = KeyFile(str(deployment.api / "keys.json"))
    assert keys.authenticate(f"Bearer {made['first-key']}", SystemClock().now()).scopes == SCOPES


def test_a_second_run_changes_nothing(deployment: Deployment) -> None:
    """Every later `docker compose up` runs it again; data and callers depend on what the first one made."""
    deployment.run()
    made = deployment.files()
    assert deployment.run().returncode == 0
    assert deployment.files() == made


def test_secrets_are_readable_by_those_who_need_them_only(deployment: Deployment) -> None:
    """Redis reads its password through its group; the key is its owner's alone."""
    deployment.run()
    modes = {path.name: path.stat().st_mode & 0o777 for folder in deployment for path in folder.iterdir()}
    assert (modes["password"], modes["url"]) == (0o440, 0o440)
    assert (modes["first-key"], modes["keys.json"]) == (0o400, 0o600)


def test_a_run_that_was_cut_off_is_completed(deployment: Deployment) -> None:
    """A half-written file never gets its name, and what is left of it does not stand in the way."""
    (deployment.redis / "password.draft").write_text("half")
    (deployment.api / "first-key.draft").write_text("ik_")
    assert deployment.run().returncode == 0
    made = deployment.files()
    assert len(made["password"]) == 64
    assert made["first-key"].startswith("ik_")
    assert not any(name.endswith(".draft") for name in made)


def test_a_revoked_first_key_is_not_made_anew(deployment: Deployment) -> None:
    """Who revokes the first key would be surprised to find another one after the next start."""
    deployment.run()
    keys = KeyFile(str(deployment.api / "keys.json"))
    keys.revoke(next(iter(keys.keys())), SystemClock().now())
    deployment.run()
    stored = json.loads((deployment.api / "keys.json").read_text())
    assert [key["revoked_at"] is not None for key in stored] == [True]


def test_what_stands_in_the_way_is_said(deployment: Deployment) -> None:
    """A broken file of keys is never replaced: one sentence, status 1, the file as it was."""
    (deployment.api / "keys.json").write_text("{")
    done = deployment.run()
    assert done.returncode == 1
    assert done.stderr.startswith("api.first_run: the file of API keys")
    assert len(done.stderr.splitlines()) == 1
    assert (deployment.api / "keys.json").read_text() == "{"


def test_a_file_appears_whole_and_with_its_mode(tmp_path: Path) -> None:
    """The umask of the process takes nothing from the mode that readers need."""
    before = os.umask(0o077)
    try:
        write_whole(tmp_path / "password", b"secret", 0o440)
    finally:
        os.umask(before)
    assert (tmp_path / "password").read_text() == "secret"
    assert (tmp_path / "password").stat().st_mode & 0o777 == 0o440
