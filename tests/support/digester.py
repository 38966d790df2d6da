"""Digests from a store in a folder to a real SMTP server, and what arrived there."""

import re
import ssl
from collections import Counter
from collections.abc import Sequence
from email.headerregistry import Address
from pathlib import Path
from urllib.parse import SplitResult

from tests.support.clock import ManualClock
from tests.support.disk import Watch, WatchedDisk
from tests.support.exam_files import ExamProcess, open_process
from tests.support.smtp_server import SmtpServer
from worker.digest import LARGEST, Digests
from worker.mail import SmtpMailer

SENDER = Address(addr_spec="invigil@example.org")
DEAN = Address(addr_spec="dean@example.org")
OFFICE = Address(addr_spec="office@example.org")

ANSWER_WITHIN_S = 5.0

# These servers offer no TLS, and to load the system's authorities takes 40 ms.
_NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

_PK = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f-]{21}")


def exam_process(folder: Path) -> ExamProcess:
    return open_process(WatchedDisk(folder), ManualClock())


def digests(
    folder: Path,
    url: SplitResult,
    recipients: Sequence[Address] = (DEAN,),
    largest: int = LARGEST,
    watch: Watch | None = None,
    clock: ManualClock | None = None,
) -> Digests:
    """One worker's; `watch` is told of each system call on the store once it is open."""
    disk = WatchedDisk(folder)
    store = open_process(disk, ManualClock()).digests
    disk.watch = watch
    mailer = SmtpMailer(url, _NO_AUTHORITIES, timeout_s=ANSWER_WITHIN_S)
    return Digests(store, mailer, clock or ManualClock(), SENDER, recipients, "invigil", largest)


def send(folder: Path, url: SplitResult, window: str) -> None:
    """What a process that may be killed runs."""
    digests(folder, url).send(window)


def pks_by_mail(smtp: SmtpServer, recipient: Address = DEAN) -> dict[str, list[str]]:
    """The exams in each mail that this recipient got, by Message-ID; one that came again must be the same mail."""
    contents: dict[str, bytes] = {}
    for delivery in smtp.deliveries:
        if delivery.recipient == recipient.addr_spec:
            name = delivery.message["Message-ID"].removeprefix("<digest.").partition(".invigil@")[0]
            assert contents.setdefault(name, delivery.content) == delivery.content
    return {name: _pks(content) for name, content in contents.items()}


def check_each_once(smtp: SmtpServer, pks: Sequence[str], recipient: Address = DEAN) -> None:
    """Every outcome is in exactly one of the mails that this recipient got."""
    told = [pk for mail in pks_by_mail(smtp, recipient).values() for pk in mail]
    assert Counter(told) == Counter(pks)


def _pks(content: bytes) -> list[str]:
    text, _html = content.split(b"Content-Type: text/html", 1)
    return _PK.findall(text.decode())
