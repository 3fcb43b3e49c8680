"""The cores that this process may use."""

import os


def usable_cores() -> int:
    """Return the number of cores that this process may use: taskset, a container or systemd can reserve some."""
    return len(os.sched_getaffinity(0))
