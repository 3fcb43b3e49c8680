"""The worker processes of a temwatch process, as the kernel lists them."""

import contextlib
from pathlib import Path


def worker_pids(parent: int) -> list[int]:
    """Return the ids of a process's running workers, which are children of its fork server."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if entry.name.isdigit() and fields[0] != "Z":
                parents[int(entry.name)] = int(fields[1])
    return [pid for pid, above in parents.items() if parents.get(above) == parent]
