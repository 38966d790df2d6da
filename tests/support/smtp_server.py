"""A real SMTP server on a port of its own that can be told to fail."""

import asyncio
import socket
import ssl
from collections import defaultdict, deque
from collections.abc import Awaitable
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from enum import Enum
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

HOST = "127.0.0.1"


class Fault(Enum):
    """What a server does in place of an answer."""

    CUT = "closes the connection"
    CUT_AMIDST = "closes the connection after the first line of the mail"
    KEEP_AND_CUT = "keeps the mail and closes the connection without saying so"
    KEEP_AND_WAIT = "keeps the mail and never says so"
    SILENCE = "never answers"

    @property
    def keeps(self) -> bool:
        return self in (Fault.KEEP_AND_CUT, Fault.KEEP_AND_WAIT)

    @property
    def cuts(self) -> bool:
        return self in (Fault.CUT, Fault.CUT_AMIDST, Fault.KEEP_AND_CUT)


class Delivery(NamedTuple):
    """A mail that the server has taken, and for whom."""

    recipient: str
    content: bytes

    @property
    def message(self) -> EmailMessage:
        parsed = message_from_bytes(self.content, policy=SMTP_POLICY)
        assert isinstance(parsed, EmailMessage)
        return parsed


class Login(NamedTuple):
    """What a client must say to be let in."""

    user: str
    password: str


class SmtpServer:
    """Takes every mail, unless told otherwise with `fail` or `refuse`.

    With `tls` it offers STARTTLS, or speaks TLS from the start where `is_wrapped`; with `login` it wants that, after
    STARTTLS.
    """

    def __init__(self, tls: ssl.SSLContext | None = None, login: Login | None = None, is_wrapped: bool = False) -> None:
        self.deliveries: list[Delivery] = []
        self.commands: list[str] = []
        self.was_encrypted: list[bool] = []
        self._faults: defaultdict[str, deque[str | Fault]] = defaultdict(deque)
        self._refused: dict[str, str] = {}
        self._login = login
        self._controller = _OwnPort(self, tls, login, is_wrapped)
        self._controller.start()
        self.scheme = "smtps" if is_wrapped else "smtp"
        self.url = self.url_for(login)

    def url_for(self, login: Login | None) -> SplitResult:
        user = f"{login.user}:{login.password}@" if login else ""
        return urlsplit(f"{self.scheme}://{user}{HOST}:{self._controller.port}")

    def fail(self, command: str, *answers: str | Fault) -> None:
        """The next times it gets MAIL, RCPT, DATA or QUIT it gives these answers, one after the other."""
        self._faults[command].extend(answers)

    def refuse(self, recipient: str, answer: str) -> None:
        """No mail for this recipient until `accept`."""
        self._refused[recipient] = answer

    def accept(self, recipient: str) -> None:
        del self._refused[recipient]

    def close(self) -> None:
        self._controller.stop()

    # aiosmtpd calls these in the server's thread

    async def handle_MAIL(  # noqa: N802 - the name that aiosmtpd looks for
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.was_encrypted.append(_transport(server).get_extra_info("sslcontext") is not None)
        answer = await self._answer("MAIL", server)
        if answer.startswith("250"):
            envelope.mail_from = address
        return answer

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        answer = self._refused.get(address) or await self._answer("RCPT", server)
        if answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        fault = self._take("DATA")
        assert isinstance(envelope.content, bytes)
        if fault is None or (isinstance(fault, Fault) and fault.keeps):
            self.deliveries += [Delivery(recipient, envelope.content) for recipient in envelope.rcpt_tos]
        return await _act(fault, server)

    async def handle_QUIT(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        answer = await self._answer("QUIT", server)
        return "221 Bye" if answer.startswith("250") else answer

    def authenticate(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _how: str, data: object
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        given = Login(data.login.decode(), data.password.decode())
        return AuthResult(success=given == self._login, handled=False)

    def cuts_amidst(self) -> bool:
        """Whether the mail now beginning is to be cut off; that fault is over then."""
        faults = self._faults["DATA"]
        if faults and faults[0] is Fault.CUT_AMIDST:
            faults.popleft()
            return True
        return False

    async def _answer(self, command: str, server: SMTP) -> str:
        return await _act(self._take(command), server)

    def _take(self, command: str) -> str | Fault | None:
        self.commands.append(command)
        faults = self._faults[command]
        return faults.popleft() if faults else None


class _OwnPort(Controller):
    """aiosmtpd's server thread, on a port that the system chooses."""

    def __init__(self, handler: SmtpServer, tls: ssl.SSLContext | None, login: Login | None, is_wrapped: bool) -> None:
        # With the protocol named, asyncio turns Nagle's algorithm off: 40 ms a mail.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.bind((HOST, 0))
        options: dict[str, Any] = {"tls_context": None if is_wrapped else tls}
        if login:
            options |= {
                "auth_required": True,
                "authenticator": handler.authenticate,
                "require_starttls": not is_wrapped,
            }
            options |= {"auth_require_tls": not is_wrapped}
        port = self._socket.getsockname()[1]
        super().__init__(
            handler, HOST, port, ssl_context=tls if is_wrapped else None, server_hostname="mail.test", **options
        )

    def factory(self) -> SMTP:
        return _CuttableSmtp(self.handler, **self.SMTP_kwargs)

    def _create_server(self) -> Awaitable[asyncio.AbstractServer]:
        return self.loop.create_server(self._factory_invoker, sock=self._socket, ssl=self.ssl_context)


class _CuttableSmtp(SMTP):
    """aiosmtpd's protocol; it can cut a connection amidst a mail."""

    async def smtp_DATA(self, arg: str) -> None:  # noqa: N802
        if not self.event_handler.cuts_amidst():
            await super().smtp_DATA(arg)
            return
        await self.push("354 Go on")
        await self._reader.readuntil(b"\r\n")
        await _act(Fault.CUT, self)


async def _act(fault: str | Fault | None, server: SMTP) -> str:
    if fault is None:
        return "250 OK"
    if isinstance(fault, str):
        return fault
    if fault.cuts:
        _transport(server).abort()
    await asyncio.Event().wait()  # until the connection is lost, which cancels this
    raise AssertionError


def _transport(server: SMTP) -> asyncio.Transport:
    assert isinstance(server.transport, asyncio.Transport)
    return server.transport
