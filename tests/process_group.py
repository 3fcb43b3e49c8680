"""Kill a process that leads a process group, with all processes of the group."""

import contextlib
import os
import signal
from pathlib import Path
from typing import Protocol


class Leader(Protocol):
    """The leader of a process group, such as a `subprocess.Popen`."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...


def kill_group(leader: Leader) -> None:
    """Kill the processes that are left of a group, and reap its leader.

    The leader may have ended long before, and the kernel reuses process ids within minutes on a busy machine. It does
    not reuse an id while a group has it: if a process has the id of a reaped leader, the group is empty.
    """
    if leader.poll() is None or not Path(f"/proc/{leader.pid}").exists():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader.pid, signal.SIGKILL)
    leader.wait()
