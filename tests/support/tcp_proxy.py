"""Stands between a client and a real Redis, and hurts the connection on demand."""

import contextlib
import socket
import threading
from pathlib import Path

CHUNK = 65_536
END_WITHIN_S = 5.0


class TcpProxy:
    """Listens on a port of 127.0.0.1 that was free, and passes everything on to Redis's unix socket."""

    def __init__(self, upstream: Path) -> None:
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._connections: set[_Connection] = set()
        self._is_refusing = False
        self._marker: bytes | None = None
        self._lost = threading.Event()
        self._refuses_after_loss = False
        self.flowing = threading.Event()
        self.flowing.set()
        self._acceptor = threading.Thread(target=self._accept, name="proxy")
        self._acceptor.start()

    def __enter__(self) -> "TcpProxy":
        return self

    def __exit__(self, *_error: object) -> None:
        self.refuse()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(END_WITHIN_S)
        self.resume()
        self.cut()

    def cut(self) -> None:
        """Ends all connections, whatever they are about."""
        with self._lock:
            connections, self._connections = self._connections, set()
        for connection in connections:
            connection.close()

    def refuse(self) -> None:
        """New connections end at once."""
        with self._lock:
            self._is_refusing = True

    def admit(self) -> None:
        with self._lock:
            self._is_refusing = False

    def stall(self) -> None:
        """Connections stay, and nothing comes through."""
        self.flowing.clear()

    def resume(self) -> None:
        self.flowing.set()

    def lose_reply(self, marker: bytes, *, then_refuse: bool = False) -> threading.Event:
        """Redis gets the next command that contains `marker` and carries it out; instead of its reply the client sees
        the connection end. The event is set then. `then_refuse`: from that moment on, as `refuse` does.
        """
        with self._lock:
            self._marker = marker
            self._refuses_after_loss = then_refuse
            self._lost = threading.Event()
            return self._lost

    def takes_marked(self, data: bytes) -> bool:
        """Whether this holds the command whose reply is to be lost; there is one at most."""
        with self._lock:
            if self._marker is None or self._marker not in data:
                return False
            self._marker = None
            return True

    def has_lost(self) -> None:
        with self._lock:
            self._is_refusing = self._is_refusing or self._refuses_after_loss
        self.cut()
        self._lost.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(str(self._upstream))
        except OSError:  # Redis is gone
            client.close()
            server.close()
            return
        connection = _Connection(self, client, server)
        with self._lock:
            if not self._is_refusing:
                connection.start()
                self._connections.add(connection)
                return
        client.close()
        server.close()


class _Connection:
    def __init__(self, proxy: TcpProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._is_reply_lost = False
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._pass_commands, name="commands"),
            threading.Thread(target=self._pass_replies, name="replies"),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._end()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(END_WITHIN_S)
        self._client.close()
        self._server.close()

    def _pass_commands(self) -> None:
        while data := self._received(self._client):
            if self._proxy.takes_marked(data):
                self._is_reply_lost = True
            self._send(self._server, data)
        self._end()

    def _pass_replies(self) -> None:
        while data := self._received(self._server):
            if self._is_reply_lost:
                self._proxy.has_lost()
                return
            self._send(self._client, data)
        self._end()

    def _received(self, source: socket.socket) -> bytes:
        """Empty at the end."""
        try:
            data = source.recv(CHUNK)
        except OSError:
            return b""
        while not self._proxy.flowing.wait(0.1):
            if self._is_over.is_set():
                return b""
        return data

    def _send(self, target: socket.socket, data: bytes) -> None:
        with contextlib.suppress(OSError):  # the other end is gone; the next read says so
            target.sendall(data)

    def _end(self) -> None:
        self._is_over.set()
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
