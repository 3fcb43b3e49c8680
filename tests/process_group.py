"""Ending a process that leads a group, with what it has started."""

import contextlib
import os
import signal
from pathlib import Path
from typing import Protocol


class Leader(Protocol):
    """A process that leads its group, as `subprocess.Popen` knows it."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...


def kill_group(leader: Leader) -> None:
    """Kill what is left of a process and its group, and reap it.

    A process may have ended long before, and numbers of processes come back within minutes on a busy machine. A number
    is not given away while a group has it: a process with the number of a reaped leader shows that the group is empty.
    """
    if leader.poll() is None or not Path(f"/proc/{leader.pid}").exists():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader.pid, signal.SIGKILL)
    leader.wait()
