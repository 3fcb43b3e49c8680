"""The network of the cluster's tests: connections with delays and losses, and without any packet."""

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
    """A program `tc` that pretends to have netem. The file contains its arguments, a line for each call."""
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
    """Run a server that echoes, on a machine."""
    command = [*server.prefix, sys.executable, "-c", LISTEN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()


def ask(network: Network, name: str, server: Machine, timeout_s: float = 20.0) -> tuple[str, float]:
    """Return the answer that a machine gets from the server, and its duration in seconds."""
    began = time.monotonic()
    command = [*network[name].prefix, sys.executable, "-c", ASK, server.address, str(timeout_s)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip(), time.monotonic() - began


def test_connections_have_the_set_delays_and_losses_and_fail_without_packets() -> None:
    with network("server", "client") as net, listening(net["server"]):
        server = net["server"]
        assert ask(net, "client", server)[0] == ask(net, HERE, server)[0] == "hello"
        net.shape("client", delay_ms=100, loss=0.05)
        answer, seconds = ask(net, "client", server)
        assert answer == "hello"
        assert seconds > 0.4, "a connection and an answer are two rounds of 200 ms"
        net.shape("client", loss=1)
        assert ask(net, "client", server, timeout_s=1)[0] == ""
        assert ask(net, HERE, server)[0] == "hello"
        net.shape("client")
        assert ask(net, "client", server)[0] == "hello"


def test_netem_is_used_at_both_ends_of_a_link_if_the_kernel_has_it(netem: Path) -> None:
    with network("server", "client") as net, listening(net["server"]):
        assert netem.read_text() == "qdisc add dev lo root netem delay 1ms\n", "netem is tried once"
        assert ask(net, "client", net["server"])[0] == ask(net, HERE, net["server"])[0] == "hello"
        net.shape("client", delay_ms=2, loss=0.005)
        device = f"tw{'-'.join(net['client'].address.split('.')[1:3])}"
        assert netem.read_text().splitlines()[1:] == [
            f"qdisc replace dev {each} root netem delay 2ms loss 0.5% limit 100000" for each in ("port2", device)
        ]


def test_a_network_leaves_no_device_and_no_process() -> None:
    def devices() -> str:
        return subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True).stdout

    with network("one") as net:
        device = f"tw{'-'.join(net['one'].address.split('.')[1:3])}"
        assert device in devices()
        pid = net["one"].pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    deadline = time.monotonic() + 60
    while device in devices():  # the kernel removes a namespace after its last process has ended
        assert time.monotonic() < deadline, devices()
        time.sleep(0.05)
