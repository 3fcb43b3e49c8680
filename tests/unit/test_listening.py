"""The daemon's listening sockets."""

import contextlib
import socket
from pathlib import Path

import pytest

from daemon.config.listening import listen

CLIENTS = 300
SOMAXCONN = Path("/proc/sys/net/core/somaxconn")


@pytest.mark.skipif(
    not SOMAXCONN.exists() or int(SOMAXCONN.read_text()) <= CLIENTS,
    reason=f"the kernel lets fewer than {CLIENTS} connections wait",
)
def test_clients_of_a_busy_daemon_are_connected_before_it_accepts_them() -> None:
    with contextlib.ExitStack() as opened:
        (listener,) = listen(socket.getaddrinfo("127.0.0.1", 0, type=socket.SOCK_STREAM))
        opened.enter_context(listener)
        for _ in range(CLIENTS):
            # If too many wait, the kernel drops the request for a connection, and repeats it after a second.
            opened.enter_context(socket.create_connection(listener.getsockname(), timeout=0.9))
