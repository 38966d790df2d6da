"""API keys: their file, and the command that keeps it."""

import hashlib
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from api.keys import SCOPES, KeyFile
from shared.errors import InvalidInput, NotAuthenticated, StoreUnavailable
from tests.support.clock import NOON

ROOT = Path(__file__).parents[2]
DAY = timedelta(days=1)

TEN_KEYS = """
import sys
from api.keys import KeyFile
from shared.clock import SystemClock
print("ready", flush=True)
sys.stdin.readline()
for _ in range(10):
    print(KeyFile(sys.argv[1]).new("tests", ("admin",), SystemClock().now(), None))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def file(path: Path) -> KeyFile:
    return KeyFile(str(path))


def new(file: KeyFile, lifetime: timedelta | None = None) -> str:
    return file.new("school", ("exams:read",), NOON, lifetime)


def id_of(key: str) -> str:
    return key.split("_")[1]


def is_refused(file: KeyFile, authorization: str | None) -> bool:
    with pytest.raises(NotAuthenticated):
        file.authenticate(authorization, NOON)
    return True


def test_a_new_key_is_known_by_its_text(file: KeyFile) -> None:
    """The scheme's name may be written in any case, as HTTP has it."""
    key = new(file)
    assert [file.authenticate(f"{scheme} {key}", NOON).name for scheme in ("Bearer", "bearer")] == ["school", "school"]


def test_the_file_holds_a_digest_and_not_the_key(file: KeyFile, path: Path) -> None:
    """Who reads the file learns no key; only its owner may read it at all."""
    key = new(file)
    text = path.read_text()
    assert key not in text and key.split("_", 2)[2] not in text
    assert hashlib.sha256(key.encode()).hexdigest() in text
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_revoked_key_is_refused_without_a_restart(file: KeyFile, path: Path) -> None:
    """Another process changes the file; the one that has read it before notices at the next request."""
    revoked, kept = new(file), new(file)
    file.authenticate(f"Bearer {revoked}", NOON)
    KeyFile(str(path)).revoke(id_of(revoked), NOON)
    assert is_refused(file, f"Bearer {revoked}")
    assert file.authenticate(f"Bearer {kept}", NOON).id == id_of(kept)


def test_revoking_twice_keeps_the_first_instant(file: KeyFile) -> None:
    """When it ended stays on record."""
    key_id = id_of(new(file))
    file.revoke(key_id, NOON)
    file.revoke(key_id, NOON + DAY)
    assert file.keys()[key_id].revoked_at == NOON


def test_revoking_an_unknown_key_changes_nothing(file: KeyFile, path: Path) -> None:
    """It is an error that says where to look."""
    new(file)
    before = path.read_bytes()
    with pytest.raises(InvalidInput, match="no key has it; `list` shows those there are"):
        file.revoke("0" * 12, NOON)
    assert path.read_bytes() == before


def test_a_key_expires_at_its_instant(file: KeyFile) -> None:
    """Valid up to the last millisecond before it."""
    key = new(file, lifetime=DAY)
    file.authenticate(f"Bearer {key}", NOON + DAY - timedelta(milliseconds=1))
    with pytest.raises(NotAuthenticated):
        file.authenticate(f"Bearer {key}", NOON + DAY)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_key_allows_its_scopes_and_admin_all(file: KeyFile, scope: str) -> None:
    """Nothing else is implied: writing is not reading."""
    reader = file.authenticate(f"Bearer {new(file)}", NOON)
    admin = file.authenticate(f"Bearer {file.new('admin', ('admin',), NOON, None)}", NOON)
    assert reader.allows(scope) is (scope == "exams:read")  # type: ignore[arg-type]
    assert admin.allows(scope)  # type: ignore[arg-type]


def test_a_right_id_with_a_wrong_secret_is_refused(file: KeyFile) -> None:
    """The id alone, which `list` shows, opens nothing; neither does another key's secret."""
    one, other = new(file), new(file)
    assert is_refused(file, f"Bearer ik_{id_of(one)}_{other.split('_', 2)[2]}")
    assert is_refused(file, f"Bearer {one[:-1]}{'A' if one[-1] != 'A' else 'B'}")


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "Bearer x", f"Bearer ik_{'0' * 12}_{'A' * 43}", "é" * 3000],
)
def test_what_is_no_key_is_refused(file: KeyFile, authorization: str | None) -> None:
    """Missing, of another scheme, malformed or unknown."""
    new(file)
    assert is_refused(file, authorization)


def test_a_missing_file_holds_no_keys(file: KeyFile) -> None:
    """A first start needs no empty file; nobody gets in."""
    assert file.keys() == {}
    assert is_refused(file, f"Bearer ik_{'0' * 12}_{'A' * 43}")


@pytest.mark.parametrize("text", ["", "{", "{}", '[{"id": "x"}]', "\xff"])
def test_a_broken_file_lets_nobody_in_and_is_not_overwritten(file: KeyFile, path: Path, text: str) -> None:
    """It is an operator's to repair: keys are unavailable, not unknown, and a change does not wipe it."""
    key = new(file)
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(StoreUnavailable, match="the file of API keys"):
        file.authenticate(f"Bearer {key}", NOON)
    with pytest.raises(StoreUnavailable, match="the file of API keys"):
        new(file)
    assert path.read_bytes() == text.encode("latin-1")


def test_a_file_that_cannot_be_read_does_not_tell_its_path(tmp_path: Path) -> None:
    """The sentence ends up in an answer to a caller without a key."""
    with pytest.raises(StoreUnavailable) as caught:
        KeyFile(str(tmp_path)).keys()
    assert str(caught.value) == "the file of API keys cannot be read: Is a directory"


def test_keys_made_at_once_by_several_processes_are_all_kept(path: Path) -> None:
    """Four processes make ten keys each, all from the same moment on; the file has forty and every one opens."""
    maker_command = [sys.executable, "-c", TEN_KEYS, str(path)]
    pipe = subprocess.PIPE
    makers = [subprocess.Popen(maker_command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) for _ in range(4)]
    assert [maker.stdout.readline() for maker in makers if maker.stdout] == ["ready\n"] * 4
    for maker in makers:
        assert maker.stdin
        maker.stdin.write("go\n")
        maker.stdin.flush()
    keys = [key for maker in makers for key in maker.communicate(timeout=60)[0].split()]
    file = KeyFile(str(path))
    assert len(set(keys)) == 40 == len(file.keys())
    assert all(file.authenticate(f"Bearer {key}", NOON) for key in keys)


# the command line


def command(path: Path | None, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """`python -m api.keys`, with INVIGIL_KEYS set where there is a path."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("INVIGIL_")}
    if path is not None:
        environ["INVIGIL_KEYS"] = str(path)
    run = [sys.executable, "-m", "api.keys", *arguments]
    return subprocess.run(run, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_makes_shows_and_revokes_keys(path: Path, file: KeyFile) -> None:
    """`new` prints the key and nothing else; `list` shows everything but keys; `revoke` takes an id."""
    lasting = command(path, "new", "--name", "Schule Zoë", "--scopes", "exams:write, exams:read").stdout.strip()
    passing = command(path, "new", "--name", "guest", "--scopes", "admin", "--expires-in", "90d").stdout.strip()
    assert command(path, "revoke", id_of(lasting)).returncode == 0
    first, second = command(path, "list").stdout.splitlines()
    assert first.split(maxsplit=5)[0:2] == [id_of(lasting), "revoked"]
    assert first.split(maxsplit=5)[3:] == ["-", "exams:read,exams:write", "Schule Zoë"]
    assert second.split(maxsplit=5)[0:2] == [id_of(passing), "valid"]
    kept = file.keys()[id_of(passing)]
    assert kept.expires_at == kept.created_at + 90 * DAY
    assert lasting not in first and passing not in second


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "the following arguments are required: command"),
        (("new", "--name", "x"), "the following arguments are required: --scopes"),
        (("new", "--name", "x", "--scopes", "exams:all"), "unknown scope 'exams:all'; there are exams:read,"),
        (("new", "--name", "", "--scopes", "admin"), "must have 1 to 100 characters"),
        (("new", "--name", "two\nlines", "--scopes", "admin"), "must be one line without control characters"),
        (("new", "--name", "x", "--scopes", "admin", "--expires-in", "soon"), "give a number of days, such as 90d"),
        (("revoke", "0" * 12), "api.keys: id: no key has it; `list` shows those there are"),
    ],
)
def test_the_command_says_what_is_wrong(path: Path, arguments: tuple[str, ...], complaint: str) -> None:
    """In one sentence, without a traceback, and without making a file of keys."""
    answer = command(path, *arguments)
    assert answer.returncode != 0
    assert complaint in answer.stderr and "Traceback" not in answer.stderr
    assert answer.stdout == "" and not path.exists()


def test_the_command_names_what_it_lacks(tmp_path: Path) -> None:
    """INVIGIL_KEYS not set, its folder missing, or its file broken."""
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    missing = tmp_path / "missing" / "keys.json"
    assert command(None, "list").stderr == "api.keys: INVIGIL_KEYS is not set, and this process needs it\n"
    make = ("new", "--name", "x", "--scopes", "admin")
    assert command(missing, *make).stderr.startswith("api.keys: [Errno 2] No such file or directory")
    assert command(broken, *make).stderr.startswith("api.keys: the file of API keys is broken: ")
