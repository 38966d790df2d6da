"""The digest: a mail of the exams that ended since the one before. docs/design.md says why none is lost or doubled."""

import re
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from itertools import count
from pathlib import Path

import structlog
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from shared.clock import Clock
from shared.errors import FieldError, InvalidInput, MailError, MailRefused, RecipientRefused
from shared.exams.model import Exam, Status
from shared.exams.store import DigestStore
from worker.mail import Mailer

LARGEST = 10_000  # outcomes a mail: some 5 MB, which servers take; more go into further parts of the window

KEEP_TRYING = timedelta(days=3)  # a recipient that is refused: about as long as mail servers do among themselves

_WINDOW = re.compile(r"(\d{8}T\d{6}\.\d{3})Z(\.\d{1,6})?")

_log = structlog.get_logger(__name__)


class Digests:
    """Sends windows of `store` through `mailer`."""

    def __init__(
        self,
        store: DigestStore,
        mailer: Mailer,
        clock: Clock,
        sender: Address,
        recipients: Sequence[Address],
        namespace: str,
        largest: int = LARGEST,
    ) -> None:
        self._store = store
        self._mailer = mailer
        self._clock = clock
        self._sender = sender
        self._recipients = recipients
        self._namespace = namespace
        self._largest = largest
        self._one_at_a_time = threading.Lock()

    def send(self, window: str) -> None:
        """Sends what earlier windows left unsent, then this one. Raises MailError when somebody was not served."""
        _due_at(window)  # a name that cannot be sent must not be begun: every later run would try to finish it
        run = _Run()
        with self._one_at_a_time:
            for earlier in self._store.unsent():
                waiting = self._unserved(earlier)
                if not waiting or not run.refused.issuperset(waiting):
                    self._send_part(earlier, run)
            for part in count(1):
                if self._send_part(window if part == 1 else f"{window}.{part}", run) < self._largest:
                    break
        if run.failures:
            raise MailError("; ".join(run.failures))

    def _unserved(self, window: str) -> list[str]:
        addresses = [recipient.addr_spec for recipient in self._recipients]
        served = self._store.recipients_served(window, addresses)
        return [address for address in addresses if address not in served]

    def _send_part(self, window: str, run: "_Run") -> int:
        """How many outcomes it told of; `run` notes who was refused. Raises MailError when the server failed."""
        exams = self._ended_exams(window)
        if not exams and _is_further_part(window):  # the part before it was full, and the last
            self._store.close(window)
            return 0
        message = compose(window, exams, self._sender, self._recipients, self._namespace)
        waiting = set(self._unserved(window)) - run.refused
        for recipient in self._recipients:
            if recipient.addr_spec in waiting:
                try:
                    self._mailer.send(message, recipient)
                except MailRefused as error:
                    run.note(window, recipient, error)
                else:
                    self._store.note_served(window, recipient.addr_spec)
                    _log.info("digest_sent", window=window, outcomes=len(exams))
        self._close_if_done(window)
        return len(exams)

    def _ended_exams(self, window: str) -> list[Exam]:
        exams = [exam for history in self._store.collect(window, self._largest) if (exam := history.fold())]
        for exam in exams:
            if not exam.is_decided:  # its second event is missing, as after a backup taken while it ended
                _log.error("outcome_missing", pk=exam.pk, window=window)
        return [exam for exam in exams if exam.is_decided]

    def _close_if_done(self, window: str) -> None:
        unserved = len(self._unserved(window))
        if unserved and self._clock.now() - _due_at(window) < KEEP_TRYING:
            return
        if unserved:
            _log.error("digest_given_up", window=window, recipients=unserved)
        self._store.close(window)


class _Run:
    """What went wrong in one run, and whom the server refused: tried once a run, however many windows wait."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.refused: set[str] = set()

    def note(self, window: str, recipient: Address, error: MailRefused) -> None:
        self.failures.append(f"{window}: {error}")
        if isinstance(error, RecipientRefused):
            self.refused.add(recipient.addr_spec)


def compose(
    window: str, exams: Sequence[Exam], sender: Address, recipients: Sequence[Address], namespace: str
) -> EmailMessage:
    """The mail of a window: the same bytes whenever and by whomever it is composed."""
    due_at = _due_at(window)
    outcomes: list[Status] = [status for status in Status if status is not Status.STARTED]
    counts = {status: sum(exam.status is status for exam in exams) for status in outcomes}
    values = {"due_at": due_at, "exams": exams, "counts": counts}
    message = EmailMessage()
    message["From"] = sender
    message["To"] = tuple(recipients)
    message["Subject"] = _subject(counts, due_at)
    message["Date"] = format_datetime(due_at)
    message["Message-ID"] = f"<digest.{window}.{namespace}@{sender.domain}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's absence notice should answer it
    # Quoted-printable never makes a "=_", so no candidate's name can end a part, wherever its lines are folded.
    text, html = (_templates.get_template(f"digest.{kind}").render(values) for kind in ("txt", "html"))
    message.set_content(text, cte="quoted-printable")
    message.add_alternative(html, subtype="html", cte="quoted-printable")
    message.set_boundary(f"=_invigil-{window}")
    return message


def _due_at(window: str) -> datetime:
    """Raises InvalidInput where `window` is no name of a digest or of a part of one."""
    match = _WINDOW.fullmatch(window)
    try:
        return datetime.strptime(match[1] if match else "", "%Y%m%dT%H%M%S.%f").replace(tzinfo=UTC)
    except ValueError as error:
        raise InvalidInput(FieldError("window", "must be an instant such as 20261120T104500.000Z")) from error


def _is_further_part(window: str) -> bool:
    return window.count(".") > 1


def _subject(counts: Mapping[Status, int], due_at: datetime) -> str:
    told = ", ".join(f"{number} {status}" for status, number in counts.items())
    if not any(counts.values()):
        told = "no exam ended"
    return f"Exams until {due_at:%Y-%m-%d %H:%M} UTC: {told}"


def _instant(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%S}"


_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_templates.filters["instant"] = _instant
