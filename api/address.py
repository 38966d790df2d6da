"""The address that the API listens on."""

import socket

from shared.errors import SettingsError

CONNECTIONS = 10_000  # a process; more are answered 503 at once, before they use up its file descriptors


def check_free(bind: str) -> None:
    """Raises SettingsError where `host:port` cannot be had, such as when another program listens there.

    The API's own sockets would not notice: they share their port with whoever else is willing to.
    """
    host, _, port = bind.rpartition(":")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError as error:
            raise SettingsError(f"INVIGIL_BIND: cannot listen on {bind}: {error.strerror}") from error
