"""What a daemon pays for hostile input: memory of its processes, and the answers of /healthz meanwhile."""

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.acceptance.faults.pulse import Pulse, felt
from tests.acceptance.rig import Rig

IDLE_S = 2.0
WORST_ANSWER_S = 0.5
"""Of /healthz, on a machine that has nothing else to do."""
OTHER_WORK = 3.0
"""Load of each core above which answers are reported, and not judged: they wait for the other programs."""
MOST_DAEMON_MIB = 500
"""An idle daemon needs about 110. The largest metafiles that are allowed need about 400 while they are parsed."""
MOST_WORKER_MIB = 700
"""A worker may add 512 MiB and 16 bytes for each pixel of the largest image; a quiet one needs about 50."""


def peak_mib(pid: int) -> int:
    """Return the largest resident memory that a process has had; 0 if it has ended."""
    try:
        found = re.findall(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[0]) // 1024 if found else 0


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, and theirs."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [int(child) for each in children for child in (each, *descendants(int(each)))]


@dataclass(slots=True)
class Cost:
    """Peaks of a daemon, and the slowest answer of /healthz."""

    idle_s: float
    """Slowest answer before the input came: other programs may load the machine."""
    most_worker_mib: int = MOST_WORKER_MIB
    daemon_mib: int = 0
    worker_mib: int = 0
    pulse: Pulse | None = None
    load: float = 0.0
    """Processes that want a core, for each core."""

    @property
    def problems(self) -> list[str]:
        """Return what was more than it may be."""
        assert self.pulse is not None
        found = [f"/healthz: {answer}" for answer in self.pulse.wrong]
        if self.load <= OTHER_WORK and self.pulse.slowest_s > max(WORST_ANSWER_S, 5 * self.idle_s):
            found.append(f"/healthz took {self.pulse.slowest_s:.2f} s")
        for name, peak, most in (
            ("daemon", self.daemon_mib, MOST_DAEMON_MIB),
            ("worker", self.worker_mib, self.most_worker_mib),
        ):
            if peak > most:
                found.append(f"the {name} needed {peak} MiB, more than {most}")
        return found

    def __str__(self) -> str:
        assert self.pulse is not None
        worst, idle = self.pulse.slowest_s, self.idle_s
        return (
            f"peak of the daemon {self.daemon_mib} MiB, of the largest worker {self.worker_mib} MiB; "
            f"/healthz at worst {worst:.2f} s of {self.pulse.answers} answers (idle {idle:.2f} s, load {self.load:.1f})"
        )


@contextlib.contextmanager
def costs(rig: Rig, most_worker_mib: int = MOST_WORKER_MIB) -> Iterator[Cost]:
    """Measure a running daemon within the context. It must run at the end, too."""
    assert rig.daemon is not None
    daemon = rig.daemon.process.pid
    with felt(rig.url, every_s=0.1) as idle:
        time.sleep(IDLE_S)
    cost = Cost(idle.slowest_s, most_worker_mib)
    with felt(rig.url, every_s=0.1) as cost.pulse:
        yield cost
    assert rig.daemon.process.poll() is None, "the daemon ended"
    cost.load = os.getloadavg()[0] / (os.cpu_count() or 1)
    cost.daemon_mib = peak_mib(daemon)
    cost.worker_mib = max((peak_mib(pid) for pid in descendants(daemon)), default=0)
