"""Messages to systemd."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.system import sd_notify
from daemon.system.sd_notify import SystemdNotifier, watchdog_interval_s


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Stand-in for the socket of systemd."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listening


def test_every_state_is_sent_to_systemd(systemd: socket.socket) -> None:
    notifier = SystemdNotifier()

    def received() -> str:
        return systemd.recv(4096).decode()

    notifier.ready()
    assert received() == "READY=1"
    notifier.status("3 running,\n  tile 5 µm … done")
    assert received() == "STATUS=3 running, tile 5 µm … done"
    notifier.status("probe_\udce4")
    assert received() == "STATUS=probe_\\xe4"
    notifier.reloading()
    assert received().startswith("RELOADING=1\nMONOTONIC_USEC=")
    notifier.watchdog()
    assert received() == "WATCHDOG=1"
    notifier.stopping()
    assert received() == "STOPPING=1"


def test_an_abstract_socket_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("")  # the kernel chooses an abstract name
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + listening.getsockname()[1:].decode())
        notifier = SystemdNotifier()
        notifier.ready()
        assert listening.recv(4096) == b"READY=1"


def test_without_systemd_no_socket_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setattr(sd_notify, "socket", None)
    notifier = SystemdNotifier()
    notifier.ready()


def test_a_message_to_a_closed_socket_is_dropped_without_an_exception(systemd: socket.socket) -> None:
    notifier = SystemdNotifier()
    systemd.close()
    notifier.watchdog()


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "120000000"}, 120.0),
        ({"WATCHDOG_USEC": "120000000", "WATCHDOG_PID": str(os.getpid())}, 120.0),
        ({"WATCHDOG_USEC": "120000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_interval_is_read_if_it_is_for_this_process(
    environ: dict[str, str], seconds: float | None
) -> None:
    assert watchdog_interval_s(environ) == seconds
