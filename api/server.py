"""How uvicorn serves the API inside gunicorn's processes."""

import asyncio
import fcntl
import resource
import socket
import sys
import termios
from typing import Any, ClassVar

import structlog
from gunicorn.arbiter import Arbiter
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import Server
from uvicorn_worker import UvicornWorker

from api.address import CONNECTIONS
from api.middleware import IS_CROWDED, STOP_WAITING

OTHER_FILES = 500  # beside connections: of the store, to Redis, the log

_log = structlog.get_logger(__name__)


class ApiProtocol(HttpToolsProtocol):
    """One connection. A request over the limit of connections is answered as a problem, as any other; a client that
    reads nothing of an answer for a while is hung up on, as it would hold memory and a file for as long as it likes.
    """

    read_within_s = 30.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._most_connections, self.limit_concurrency = self.limit_concurrency, None
        self._next_look: asyncio.TimerHandle | None = None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        most = self._most_connections
        self.scope["state"][IS_CROWDED] = most is not None and len(self.connections) > most

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look(None)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._look_no_more()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._look_no_more()

    def _look(self, unread_before: int | None) -> None:
        unread = self._unread()
        if unread == unread_before:
            self.transport.abort()
        else:
            self._next_look = self.loop.call_later(self.read_within_s, self._look, unread)

    def _unread(self) -> int:
        """Bytes, with the megabytes that the kernel holds: it asks for more only when a good part of them is gone."""
        queued = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        return self.transport.get_write_buffer_size() + int.from_bytes(queued, sys.byteorder)

    def _look_no_more(self) -> None:
        if self._next_look is not None:
            self._next_look.cancel()


class ApiServer(Server):
    """Does not wait for requests that only wait themselves."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.lifespan.state[STOP_WAITING]()
        await super().shutdown(sockets)


class ApiWorker(UvicornWorker):  # type: ignore[misc]  # uvicorn-worker has no types
    """uvloop and httptools, both in C. X-Forwarded headers are left alone: nothing here asks where a call came from."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "http": ApiProtocol,
        "lifespan": "on",
        "proxy_headers": False,
        "server_header": False,
    }

    async def _serve(self) -> None:
        self.config.app = self.wsgi
        self.config.limit_concurrency = connections_allowed()
        server = ApiServer(config=self.config)
        self._install_sigquit_handler()
        await server.serve(sockets=self.sockets)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)


def connections_allowed() -> int:
    """CONNECTIONS, or as many as this process may have files open for; it raises its own limit as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + OTHER_FILES
    files = max(soft, wanted if hard == resource.RLIM_INFINITY else min(wanted, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    allowed = min(CONNECTIONS, max(1, files - OTHER_FILES))
    if allowed < CONNECTIONS:
        _log.warning("few_files_allowed", files=files, connections=allowed)
    return allowed
