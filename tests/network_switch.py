"""`python -m tests.network_switch MACHINES`: a switch in user space that connects network namespaces by TAP devices.

Delay and loss of a frame are the sums of those of its sender's link and of its receiver's link. MACHINES is JSON: a
list of [process in the namespace, device, address with prefix length]. A line on standard input changes a link:
[number, seconds of delay, share lost]; the switch answers with a line. It ends at the end of its standard input, and
the devices with it.
"""

import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import struct
import subprocess
import sys
import time

MTU = 9000
_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TAP_NO_PI = 0x0002 | 0x1000
_libc = ctypes.CDLL(None, use_errno=True)


def _enter_network_of(pid: int) -> None:
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(namespace, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"the network of process {pid} cannot be entered")
    finally:
        os.close(namespace)


def open_device(pid: int, device: str, address: str) -> int:
    """Return the descriptor of a new TAP device with an address, in the network of a process."""
    _enter_network_of(pid)
    try:
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TAP_NO_PI))
        for words in (
            ("link", "set", "lo", "up"),
            ("address", "add", address, "dev", device),
            ("link", "set", device, "mtu", str(MTU), "up"),
        ):
            subprocess.run(["ip", *words], check=True)
    finally:
        _enter_network_of(os.getppid())
    return tap


class Switch:
    """Devices, their links, and the frames that are not delivered yet."""

    def __init__(self, devices: list[int]) -> None:
        self._devices = devices
        self._links = [(0.0, 0.0)] * len(devices)
        self._port_of: dict[bytes, int] = {}
        self._pending: list[tuple[float, int, int, bytes]] = []
        self._count = 0

    def run(self) -> None:
        while True:
            wait_s = max(0.0, self._pending[0][0] - time.monotonic()) if self._pending else None
            ready, _, _ = select.select([0, *self._devices], [], [], wait_s)
            if 0 in ready and not self._change_link(sys.stdin.readline()):
                return
            for port, device in enumerate(self._devices):
                if device in ready:
                    self._receive(port)
            self._deliver()

    def _change_link(self, line: str) -> bool:
        """Change a link as a line of standard input says. False: standard input has ended."""
        if line:
            port, delay_s, loss = json.loads(line)
            self._links[port] = (delay_s, loss)
            sys.stdout.write("done\n")
            sys.stdout.flush()
        return bool(line)

    def _receive(self, port: int) -> None:
        frame = os.read(self._devices[port], MTU + 64)
        self._port_of[frame[6:12]] = port
        to = self._port_of.get(frame[:6])
        for each in range(len(self._devices)) if to is None else [to]:
            if each == port:
                continue
            delay_s, loss = (sum(both) for both in zip(self._links[port], self._links[each], strict=True))
            if random.random() >= loss:
                self._count += 1
                heapq.heappush(self._pending, (time.monotonic() + delay_s, self._count, each, frame))

    def _deliver(self) -> None:
        now = time.monotonic()
        while self._pending and self._pending[0][0] <= now:
            *_, port, frame = heapq.heappop(self._pending)
            try:
                os.write(self._devices[port], frame)
            except OSError:
                continue  # a full queue loses frames on a real link as well


def main() -> None:
    devices = [open_device(*machine) for machine in json.loads(sys.argv[1])]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    Switch(devices).run()


if __name__ == "__main__":
    main()
