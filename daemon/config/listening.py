"""Listen on the address of the HTTP server, and say why that is not possible."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from daemon.config.settings import HttpSettings
from daemon.config.writable import user_name
from handlers.errors import SettingsFault
from handlers.text import printable

BACKLOG = 1024
"""Connections that wait for the daemon to accept them; Linux limits them to net.core.somaxconn. If there are more, a
client is answered a second later, or later still, since its kernel repeats the request for a connection."""
_LISTENING = "0A"
"""State of a listening socket in /proc/net/tcp."""


class UnusablePort(SettingsFault):
    """This user cannot listen on the address or port. A restart does not help."""

    exit_code = 2


def listen(found: Iterable[tuple[Any, ...]]) -> list[socket.socket]:
    """Return a listening socket for each address of a result of `getaddrinfo`. Raises OSError if one cannot be used."""
    addresses = dict.fromkeys((family, address) for family, _, _, _, address in found)
    with contextlib.ExitStack() as opened:
        listeners = [
            opened.enter_context(socket.create_server(address, family=family, backlog=BACKLOG))
            for family, address in addresses
        ]
        opened.pop_all()
    return listeners


def port_fault(http: HttpSettings, error: OSError) -> SettingsFault:
    """Return the fault of an address on which the server cannot listen. A restart helps if the port becomes free."""
    tried = f"cannot listen on {http.host}:{http.port}"
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        why = error.strerror if isinstance(error, socket.gaierror) else "it is not an address of this machine"
        return UnusablePort("http.host", f"{tried}: {why}", "choose an address of this machine")
    if error.errno == errno.EADDRINUSE:
        problem = f"{tried}: another program uses the port{_who_listens(http.port)}"
        return SettingsFault("http.port", problem, "stop the other program, or choose another port")
    if error.errno == errno.EACCES:
        return UnusablePort("http.port", f"{tried}: user {user_name()} may not", "choose a port above 1023")
    return UnusablePort("http.port", f"{tried}: {os.strerror(error.errno or 0)}", "choose another address or port")


def _who_listens(port: int) -> str:
    """Return the process that listens on a port, as text; empty if the kernel does not name it to this user."""
    links = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if links and str(descriptor.readlink()) in links:
                name = (descriptor.parents[1] / "comm").read_text(errors="replace").strip()
                return f" (process {descriptor.parents[1].name}, {printable(name)})"
    return ""


def _listening_inodes(port: int) -> Iterator[str]:
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        with contextlib.suppress(OSError):
            for fields in map(str.split, table.read_text().splitlines()[1:]):
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]
