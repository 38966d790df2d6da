"""Handing a mail over: to an SMTP server, or into a Maildir."""

import contextlib
import os
import smtplib
import ssl
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from typing import Protocol
from urllib.parse import SplitResult, unquote

from shared.errors import MailError, MailRefused, RecipientRefused

ANSWER_WITHIN_S = 30  # RFC 5321 allows minutes; a server this slow is tried again later

_DEFAULT_PORT = {"smtp": 25, "smtps": 465}


class Mailer(Protocol):
    """Hands `message` over for one recipient. Raises MailError; MailRefused where the server works otherwise."""

    def send(self, message: EmailMessage, recipient: Address) -> None: ...


def open_mailer(url: SplitResult) -> Mailer:
    """For a URL that settings have accepted. Connects, or makes folders, when first used."""
    return MaildirMailer(unquote(url.path)) if url.scheme == "maildir" else SmtpMailer(url)


class SmtpMailer:
    """`smtps://` encrypts from the start; `smtp://` once the server offers STARTTLS, and always before a password.

    Certificates are verified against `tls`, by default the system's authorities.
    """

    def __init__(self, url: SplitResult, tls: ssl.SSLContext | None = None, timeout_s: float = ANSWER_WITHIN_S) -> None:
        self._host = url.hostname or ""
        self._port = url.port or _DEFAULT_PORT[url.scheme]
        self._is_encrypted = url.scheme == "smtps"
        self._user, self._password = unquote(url.username or ""), unquote(url.password or "")
        self._tls = tls or ssl.create_default_context()
        self._timeout_s = timeout_s

    def send(self, message: EmailMessage, recipient: Address) -> None:
        try:
            with contextlib.closing(self._connect()) as server:
                self._log_in(server)
                server.send_message(message, to_addrs=[recipient.addr_spec])
                with contextlib.suppress(OSError, smtplib.SMTPException):
                    server.quit()  # it has the mail now: what it answers to a goodbye changes nothing
        except smtplib.SMTPRecipientsRefused as error:
            code, why = error.recipients[recipient.addr_spec]
            raise RecipientRefused(f"refused with {code}: {why.decode(errors='replace')}") from error
        except smtplib.SMTPResponseException as error:
            if _is_about_this_mail(error):
                raise MailRefused(f"the mail was refused with {error.smtp_code}") from error
            raise MailError(f"the mail server answered {error.smtp_code}") from error
        except smtplib.SMTPNotSupportedError as error:
            raise RecipientRefused(f"the mail server cannot write to this address: {error}") from error
        except (OSError, smtplib.SMTPException) as error:
            raise MailError(f"the mail server failed: {type(error).__name__}: {error}") from error
        except UnicodeEncodeError as error:
            raise MailError("the mail server's user and password must be ASCII") from error

    def _connect(self) -> smtplib.SMTP:
        if self._is_encrypted:
            return smtplib.SMTP_SSL(self._host, self._port, timeout=self._timeout_s, context=self._tls)
        return smtplib.SMTP(self._host, self._port, timeout=self._timeout_s)

    def _log_in(self, server: smtplib.SMTP) -> None:
        server.ehlo()
        if not self._is_encrypted and server.has_extn("starttls"):
            server.starttls(context=self._tls)
        elif not self._is_encrypted and self._user:
            raise MailError("the mail server offers no STARTTLS, and a password must not travel in the clear")
        if self._user:
            server.login(self._user, self._password)


def _is_about_this_mail(error: smtplib.SMTPResponseException) -> bool:
    """Whether it is too large, say, for good, so that it must not hold other mails up."""
    return isinstance(error, (smtplib.SMTPSenderRefused, smtplib.SMTPDataError)) and error.smtp_code >= 500


class MaildirMailer:
    """One file a mail, named after its Message-ID: handing it over again, or to another recipient, changes nothing."""

    def __init__(self, path: str) -> None:
        self._path = path

    def send(self, message: EmailMessage, _recipient: Address) -> None:
        name = message["Message-ID"].strip("<>").replace("/", "_").replace(":", "_")
        try:
            self._deliver(name, message.as_bytes(policy=SMTP.clone(linesep="\n")))
        except OSError as error:
            raise MailError(f"the Maildir cannot be written: {error.strerror}") from error

    def _deliver(self, name: str, content: bytes) -> None:
        for folder in ("", "tmp", "new", "cur"):
            os.makedirs(os.path.join(self._path, folder), 0o700, exist_ok=True)
        if any(seen.partition(":")[0] == name for seen in os.listdir(f"{self._path}/cur")):
            return  # a mail reader has taken it over already
        draft = f"{self._path}/tmp/{name}.{os.urandom(8).hex()}"  # noqa: S108 - the Maildir's own tmp
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                os.link(draft, f"{self._path}/new/{name}")
            except FileExistsError:
                return  # handed over before
            finally:
                os.unlink(draft)
        handle = os.open(f"{self._path}/new", os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
