"""Handing a mail over: to a real SMTP server that fails in every way we know, and into a Maildir."""

import os
import socket
import ssl
from collections.abc import Iterator
from email.headerregistry import Address
from email.message import EmailMessage
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import pytest

from shared.errors import MailError, MailRefused, RecipientRefused
from tests.support.certificates import CertificateAuthority
from tests.support.exams import ended_exam
from tests.support.smtp_server import HOST, Fault, Login, SmtpServer
from worker.digest import compose
from worker.mail import MaildirMailer, SmtpMailer, open_mailer

DEAN = Address(addr_spec="dean@example.org")
LOGIN = Login("invigil", "correct-horse")
SOON_S = 0.3  # how long a silent server is waited for here
MESSAGE_ID = "digest.20261120T120500.000Z.invigil@example.org"


@pytest.fixture
def mail() -> EmailMessage:
    sender = Address(addr_spec="invigil@example.org")
    return compose("20261120T120500.000Z", [ended_exam(candidate="山田太郎")], sender, [DEAN], "invigil")


@pytest.fixture
def smtp() -> Iterator[SmtpServer]:
    server = SmtpServer()
    yield server
    server.close()


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority(tmp_path)


@pytest.fixture
def encrypting(authority: CertificateAuthority) -> Iterator[SmtpServer]:
    """Offers STARTTLS and wants a login after it."""
    server = SmtpServer(authority.server(), LOGIN)
    yield server
    server.close()


def mailer(url: SplitResult, tls: ssl.SSLContext | None = None) -> SmtpMailer:
    return SmtpMailer(url, tls, timeout_s=SOON_S)


# an ordinary server


def test_a_mail_arrives_as_it_was_composed(smtp: SmtpServer, mail: EmailMessage) -> None:
    """Once, for the one recipient asked for, with its headers and both parts."""
    mailer(smtp.url).send(mail, DEAN)
    ((recipient, _),) = smtp.deliveries
    arrived = smtp.deliveries[0].message
    assert recipient == "dean@example.org"
    assert arrived.items() == mail.items()
    assert [part.get_content() for part in arrived.iter_parts()] == [
        part.get_content().replace("\n", "\r\n") for part in mail.iter_parts()
    ]


@pytest.mark.parametrize("command", ["MAIL", "DATA"])
@pytest.mark.parametrize("answer", ["421 closing down", "451 try later"])
def test_a_server_that_says_later_has_failed(smtp: SmtpServer, mail: EmailMessage, command: str, answer: str) -> None:
    """4xx for the whole mail: nothing arrived, and everything is to be tried again."""
    smtp.fail(command, answer)
    with pytest.raises(MailError, match=answer[:3]) as failure:
        mailer(smtp.url).send(mail, DEAN)
    assert type(failure.value) is MailError
    assert smtp.deliveries == []


@pytest.mark.parametrize("command", ["MAIL", "DATA"])
def test_a_mail_refused_for_good_is_told_apart_from_a_server_that_failed(
    smtp: SmtpServer, mail: EmailMessage, command: str
) -> None:
    """552, too large: other mails go on, so it must not look as if the server were down."""
    smtp.fail(command, "552 too large")
    with pytest.raises(MailRefused, match="552"):
        mailer(smtp.url).send(mail, DEAN)
    mailer(smtp.url).send(mail, DEAN)
    assert len(smtp.deliveries) == 1


@pytest.mark.parametrize("answer", ["450 mailbox busy", "550 no such user", "452 mailbox full"])
def test_a_refused_recipient_is_named_with_the_servers_reason(
    smtp: SmtpServer, mail: EmailMessage, answer: str
) -> None:
    """The server works; only this one address does not."""
    smtp.refuse("dean@example.org", answer)
    with pytest.raises(RecipientRefused, match=f"refused with {answer[:3]}: {answer[4:]}"):
        mailer(smtp.url).send(mail, DEAN)
    assert smtp.deliveries == []


@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("fault", [Fault.CUT, Fault.SILENCE])
def test_a_server_that_is_cut_off_or_silent_has_failed(
    smtp: SmtpServer, mail: EmailMessage, command: str, fault: Fault
) -> None:
    """At each command; the wait for a silent one is bounded, and nothing arrived."""
    smtp.fail(command, fault)
    with pytest.raises(MailError) as failure:
        mailer(smtp.url).send(mail, DEAN)
    assert type(failure.value) is MailError
    assert smtp.deliveries == []


def test_a_mail_cut_off_amidst_its_content_does_not_arrive(smtp: SmtpServer, mail: EmailMessage) -> None:
    """Half a mail is none; sent again, it arrives once."""
    smtp.fail("DATA", Fault.CUT_AMIDST)
    with pytest.raises(MailError):
        mailer(smtp.url).send(mail, DEAN)
    assert smtp.deliveries == []
    mailer(smtp.url).send(mail, DEAN)
    assert len(smtp.deliveries) == 1


def test_a_mail_that_arrived_without_an_answer_counts_as_failed(smtp: SmtpServer, mail: EmailMessage) -> None:
    """Nobody can know; sent again it is the same mail with the same Message-ID, so readers show one."""
    smtp.fail("DATA", Fault.KEEP_AND_CUT)
    with pytest.raises(MailError):
        mailer(smtp.url).send(mail, DEAN)
    mailer(smtp.url).send(mail, DEAN)
    first, second = smtp.deliveries
    assert first == second
    assert first.message["Message-ID"] == f"<{MESSAGE_ID}>"


@pytest.mark.parametrize("goodbye", ["421 gone", Fault.CUT, Fault.SILENCE])
def test_an_accepted_mail_is_sent_however_the_goodbye_goes(
    smtp: SmtpServer, mail: EmailMessage, goodbye: str | Fault
) -> None:
    """After 250 for the mail nothing is sent again."""
    smtp.fail("QUIT", goodbye)
    mailer(smtp.url).send(mail, DEAN)
    assert len(smtp.deliveries) == 1


def test_a_refused_connection_is_a_failed_server(mail: EmailMessage) -> None:
    """A port that is bound and does not listen."""
    with socket.socket() as bound:
        bound.bind((HOST, 0))
        with pytest.raises(MailError, match="ConnectionRefusedError"):
            mailer(urlsplit(f"smtp://{HOST}:{bound.getsockname()[1]}")).send(mail, DEAN)


def test_a_server_that_never_greets_is_given_up(mail: EmailMessage) -> None:
    """A port that listens and whose program hangs."""
    with socket.create_server((HOST, 0)) as hanging, pytest.raises(MailError, match="timed out"):
        mailer(urlsplit(f"smtp://{HOST}:{hanging.getsockname()[1]}")).send(mail, DEAN)


def test_a_host_without_an_address_is_a_failed_server(mail: EmailMessage) -> None:
    """A name that cannot exist (RFC 6761)."""
    with pytest.raises(MailError):
        mailer(urlsplit("smtp://mail.invalid:25")).send(mail, DEAN)


# encryption and passwords


def test_starttls_is_used_and_the_password_accepted(
    encrypting: SmtpServer, authority: CertificateAuthority, mail: EmailMessage
) -> None:
    """`smtp://user:password@` goes over to TLS before it says either."""
    mailer(encrypting.url, authority.trusted()).send(mail, DEAN)
    assert len(encrypting.deliveries) == 1
    assert encrypting.was_encrypted == [True]


def test_smtps_is_encrypted_from_the_start(authority: CertificateAuthority, mail: EmailMessage) -> None:
    """`smtps://` never speaks in the clear."""
    server = SmtpServer(authority.server(), is_wrapped=True)
    mailer(server.url, authority.trusted()).send(mail, DEAN)
    server.close()
    assert len(server.deliveries) == 1
    assert server.was_encrypted == [True]


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_a_certificate_of_an_unknown_authority_is_refused(
    authority: CertificateAuthority, mail: EmailMessage, is_wrapped: bool
) -> None:
    """By default only the system's authorities count: a self-made certificate may be anybody's."""
    server = SmtpServer(authority.server(), is_wrapped=is_wrapped)
    with pytest.raises(MailError, match="SSLCertVerificationError"):
        mailer(server.url).send(mail, DEAN)
    server.close()
    assert server.deliveries == []


def test_a_certificate_for_another_host_is_refused(authority: CertificateAuthority, mail: EmailMessage) -> None:
    """A trusted authority is not enough: the name must be the server's."""
    server = SmtpServer(authority.server("192.0.2.1"))
    with pytest.raises(MailError, match="SSLCertVerificationError"):
        mailer(server.url, authority.trusted()).send(mail, DEAN)
    server.close()
    assert server.deliveries == []


@pytest.mark.parametrize("login", [Login("invigil", "wrong"), None])
def test_a_server_that_wants_a_login_takes_nothing_without_it(
    encrypting: SmtpServer, authority: CertificateAuthority, mail: EmailMessage, login: Login | None
) -> None:
    """A wrong password, or none, ends as an error that shows no password."""
    with pytest.raises(MailError) as failure:
        mailer(encrypting.url_for(login), authority.trusted()).send(mail, DEAN)
    assert encrypting.deliveries == []
    assert "wrong" not in str(failure.value)


def test_a_password_is_never_sent_in_the_clear(smtp: SmtpServer, mail: EmailMessage) -> None:
    """A server without STARTTLS gets neither password nor mail."""
    with pytest.raises(MailError, match="no STARTTLS"):
        mailer(smtp.url_for(LOGIN)).send(mail, DEAN)
    assert (smtp.commands, smtp.deliveries) == ([], [])


def test_a_password_may_hold_any_printable_character(authority: CertificateAuthority, mail: EmailMessage) -> None:
    """Percent-encoded in the URL, as RFC 3986 has it."""
    server = SmtpServer(authority.server(), Login("post@example.org", "p:a/s@s w%"))
    mailer(server.url_for(Login("post%40example.org", "p%3Aa%2Fs%40s%20w%25")), authority.trusted()).send(mail, DEAN)
    server.close()
    assert len(server.deliveries) == 1


def test_a_password_that_smtp_cannot_carry_is_an_error_without_it(
    encrypting: SmtpServer, authority: CertificateAuthority, mail: EmailMessage
) -> None:
    """Letters beyond ASCII end in an error that says so."""
    with pytest.raises(MailError, match="ASCII") as failure:
        mailer(encrypting.url_for(Login("invigil", "gehe%C3%ADm")), authority.trusted()).send(mail, DEAN)
    assert "gehe" not in str(failure.value)


# Maildir


def maildir(path: Path) -> MaildirMailer:
    opened = open_mailer(urlsplit(f"maildir://{path}"))
    assert isinstance(opened, MaildirMailer)
    return opened


def files(path: Path) -> list[str]:
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


def test_a_maildir_gets_the_mail_as_a_file_named_after_its_message_id(tmp_path: Path, mail: EmailMessage) -> None:
    """One file in new/, nothing left in tmp/, readable back as the mail."""
    maildir(tmp_path / "mail").send(mail, DEAN)
    assert files(tmp_path / "mail") == [f"new/{MESSAGE_ID}"]
    assert (tmp_path / "mail" / "new" / MESSAGE_ID).read_bytes() == mail.as_bytes()


def test_only_the_owner_can_read_a_maildir(tmp_path: Path, mail: EmailMessage) -> None:
    """Names and outcomes are nobody else's business: folders 0700, mails 0600."""
    path = tmp_path / "mail"
    maildir(path).send(mail, DEAN)
    modes = {str(each.relative_to(path)): each.stat().st_mode & 0o777 for each in (path, *path.rglob("*"))}
    assert modes == {".": 0o700, "cur": 0o700, "new": 0o700, "tmp": 0o700, f"new/{MESSAGE_ID}": 0o600}


def test_a_mail_handed_over_again_is_one_mail(tmp_path: Path, mail: EmailMessage) -> None:
    """Again after a crash, or for the next recipient: the file is there already and stays as it is."""
    for recipient in (DEAN, DEAN, Address(addr_spec="office@example.org")):
        maildir(tmp_path).send(mail, recipient)
    assert files(tmp_path) == [f"new/{MESSAGE_ID}"]


def test_a_mail_that_a_reader_has_moved_is_not_delivered_again(tmp_path: Path, mail: EmailMessage) -> None:
    """Mail readers move what they have seen to cur/ and add flags to its name."""
    maildir(tmp_path).send(mail, DEAN)
    os.rename(tmp_path / "new" / MESSAGE_ID, tmp_path / "cur" / f"{MESSAGE_ID}:2,S")
    maildir(tmp_path).send(mail, DEAN)
    assert files(tmp_path) == [f"cur/{MESSAGE_ID}:2,S"]


def test_what_a_crash_left_in_tmp_is_in_nobodys_way(tmp_path: Path, mail: EmailMessage) -> None:
    """A draft of a process that died is not taken for the mail."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / f"{MESSAGE_ID}.0123456789abcdef").write_bytes(b"From: inv")
    maildir(tmp_path).send(mail, DEAN)
    assert (tmp_path / "new" / MESSAGE_ID).read_bytes() == mail.as_bytes()


def test_a_maildir_that_cannot_be_written_is_a_failed_server(tmp_path: Path, mail: EmailMessage) -> None:
    """A file in the way is named by the system's reason."""
    (tmp_path / "mail").write_bytes(b"")
    with pytest.raises(MailError, match="cannot be written"):
        maildir(tmp_path / "mail").send(mail, DEAN)
