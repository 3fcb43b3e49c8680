"""A daemon with few file descriptors, and a client that opens many connections."""

import contextlib
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.acceptance.rig import Rig, fetch


@pytest.fixture
def tight_rig(rig: Rig) -> Rig:
    rig.prefix = ("prlimit", "--nofile=128")
    rig.start_standin()
    rig.start()
    return rig


@contextlib.contextmanager
def connections(url: str, count: int) -> Iterator[None]:
    """Open connections and send half a request on each."""
    address = urlsplit(url)
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            connection = stack.enter_context(socket.create_connection((address.hostname, address.port), timeout=10))
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
        yield


@pytest.mark.slow
def test_the_daemon_works_and_answers_during_a_flood_of_connections(tight_rig: Rig, write):
    lines = len(tight_rig.daemon.lines())
    with connections(tight_rig.url, 400):
        section = write(1050)
        assert fetch(f"{tight_rig.url}/healthz") == {"alive": True}
        tight_rig.wait_until("complete", section.metafile)
        assert tight_rig.ready()["reasons"] == []
    said = tight_rig.daemon.lines()[lines:]
    assert not [line for line in said if '"http.accept_failed"' in line or "unreachable" in line]
    assert len(said) < 100, "one line for each outcome"
