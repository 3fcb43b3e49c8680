"""Machines of a network on this one: network namespaces, joined by links with latency and loss.

tc's netem shapes the links where the kernel has it; elsewhere tests/network_switch.py does. Namespaces and devices
vanish with the processes that hold them, and these end with the test process.
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
    """A network namespace: a machine with an address and a host name of its own, and the files of this one."""

    name: str
    pid: int
    """A process in the namespace."""
    address: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """The words before a program that runs on the machine."""
        return ("nsenter", f"--net=/proc/{self.pid}/ns/net", f"--uts=/proc/{self.pid}/ns/uts", "--")


class _Links(Protocol):
    def shape(self, number: int, late_ms: float, lost: float) -> None: ...

    def close(self) -> None: ...


class Network:
    """Machines in one subnet, and the link of each."""

    def __init__(self, machines: Sequence[Machine], links: _Links) -> None:
        self._numbers = {machine.name: number for number, machine in enumerate(machines)}
        self._machines = {machine.name: machine for machine in machines}
        self._links = links

    def __getitem__(self, name: str) -> Machine:
        return self._machines[name]

    def shape(self, name: str, *, late_ms: float = 0.0, lost: float = 0.0) -> None:
        """Make what a machine sends and receives late, and lose a share of it. A share of 1 cuts the machine off."""
        self._links.shape(self._numbers[name], late_ms, lost)


HERE = "here"
"""Name of the machine that is the test process's own network."""


@contextlib.contextmanager
def network(*names: str) -> Iterator[Network]:
    """Yield machines with these names, and `HERE`. Skips the test where no network can be made."""
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
    """Yield a process in a network namespace of its own, on a host of this name; it ends with this process."""
    script = 'hostname "$0" && ip link set lo up && echo ready && exec cat'
    command = ["unshare", "--net", "--uts", "sh", "-c", script, name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield process.pid  # the end of `with` closes its input


def _free_subnet() -> str:
    """Return the first three numbers of a subnet that no other test uses, of those set aside for tests (RFC 2544)."""
    known = subprocess.run(["ip", "-4", "-brief", "address"], capture_output=True, text=True, check=True).stdout
    numbers = ((os.getpid() + each) % 512 for each in range(512))
    subnets = (f"198.{18 + number // 256}.{number % 256}" for number in numbers)
    return next(subnet for subnet in subnets if f"{subnet}." not in known)


def _device(address: str) -> str:
    """Return the name of a machine's device, another one for each subnet."""
    return "tw" + "-".join(address.split(".")[1:3])


class _Switched:
    """Links of a switch in user space."""

    def __init__(self, machines: Sequence[Machine]) -> None:
        told = [[machine.pid, _device(machine.address), f"{machine.address}/24"] for machine in machines]
        self._switch = subprocess.Popen(
            [sys.executable, "-m", "tests.network_switch", json.dumps(told)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answered("ready\n")

    def _answered(self, expected: str) -> None:
        assert self._switch.stdout
        assert self._switch.stdout.readline() == expected, "the switch of the test network has ended"

    def shape(self, number: int, late_ms: float, lost: float) -> None:
        assert self._switch.stdin
        self._switch.stdin.write(f"{json.dumps([number, late_ms / 1000, lost])}\n")
        self._switch.stdin.flush()
        self._answered("done\n")

    def close(self) -> None:
        with self._switch:
            pass  # closes its input, and waits for its end


class _Netem:
    """Links of the kernel: a pair of devices for each machine, bridged in a namespace, shaped by netem on both ends."""

    def __init__(self, fabric: int, machines: Sequence[Machine]) -> None:
        self._fabric, self._machines = fabric, machines
        self._run(fabric, "ip", "link", "add", "bridge", "up", "type", "bridge")
        for number, machine in enumerate(machines):
            device = _device(machine.address)
            peer = ("peer", "name", device, "netns", str(machine.pid))
            self._run(fabric, "ip", "link", "add", f"port{number}", "type", "veth", *peer)
            self._run(fabric, "ip", "link", "set", f"port{number}", "master", "bridge", "up")
            self._run(machine.pid, "ip", "address", "add", f"{machine.address}/24", "dev", device)
            self._run(machine.pid, "ip", "link", "set", device, "up")

    @staticmethod
    def _run(pid: int, *command: str) -> None:
        subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", "--", *command], check=True)

    def shape(self, number: int, late_ms: float, lost: float) -> None:
        how = ("root", "netem", "delay", f"{late_ms:g}ms", "loss", f"{100 * lost:g}%", "limit", "100000")
        machine = self._machines[number]
        for pid, device in ((self._fabric, f"port{number}"), (machine.pid, _device(machine.address))):
            self._run(pid, "tc", "qdisc", "replace", "dev", device, *how)

    def close(self) -> None:
        """Nothing: the devices vanish with the namespace of the bridge."""
