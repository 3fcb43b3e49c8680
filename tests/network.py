"""Simulated machines of a network: network namespaces, connected by links with latency and loss.

netem of tc shapes the links if the kernel has it, tests/network_switch.py if not. The kernel removes namespaces and
devices when the processes that hold them end; these end with the test process.
"""

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pytest


@dataclass(frozen=True, slots=True)
class Machine:
    """A network namespace with its own address and host name. It has the files of this machine."""

    name: str
    pid: int
    """A process in the namespace."""
    address: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """The words before a command that runs on the machine."""
        return ("nsenter", f"--net=/proc/{self.pid}/ns/net", f"--uts=/proc/{self.pid}/ns/uts", "--")


class _Links(Protocol):
    def shape(self, number: int, delay_ms: float, loss: float) -> None: ...

    def close(self) -> None: ...


class Network:
    """Machines in one subnet, each with its link."""

    def __init__(self, machines: Sequence[Machine], links: _Links) -> None:
        self._numbers = {machine.name: number for number, machine in enumerate(machines)}
        self._machines = {machine.name: machine for machine in machines}
        self._links = links

    def __getitem__(self, name: str) -> Machine:
        return self._machines[name]

    def shape(self, name: str, *, delay_ms: float = 0.0, loss: float = 0.0) -> None:
        """Delay all frames that a machine sends and receives, and lose a share of them; 1 disconnects the machine."""
        self._links.shape(self._numbers[name], delay_ms, loss)


HERE = "here"
"""Name of the machine that stands for the network of the test process."""


@contextlib.contextmanager
def network(*names: str) -> Iterator[Network]:
    """Yield machines with these names, and `HERE`. Skips the test if no network can be made."""
    _require_namespaces()
    subnet = _free_subnet()
    with contextlib.ExitStack() as held:
        pids = [os.getpid(), *(held.enter_context(_namespace(name)) for name in names)]
        machines = [
            Machine(name, pid, f"{subnet}.{number}")
            for number, (name, pid) in enumerate(zip((HERE, *names), pids, strict=True), 1)
        ]
        links = _Netem(held.enter_context(_namespace("bridge")), machines) if has_netem() else _Switched(machines)
        held.callback(links.close)
        yield Network(machines, links)


def _require_namespaces() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make network namespaces")
    if missing := [program for program in ("hostname", "ip", "nsenter", "unshare") if shutil.which(program) is None]:
        pytest.skip(f"needs the programs {', '.join(missing)}")
    device = ["true"] if has_netem() else ["ip", "tuntap", "add", "probe", "mode", "tap"]
    done = subprocess.run(["unshare", "--net", "--uts", *device], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a network namespace cannot be made here: {done.stderr.strip()}")


@functools.cache
def has_netem() -> bool:
    """Whether the kernel can shape links."""
    command = ["unshare", "--net", "tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]
    return shutil.which("tc") is not None and subprocess.run(command, capture_output=True).returncode == 0


@contextlib.contextmanager
def _namespace(name: str) -> Iterator[int]:
    """Yield the id of a process in a new network namespace with this host name; it ends with this process."""
    script = 'hostname "$0" && ip link set lo up && echo ready && exec cat'
    command = ["unshare", "--net", "--uts", "sh", "-c", script, name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield process.pid  # the end of `with` closes its input


def _free_subnet() -> str:
    """Return the first three numbers of a free subnet, one of those that RFC 2544 reserves for tests."""
    known = subprocess.run(["ip", "-4", "-brief", "address"], capture_output=True, text=True, check=True).stdout
    numbers = ((os.getpid() + each) % 512 for each in range(512))
    subnets = (f"198.{18 + number // 256}.{number % 256}" for number in numbers)
    return next(subnet for subnet in subnets if f"{subnet}." not in known)


def _device(address: str) -> str:
    """Return the name of a machine's device, which differs between subnets."""
    return "tw" + "-".join(address.split(".")[1:3])


class _Switched:
    """Links of a switch in user space."""

    def __init__(self, machines: Sequence[Machine]) -> None:
        described = [[machine.pid, _device(machine.address), f"{machine.address}/24"] for machine in machines]
        self._switch = subprocess.Popen(
            [sys.executable, "-m", "tests.network_switch", json.dumps(described)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._require_answer("ready\n")

    def _require_answer(self, expected: str) -> None:
        assert self._switch.stdout
        assert self._switch.stdout.readline() == expected, "the switch of the test network has ended"

    def shape(self, number: int, delay_ms: float, loss: float) -> None:
        assert self._switch.stdin
        self._switch.stdin.write(f"{json.dumps([number, delay_ms / 1000, loss])}\n")
        self._switch.stdin.flush()
        self._require_answer("done\n")

    def close(self) -> None:
        with self._switch:
            pass  # closes its input, and waits for its end


class _Netem:
    """Links of the kernel: a pair of devices for each machine, bridged in a namespace, shaped by netem on both ends."""

    def __init__(self, bridge: int, machines: Sequence[Machine]) -> None:
        self._bridge, self._machines = bridge, machines
        self._run(bridge, "ip", "link", "add", "bridge", "up", "type", "bridge")
        for number, machine in enumerate(machines):
            device = _device(machine.address)
            peer = ("peer", "name", device, "netns", str(machine.pid))
            self._run(bridge, "ip", "link", "add", f"port{number}", "type", "veth", *peer)
            self._run(bridge, "ip", "link", "set", f"port{number}", "master", "bridge", "up")
            self._run(machine.pid, "ip", "address", "add", f"{machine.address}/24", "dev", device)
            self._run(machine.pid, "ip", "link", "set", device, "up")

    @staticmethod
    def _run(pid: int, *command: str) -> None:
        subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", "--", *command], check=True)

    def shape(self, number: int, delay_ms: float, loss: float) -> None:
        shaping = ("root", "netem", "delay", f"{delay_ms:g}ms", "loss", f"{100 * loss:g}%", "limit", "100000")
        machine = self._machines[number]
        for pid, device in ((self._bridge, f"port{number}"), (machine.pid, _device(machine.address))):
            self._run(pid, "tc", "qdisc", "replace", "dev", device, *shaping)

    def close(self) -> None:
        """Do nothing: the kernel removes the devices with the namespace of the bridge."""
