"""`python -m tests.network_switch MACHINES`: a switch in user space that joins network namespaces by TAP devices.

A frame is late and lost as the links of its sender and of its receiver say. MACHINES is JSON: a list of [process in the
namespace, device, address with prefix length]. Lines on standard input change a link, [number, seconds, share lost];
each is answered by a line. The devices exist until the switch ends, which it does when its standard input does.
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
    """Frames under way between devices."""

    def __init__(self, devices: list[int]) -> None:
        self._devices = devices
        self._links = [(0.0, 0.0)] * len(devices)
        self._port_of: dict[bytes, int] = {}
        self._under_way: list[tuple[float, int, int, bytes]] = []
        self._count = 0

    def run(self) -> None:
        while True:
            wait_s = max(0.0, self._under_way[0][0] - time.monotonic()) if self._under_way else None
            ready, _, _ = select.select([0, *self._devices], [], [], wait_s)
            if 0 in ready and not self._obey(sys.stdin.readline()):
                return
            for port, device in enumerate(self._devices):
                if device in ready:
                    self._take(port)
            self._deliver()

    def _obey(self, line: str) -> bool:
        if line:
            port, late_s, lost = json.loads(line)
            self._links[port] = (late_s, lost)
            sys.stdout.write("done\n")
            sys.stdout.flush()
        return bool(line)

    def _take(self, port: int) -> None:
        frame = os.read(self._devices[port], MTU + 64)
        self._port_of[frame[6:12]] = port
        to = self._port_of.get(frame[:6])
        for each in range(len(self._devices)) if to is None else [to]:
            if each == port:
                continue
            late_s, lost = (sum(of) for of in zip(self._links[port], self._links[each], strict=True))
            if random.random() >= lost:
                self._count += 1
                heapq.heappush(self._under_way, (time.monotonic() + late_s, self._count, each, frame))

    def _deliver(self) -> None:
        now = time.monotonic()
        while self._under_way and self._under_way[0][0] <= now:
            *_, port, frame = heapq.heappop(self._under_way)
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
