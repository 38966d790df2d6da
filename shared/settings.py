"""Every setting, read from the environment once. docs/operations.md explains them to operators.

`X_FILE` names a file that holds the value of `X`. A bad value raises SettingsError, which names the variable.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from email.headerregistry import Address
from pathlib import Path
from typing import TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from shared.errors import SettingsError
from shared.tasks.routes import Rule

PREFIX = "INVIGIL_"
WEEK = timedelta(days=7)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a process is told. A part that cannot do without an optional one asks for it with `need`."""

    redis_url: str
    store: str | None
    namespace: str
    keys: str | None
    exam_duration: timedelta
    message_delay: timedelta
    digest_period: timedelta
    sweep_period: timedelta
    settle_margin: timedelta
    result_keep: timedelta
    routes: tuple[Rule, ...]
    mail_url: SplitResult | None
    mail_from: Address | None
    mail_to: tuple[Address, ...]
    bind: str
    log_format: str
    pulse_file: str | None
    unknown: tuple[str, ...]

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "Settings":
        """Raises SettingsError for the first value that cannot be used."""
        reader = _Reader(environ)
        return cls(
            redis_url=reader.read("REDIS_URL", _redis_url, "redis://127.0.0.1:6379/0"),
            store=reader.read_optional("STORE", _store),
            namespace=reader.read("NAMESPACE", _namespace, "invigil"),
            keys=reader.read_optional("KEYS", _path),
            exam_duration=reader.read("EXAM_SECONDS", _seconds, "120"),
            message_delay=reader.read("MESSAGE_SECONDS", _seconds, "20"),
            digest_period=reader.read("DIGEST_SECONDS", _seconds, "300"),
            sweep_period=reader.read("SWEEP_SECONDS", _seconds, "10"),
            settle_margin=reader.read("SETTLE_MARGIN_MS", _margin, "0"),
            result_keep=reader.read("RESULT_SECONDS", _seconds, "86400"),
            routes=reader.read("ROUTES", _routes, ""),
            mail_url=reader.read_optional("MAIL_URL", _mail_url),
            mail_from=reader.read_optional("MAIL_FROM", _address),
            mail_to=reader.read("MAIL_TO", _addresses, ""),
            bind=reader.read("BIND", _bind, "127.0.0.1:8000"),
            log_format=reader.read("LOG_FORMAT", _log_format, "json"),
            pulse_file=reader.read_optional("PULSE_FILE", _path),
            unknown=reader.unread(),
        )


def need(value: T | None, name: str) -> T:
    """The value of an optional setting that this process cannot do without."""
    if not value:
        raise SettingsError(f"{PREFIX}{name} is not set, and this process needs it")
    return value


class _Reader:
    """Takes variables out of an environment and remembers which it was asked for."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._asked = {f"{PREFIX}VAR"}  # the launcher's own (run.py)

    def read(self, name: str, parse: Callable[[str], T], default: str | None = None) -> T:
        text = self._text(name)
        if text is None:
            text = default
        if text is None:
            raise SettingsError(f"{PREFIX}{name} is not set: it must be {_ALLOWED[parse]}")
        try:
            return parse(text)
        except ValueError as error:
            # The value itself is not repeated: it may hold a password.
            raise SettingsError(f"{PREFIX}{name} cannot be used: it must be {_ALLOWED[parse]}") from error

    def read_optional(self, name: str, parse: Callable[[str], T]) -> T | None:
        return None if self._text(name) is None else self.read(name, parse)

    def unread(self) -> tuple[str, ...]:
        """Variables that look like settings and are none."""
        return tuple(sorted(name for name in self._environ if name.startswith(PREFIX) and name not in self._asked))

    def _text(self, name: str) -> str | None:
        variable = f"{PREFIX}{name}"
        self._asked |= {variable, f"{variable}_FILE"}
        text, path = self._environ.get(variable), self._environ.get(f"{variable}_FILE")
        if text is not None and path is not None:
            raise SettingsError(f"{variable} and {variable}_FILE are both set: set one of them")
        if path is None:
            return text
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise SettingsError(f"{variable}_FILE names a file that cannot be read: {error}") from error


def _seconds(text: str) -> timedelta:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", text):
        raise ValueError
    duration = timedelta(seconds=float(text))
    if not timedelta(seconds=0.5) <= duration <= WEEK:
        raise ValueError
    return duration


def _margin(text: str) -> timedelta:
    if not re.fullmatch(r"[0-9]{1,5}", text):
        raise ValueError
    return timedelta(milliseconds=int(text))


def _redis_url(text: str) -> str:
    url = urlsplit(text)
    has_place = bool(url.path.strip("/") if url.scheme == "unix" else url.hostname)
    if not text.startswith(("redis://", "rediss://", "unix://")) or not has_place:
        raise ValueError
    _ = url.port  # raises ValueError where it is no port
    return text


def _store(text: str) -> str:
    url = urlsplit(text)
    if url.scheme != "file" or url.netloc or url.query or url.fragment or not _is_absolute(url.path):
        raise ValueError
    return unquote(url.path).rstrip("/")


def _namespace(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,40}", text):
        raise ValueError
    return text


def _path(text: str) -> str:
    if not text.startswith("/") or "\0" in text:
        raise ValueError
    return text


def _is_absolute(path: str) -> bool:
    """And not the root itself."""
    return path.startswith("/") and path.strip("/") != ""


def _mail_url(text: str) -> SplitResult:
    url = urlsplit(text)
    if url.scheme == "maildir":
        if url.netloc or not _is_absolute(url.path):
            raise ValueError
    elif url.scheme not in ("smtp", "smtps") or not url.hostname or url.path.strip("/") or url.query or url.fragment:
        raise ValueError
    _ = url.port
    return url


def _address(text: str) -> Address:
    if any(ord(character) < 0x20 for character in text):
        raise ValueError
    try:
        address = Address(addr_spec=text.strip())
    except Exception as error:
        raise ValueError from error
    if not address.username or not address.domain:
        raise ValueError
    return address


def _addresses(text: str) -> tuple[Address, ...]:
    parts = dict.fromkeys(part.strip() for part in text.split(","))
    return tuple(_address(part) for part in parts if part)


def _bind(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65_535:
        raise ValueError
    return text


def _routes(text: str) -> tuple[Rule, ...]:
    rules = [part.strip() for part in text.split(",") if part.strip()]
    matches = [re.fullmatch(r"([a-z0-9_*?]{1,100})=([a-z0-9][a-z0-9_-]{0,40})", rule) for rule in rules]
    if not all(matches):
        raise ValueError
    return tuple(Rule(match[1], match[2]) for match in matches if match)


def _log_format(text: str) -> str:
    if text not in ("json", "console"):
        raise ValueError
    return text


_ALLOWED: dict[Callable[[str], object], str] = {
    _seconds: "a number of seconds from 0.5 to 604800, such as 120 or 0.5",
    _margin: "a whole number of milliseconds from 0 to 99999",
    _redis_url: "redis://, rediss:// or unix:// with a host or a socket's path",
    _store: "file:/// and an absolute path",
    _namespace: "1 to 41 small letters, digits, - or _, beginning with a letter or digit",
    _path: "an absolute path",
    _mail_url: "smtp://user:password@host:port, smtps://user:password@host:port or maildir:///path",
    _address: "one mail address, such as invigil@example.org",
    _addresses: "mail addresses separated by commas",
    _bind: "host:port, such as 127.0.0.1:8000",
    _routes: "task=queue, separated by commas; the task's name may hold * and ?, such as report_*=slow",
    _log_format: "json or console",
}
