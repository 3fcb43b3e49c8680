"""The network of the cluster's tests: machines reach each other, late and with losses, until they are cut off."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import network as tests_network
from tests.network import HERE, Machine, Network, network

LISTEN = """
import socket
server = socket.create_server(("", 7000))
print("ready", flush=True)
while True:
    connection, _ = server.accept()
    connection.sendall(connection.recv(100))
    connection.close()
"""
ASK = """
import socket, sys
with socket.create_connection((sys.argv[1], 7000), timeout=float(sys.argv[2])) as connection:
    connection.sendall(b"hello")
    print(connection.recv(100).decode())
"""


FAKE_TC = """#!/bin/sh
echo "$@" >> {log}
"""


@pytest.fixture
def netem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A kernel with netem, as far as `tc` says, whose commands are the lines of this file."""
    log, program = tmp_path / "tc.log", tmp_path / "bin" / "tc"
    program.parent.mkdir()
    program.write_text(FAKE_TC.format(log=log))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    tests_network.has_netem.cache_clear()
    yield log
    tests_network.has_netem.cache_clear()


@contextlib.contextmanager
def listening(server: Machine) -> Iterator[None]:
    """Answer on a machine."""
    command = [*server.prefix, sys.executable, "-c", LISTEN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()


def asked(network: Network, name: str, server: Machine, timeout_s: float = 20.0) -> tuple[str, float]:
    """Return what a machine hears of the server, and how long that took."""
    began = time.monotonic()
    command = [*network[name].prefix, sys.executable, "-c", ASK, server.address, str(timeout_s)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip(), time.monotonic() - began


def test_machines_reach_each_other_late_and_with_losses_until_they_are_cut_off() -> None:
    with network("server", "client") as net, listening(net["server"]):
        server = net["server"]
        assert asked(net, "client", server)[0] == asked(net, HERE, server)[0] == "hello"
        net.shape("client", delay_ms=100, loss=0.05)
        heard, seconds = asked(net, "client", server)
        assert heard == "hello"
        assert seconds > 0.4, "a connection and an answer are two rounds of 200 ms"
        net.shape("client", loss=1)
        assert asked(net, "client", server, timeout_s=1)[0] == ""
        assert asked(net, HERE, server)[0] == "hello"
        net.shape("client")
        assert asked(net, "client", server)[0] == "hello"


def test_a_kernel_with_netem_shapes_both_ends_of_a_link(netem: Path) -> None:
    with network("server", "client") as net, listening(net["server"]):
        assert netem.read_text() == "qdisc add dev lo root netem delay 1ms\n", "that it has it was tried"
        assert asked(net, "client", net["server"])[0] == asked(net, HERE, net["server"])[0] == "hello"
        net.shape("client", delay_ms=2, loss=0.005)
        device = f"tw{'-'.join(net['client'].address.split('.')[1:3])}"
        assert netem.read_text().splitlines()[1:] == [
            f"qdisc replace dev {each} root netem delay 2ms loss 0.5% limit 100000" for each in ("port2", device)
        ]


def test_nothing_of_a_network_is_left() -> None:
    def devices() -> str:
        return subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True).stdout

    with network("one") as net:
        device = f"tw{'-'.join(net['one'].address.split('.')[1:3])}"
        assert device in devices()
        pid = net["one"].pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    deadline = time.monotonic() + 20
    while device in devices():  # the kernel takes a namespace apart after its last process
        assert time.monotonic() < deadline, devices()
        time.sleep(0.05)
