"""API keys: who may call what. `python -m api.keys new|list|revoke` keeps the file; the API reads it.

A key is `ik_<id>_<secret>` with 256 bits of chance, so a plain SHA-256 is all that needs to be kept of it.
The file is JSON, replaced as a whole on each change; the API notices on its next request.
"""

import argparse
import contextlib
import fcntl
import hashlib
import hmac
import os
import re
import secrets
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import msgspec

from api.whole_file import write_whole
from shared.clock import SystemClock, rfc3339
from shared.errors import FieldError, InvalidInput, NotAuthenticated, SettingsError, StoreUnavailable
from shared.one_line import breaks_a_line
from shared.settings import Settings, need

Scope = Literal["exams:read", "exams:write", "tasks:read", "tasks:write", "admin"]
SCOPES: tuple[Scope, ...] = ("exams:read", "exams:write", "tasks:read", "tasks:write", "admin")

NAME_LIMIT = 100  # characters

_KEY = re.compile(r"ik_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_LIFETIME = re.compile(r"([1-9]\d{0,4})d")


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is kept of a key: never the key itself."""

    id: str
    name: str
    sha256: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def allows(self, scope: Scope) -> bool:
        return scope in self.scopes or "admin" in self.scopes

    def is_valid(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class KeyFile:
    """The keys in the file at `path`. A file that is missing holds none."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._keys: dict[str, ApiKey] = {}

    def authenticate(self, authorization: str | None, now: datetime) -> ApiKey:
        """The key in an Authorization header. Raises NotAuthenticated; StoreUnavailable for a broken file."""
        scheme, _, text = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not text:
            raise NotAuthenticated("send an API key as 'Authorization: Bearer <key>'")
        match = _KEY.fullmatch(text.strip())
        key = self.keys().get(match[1]) if match else None
        # An unknown id is compared too, so that an answer's time does not tell which ids exist.
        expected = key.sha256 if key else "0" * 64
        if not hmac.compare_digest(_sha256(text.strip()), expected) or key is None or not key.is_valid(now):
            raise NotAuthenticated("this API key is unknown, expired or revoked")
        return key

    def keys(self) -> dict[str, ApiKey]:
        """By id; read again when the file has changed."""
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StoreUnavailable(f"the file of API keys cannot be read: {error.strerror}") from error
        stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
        if stamp != self._stamp:
            self._keys = self._read()
            self._stamp = stamp
        return self._keys

    def new(self, name: str, scopes: Sequence[Scope], now: datetime, lifetime: timedelta | None) -> str:
        """Adds a key and returns its text, which cannot be had again."""
        key_id = secrets.token_hex(6)
        text = f"ik_{key_id}_{secrets.token_urlsafe(32)}"
        key = ApiKey(
            id=key_id,
            name=name,
            sha256=_sha256(text),
            scopes=tuple(scopes),
            created_at=now,
            expires_at=None if lifetime is None else now + lifetime,
        )
        with self._changing() as keys:
            keys[key_id] = key
        return text

    def revoke(self, key_id: str, now: datetime) -> None:
        """From now on the key is refused. Raises InvalidInput where there is none with this id."""
        with self._changing() as keys:
            if key_id not in keys:
                raise InvalidInput(FieldError("id", "no key has it; `list` shows those there are"))
            if keys[key_id].revoked_at is None:
                keys[key_id] = msgspec.structs.replace(keys[key_id], revoked_at=now)

    def _read(self) -> dict[str, ApiKey]:
        try:
            with open(self._path, "rb") as file:
                keys = msgspec.json.decode(file.read(), type=list[ApiKey])
        except OSError as error:
            raise StoreUnavailable(f"the file of API keys cannot be read: {error.strerror}") from error
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise StoreUnavailable(f"the file of API keys is broken: {error}") from error
        return {key.id: key for key in keys}

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, ApiKey]]:
        """One change at a time; readers see the file before or after it."""
        with open(f"{self._path}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = dict(self.keys())
            yield keys
            text = msgspec.json.format(msgspec.json.encode(list(keys.values())), indent=2)
            write_whole(Path(self._path), text, 0o600)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _scopes(text: str) -> tuple[Scope, ...]:
    chosen = [part.strip() for part in text.split(",")]
    if unknown := [part for part in chosen if part not in SCOPES]:
        raise argparse.ArgumentTypeError(f"unknown scope {unknown[0]!r}; there are {', '.join(SCOPES)}")
    return tuple(scope for scope in SCOPES if scope in chosen)


def _name(text: str) -> str:
    if not 1 <= len(text) <= NAME_LIMIT:
        raise argparse.ArgumentTypeError(f"must have 1 to {NAME_LIMIT} characters")
    if any(map(breaks_a_line, text)):
        raise argparse.ArgumentTypeError("must be one line without control characters")
    return text


def _lifetime(text: str) -> timedelta:
    if not (match := _LIFETIME.fullmatch(text)):
        raise argparse.ArgumentTypeError("give a number of days, such as 90d")
    return timedelta(days=int(match[1]))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m api.keys", description="Keeps the file of API keys, INVIGIL_KEYS.")
    commands = parser.add_subparsers(dest="command", required=True)
    new = commands.add_parser("new", help="make a key and print it, this once")
    new.add_argument("--name", required=True, type=_name, help="whose it is")
    new.add_argument("--scopes", required=True, type=_scopes, help=f"separated by commas: {', '.join(SCOPES)}")
    new.add_argument("--expires-in", type=_lifetime, metavar="DAYS", help="such as 90d; without it the key lasts")
    commands.add_parser("list", help="show all keys")
    commands.add_parser("revoke", help="refuse a key from now on").add_argument("id")
    options = parser.parse_args(arguments)
    try:
        file = KeyFile(need(Settings.from_environ(os.environ).keys, "KEYS"))
        now = SystemClock().now()
        if options.command == "new":
            print(file.new(options.name, options.scopes, now, options.expires_in))
        elif options.command == "revoke":
            file.revoke(options.id, now)
        else:
            _print(file.keys().values(), now)
    except (InvalidInput, SettingsError, StoreUnavailable, OSError) as error:
        sys.exit(f"api.keys: {error}")


def _print(keys: Iterable[ApiKey], now: datetime) -> None:
    for key in keys:
        state = "valid" if key.is_valid(now) else "revoked" if key.revoked_at else "expired"
        until = rfc3339(key.expires_at) if key.expires_at else "-"
        print(f"{key.id}  {state:8}  {rfc3339(key.created_at)}  {until:24}  {','.join(key.scopes)}  {key.name}")


if __name__ == "__main__":
    main()
