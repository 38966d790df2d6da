"""Whole messages over a socket between a worker and one of its children."""

import socket
import struct
from collections.abc import Callable
from select import POLLIN, POLLOUT

JOB, REPLY, QUESTION, ANSWER, READY = b"J", b"R", b"?", b"!", b"+"
LONGEST = 80 * 2**20  # 64 MiB, and what is packed round them

_SENT_AT_ONCE = 2**16  # copying is quicker than a second call
_KINDS = {JOB, REPLY, QUESTION, ANSWER, READY}
_HEADER = struct.Struct("!cQ")


class ChannelClosed(Exception):
    """By the other side, which may have died."""


class NotAMessage(Exception):
    """The other side wrote something else."""


class Channel:
    """`wait` returns when the socket, which does not block, may be ready for POLLIN or POLLOUT, or raises."""

    def __init__(self, end: socket.socket, wait: Callable[[int], None]) -> None:
        self._socket = end
        self._wait = wait

    def send(self, kind: bytes, payload: bytes) -> None:
        if len(payload) > LONGEST:
            raise ValueError(f"a message of {len(payload)} bytes; {LONGEST} are the most")
        header = _HEADER.pack(kind, len(payload))
        if len(payload) <= _SENT_AT_ONCE:
            self._send(header + payload)
        else:
            self._send(header)
            self._send(payload)

    def receive(self) -> tuple[bytes, bytes]:
        """A kind and its payload."""
        kind, length = _HEADER.unpack(self._exactly(_HEADER.size))
        if kind not in _KINDS or length > LONGEST:
            raise NotAMessage("wrote what is no message")
        return kind, bytes(self._exactly(length))

    def _send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                self._wait(POLLOUT)
            except ConnectionError:
                raise ChannelClosed("closed its connection") from None

    def _exactly(self, length: int) -> bytearray:
        data = bytearray(length)
        rest = memoryview(data)
        while rest:
            try:
                count = self._socket.recv_into(rest)
            except BlockingIOError:
                self._wait(POLLIN)
                continue
            except ConnectionError:
                count = 0
            if count == 0:
                raise ChannelClosed("closed its connection")
            rest = rest[count:]
        return data
