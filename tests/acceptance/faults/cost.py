"""The cost of hostile input: memory of the daemon's processes, and the times of /healthz."""

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.acceptance.faults.pulse import Pulse, pulse_of
from tests.acceptance.rig import Rig

IDLE_S = 2.0
MAX_ANSWER_S = 2.0
"""Limit of an answer of /healthz on a machine without other load; the row of the fault has the time itself."""
MAX_LOAD = 3.0
"""Load of each core above which the times of /healthz are reported but not compared with the limit."""
MAX_DAEMON_MIB = 500
"""An idle daemon needs about 110. The largest permitted metafiles need about 400 while they are parsed."""
MAX_WORKER_MIB = 700
"""A worker may use 512 MiB more, and 16 bytes for each pixel of the largest image; an idle one needs about 50."""


def peak_mib(pid: int) -> int:
    """Return the peak of a process's resident memory, MiB; 0 if it has ended."""
    try:
        found = re.findall(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[0]) // 1024 if found else 0


def descendants(pid: int) -> list[int]:
    """Return the children of a process and their descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [int(child) for each in children for child in (each, *descendants(int(each)))]


@dataclass(slots=True)
class Cost:
    """Peak memory of a daemon, and the slowest answer of /healthz."""

    idle_s: float
    """Slowest answer before the input arrived, which shows the load of the machine."""
    max_worker_mib: int = MAX_WORKER_MIB
    daemon_mib: int = 0
    worker_mib: int = 0
    pulse: Pulse | None = None
    load: float = 0.0
    """Load average for each core."""

    @property
    def problems(self) -> list[str]:
        """The limits that were exceeded."""
        assert self.pulse is not None
        found = [f"/healthz: {answer}" for answer in self.pulse.wrong]
        if self.load <= MAX_LOAD and self.pulse.slowest_s > max(MAX_ANSWER_S, 5 * self.idle_s):
            found.append(f"/healthz took {self.pulse.slowest_s:.2f} s")
        for name, peak, limit in (
            ("daemon", self.daemon_mib, MAX_DAEMON_MIB),
            ("worker", self.worker_mib, self.max_worker_mib),
        ):
            if peak > limit:
                found.append(f"the {name} needed {peak} MiB, more than {limit}")
        return found

    def __str__(self) -> str:
        assert self.pulse is not None
        slowest_s, idle_s = self.pulse.slowest_s, self.idle_s
        return (
            f"peak of the daemon {self.daemon_mib} MiB, of the largest worker {self.worker_mib} MiB; slowest of "
            f"{self.pulse.answers} answers of /healthz {slowest_s:.2f} s (idle {idle_s:.2f} s, load {self.load:.1f})"
        )


@contextlib.contextmanager
def costs(rig: Rig, max_worker_mib: int = MAX_WORKER_MIB) -> Iterator[Cost]:
    """Measure a running daemon within the context. It must still run at the end."""
    assert rig.daemon is not None
    daemon = rig.daemon.process.pid
    with pulse_of(rig.url, every_s=0.1) as idle:
        time.sleep(IDLE_S)
    cost = Cost(idle.slowest_s, max_worker_mib)
    with pulse_of(rig.url, every_s=0.1) as cost.pulse:
        yield cost
    assert rig.daemon.process.poll() is None, "the daemon ended"
    cost.load = os.getloadavg()[0] / (os.cpu_count() or 1)
    cost.daemon_mib = peak_mib(daemon)
    cost.worker_mib = max((peak_mib(pid) for pid in descendants(daemon)), default=0)
