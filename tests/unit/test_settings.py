"""Settings from the environment."""

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from email.headerregistry import Address
from pathlib import Path

import pytest

from shared.errors import SettingsError
from shared.settings import Settings, need
from shared.tasks.routes import Rule


def duration_of(field: str) -> Callable[[Settings], object]:
    return lambda settings: getattr(settings, field).total_seconds()


def mail_host_of(settings: Settings) -> object:
    return (settings.mail_url.scheme, settings.mail_url.hostname, settings.mail_url.port) if settings.mail_url else None


def mail_path_of(settings: Settings) -> object:
    return (settings.mail_url.scheme, settings.mail_url.path) if settings.mail_url else None


def value_of(field: str) -> Callable[[Settings], object]:
    return lambda settings: getattr(settings, field)


def addresses(*specs: str) -> tuple[Address, ...]:
    return tuple(Address(addr_spec=spec) for spec in specs)


ROUTES = (Rule("report_*", "slow"), Rule("send_?", "mail"), Rule("x", "9-_a"))

GOOD: list[tuple[str, str, Callable[[Settings], object], object]] = [
    ("REDIS_URL", "redis://:pass@db:6380/2", value_of("redis_url"), "redis://:pass@db:6380/2"),
    ("REDIS_URL", "rediss://db", value_of("redis_url"), "rediss://db"),
    ("REDIS_URL", "unix:///run/redis.sock", value_of("redis_url"), "unix:///run/redis.sock"),
    ("STORE", "file:///srv/store/", value_of("store"), "/srv/store"),
    ("NAMESPACE", "school-2_b", value_of("namespace"), "school-2_b"),
    ("NAMESPACE", "9" * 41, value_of("namespace"), "9" * 41),
    ("KEYS", "/etc/invigil/keys.json", value_of("keys"), "/etc/invigil/keys.json"),
    ("EXAM_SECONDS", "0.5", duration_of("exam_duration"), 0.5),
    ("EXAM_SECONDS", "604800", duration_of("exam_duration"), 604_800),
    ("EXAM_SECONDS", "90.125", duration_of("exam_duration"), 90.125),
    ("MESSAGE_SECONDS", "1.5", duration_of("message_delay"), 1.5),
    ("DIGEST_SECONDS", "60", duration_of("digest_period"), 60),
    ("SWEEP_SECONDS", "2", duration_of("sweep_period"), 2),
    ("RESULT_SECONDS", "3600", duration_of("result_keep"), 3_600),
    ("SETTLE_MARGIN_MS", "0", duration_of("settle_margin"), 0),
    ("SETTLE_MARGIN_MS", "99999", duration_of("settle_margin"), 99.999),
    ("ROUTES", "", value_of("routes"), ()),
    ("ROUTES", " report_*=slow,, send_?=mail,x=9-_a ", value_of("routes"), ROUTES),
    ("MAIL_URL", "smtp://user:pass@mail.example.org:2525", mail_host_of, ("smtp", "mail.example.org", 2525)),
    ("MAIL_URL", "smtps://mail.example.org", mail_host_of, ("smtps", "mail.example.org", None)),
    ("MAIL_URL", "maildir:///srv/mail", mail_path_of, ("maildir", "/srv/mail")),
    ("MAIL_FROM", "invigil@example.org", value_of("mail_from"), Address(addr_spec="invigil@example.org")),
    ("MAIL_TO", "a@example.org, b@x.org,,a@example.org", value_of("mail_to"), addresses("a@example.org", "b@x.org")),
    ("MAIL_TO", "", value_of("mail_to"), ()),
    ("BIND", "0.0.0.0:65535", value_of("bind"), "0.0.0.0:65535"),
    ("BIND", "[::1]:8000", value_of("bind"), "[::1]:8000"),
    ("LOG_FORMAT", "console", value_of("log_format"), "console"),
    ("PULSE_FILE", "/run/pulse", value_of("pulse_file"), "/run/pulse"),
]  # fmt: skip

SECONDS = "a number of seconds from 0.5 to 604800, such as 120 or 0.5"
PATH = "an absolute path"

ALLOWED = {
    "REDIS_URL": "redis://, rediss:// or unix:// with a host or a socket's path",
    "STORE": "file:/// and an absolute path",
    "NAMESPACE": "1 to 41 small letters, digits, - or _, beginning with a letter or digit",
    "KEYS": PATH,
    "EXAM_SECONDS": SECONDS,
    "MESSAGE_SECONDS": SECONDS,
    "DIGEST_SECONDS": SECONDS,
    "SWEEP_SECONDS": SECONDS,
    "RESULT_SECONDS": SECONDS,
    "SETTLE_MARGIN_MS": "a whole number of milliseconds from 0 to 99999",
    "ROUTES": "task=queue, separated by commas; the task's name may hold * and ?, such as report_*=slow",
    "MAIL_URL": "smtp://user:password@host:port, smtps://user:password@host:port or maildir:///path",
    "MAIL_FROM": "one mail address, such as invigil@example.org",
    "MAIL_TO": "mail addresses separated by commas",
    "BIND": "host:port, such as 127.0.0.1:8000",
    "LOG_FORMAT": "json or console",
    "PULSE_FILE": PATH,
}

BAD: dict[str, list[str]] = {
    "REDIS_URL": [
        *("", "http://db", "redis://", "redis:///0", "unix://", "unix:/run/redis.sock", "db:6379"),
        *("redis://db:port", "redis://db:99999", "redis://:s3cret@db:port"),
    ],
    "STORE": [
        *("", "/srv/store", "file://host/srv", "file:///", "file:relative"),
        *("postgresql://db/x", "file:///a?b", "file:///a#b"),
    ],
    "NAMESPACE": ["", "School", "a b", "-a", "a" * 42, "a:b", "a\n"],
    "KEYS": ["", "keys.json", "/a\0b"],
    "EXAM_SECONDS": [
        *("", "0", "0.499", "-5", "604800.001", "1e3", "inf", "nan"),
        *("two", " 5", "5s", "1_000", "1.2345", "٥"),
    ],
    "MESSAGE_SECONDS": ["0.4"],
    "DIGEST_SECONDS": ["0.4"],
    "SWEEP_SECONDS": ["0.4"],
    "RESULT_SECONDS": ["0.4"],
    "SETTLE_MARGIN_MS": ["", "-1", "0.5", "100000", "1s", "٥"],
    "ROUTES": [
        *("report", "=slow", "report=", "report=slow=mail", "report=slow;send=mail", "report = slow"),
        *("Report=slow", "report=Slow", "report=-slow", "report=sl ow", "[a-z]*=slow", "report=slow\nx"),
        *("a" * 101 + "=slow", "report=" + "a" * 42, "report=größe"),
    ],
    "MAIL_URL": [
        *("", "mail.example.org", "smtp://", "http://host", "smtp://host/path", "smtp://user:s3cret@host:port"),
        *("maildir://host/mail", "maildir:///", "maildir:mail"),
    ],
    "MAIL_FROM": ["", "invigil", "@example.org", "a@", "a@b, c@d", "Name <a@b>", "a@b\r\nBcc: c@d"],
    "MAIL_TO": ["a@example.org;b@example.org", "a@example.org, nobody"],
    "BIND": ["", "8000", ":8000", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:٥", "unix:/run/api.sock"],
    "LOG_FORMAT": ["", "JSON", "text"],
    "PULSE_FILE": ["", "pulse"],
}


def read(**values: str) -> Settings:
    return Settings.from_environ({f"INVIGIL_{name}": value for name, value in values.items()})


def test_nothing_has_to_be_set() -> None:
    """Every setting has a default, or is optional and missed only by the part that needs it."""
    assert Settings.from_environ({}) == Settings(
        redis_url="redis://127.0.0.1:6379/0",
        store=None,
        namespace="invigil",
        keys=None,
        exam_duration=timedelta(minutes=2),
        message_delay=timedelta(seconds=20),
        digest_period=timedelta(minutes=5),
        sweep_period=timedelta(seconds=10),
        settle_margin=timedelta(),
        result_keep=timedelta(days=1),
        routes=(),
        mail_url=None,
        mail_from=None,
        mail_to=(),
        bind="127.0.0.1:8000",
        log_format="json",
        pulse_file=None,
        unknown=(),
    )


@pytest.mark.parametrize(("name", "text", "read_back", "value"), GOOD)
def test_a_good_value_is_taken(name: str, text: str, read_back: Callable[[Settings], object], value: object) -> None:
    """As the type that the rest of the code works with."""
    assert read_back(read(**{name: text})) == value


@pytest.mark.parametrize(("name", "text", "read_back", "value"), GOOD)
def test_every_variable_may_be_a_file(
    tmp_path: Path, name: str, text: str, read_back: Callable[[Settings], object], value: object
) -> None:
    """`X_FILE` holds the value of `X`, with the line's end that an editor leaves."""
    file = tmp_path / "value"
    file.write_text(f"{text}\n")
    assert read_back(read(**{f"{name}_FILE": str(file)})) == value


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in BAD.items() for text in texts])
def test_a_bad_value_is_named_and_not_repeated(name: str, text: str) -> None:
    """The error names the variable and what is allowed; the value may hold a password and stays out."""
    with pytest.raises(SettingsError) as caught:
        read(**{name: text})
    assert str(caught.value) == f"INVIGIL_{name} cannot be used: it must be {ALLOWED[name]}"


def test_every_variable_is_in_these_tables() -> None:
    """A setting added later fails this until its good and bad values are here."""
    names = {name for name, *_ in GOOD}
    assert names == set(BAD) == set(ALLOWED)
    assert len(names) == len(dataclasses.fields(Settings)) - 1  # all but `unknown`


def test_a_bad_value_in_a_file_is_not_repeated_either(tmp_path: Path) -> None:
    """The variable named is the setting's."""
    file = tmp_path / "value"
    file.write_text("http://user:s3cret@db")
    with pytest.raises(SettingsError, match=r"^INVIGIL_REDIS_URL cannot be used") as caught:
        read(REDIS_URL_FILE=str(file))
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("name", sorted({name for name, *_ in GOOD}))
def test_a_value_and_a_file_together_are_refused(name: str) -> None:
    """Nobody has to know which of the two would win."""
    with pytest.raises(SettingsError, match=rf"^INVIGIL_{name} and INVIGIL_{name}_FILE are both set: set one of them$"):
        read(**{name: "x", f"{name}_FILE": "/x"})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Missing, a folder, not text, or no path at all: the variable is named each time."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for path in (str(tmp_path / "missing"), str(tmp_path), str(tmp_path / "binary"), "a\0b"):
        with pytest.raises(SettingsError, match=r"^INVIGIL_KEYS_FILE names a file that cannot be read"):
            read(KEYS_FILE=path)


def test_variables_that_are_no_settings_are_collected() -> None:
    """A misspelt name is reported; what is not ours, and the launcher's own folder, are not."""
    environ = {"INVIGIL_EXAM_SECOND": "5", "INVIGIL_BINDE": "x", "INVIGIL_VAR": "var", "PATH": "/bin", "BIND": "x"}
    assert Settings.from_environ(environ).unknown == ("INVIGIL_BINDE", "INVIGIL_EXAM_SECOND")


def test_a_part_names_the_optional_setting_that_it_needs() -> None:
    """An optional setting without a value stops the process that cannot do without it."""
    with pytest.raises(SettingsError, match=r"^INVIGIL_STORE is not set, and this process needs it$"):
        need(read().store, "STORE")
    assert need(read(STORE="file:///srv").store, "STORE") == "/srv"
