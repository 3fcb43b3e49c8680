"""Memory limit of a worker: enough for the largest image with any method, and no more.

Workers decode files and answers of other programs. A damaged or hostile file can make a decoder request any amount of
memory; with the limit, only this tile fails.
"""

import contextlib
import mmap
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

BYTES_PER_PX = 16
"""Bytes for each pixel of level 0. The methods that need most, Pillow's filters on 16 bits, take up to 10."""
HEADROOM_BYTES = 512 << 20
"""Bytes for imported modules, buffers and thread stacks; enough for small images."""


def worker_bytes(largest_image_px: int) -> int:
    """Return the address space in bytes that jobs may add to that of a worker at its start.

    >>> worker_bytes(50_000_000) >> 20
    1274
    """
    return HEADROOM_BYTES + BYTES_PER_PX * largest_image_px


def limit_memory(added_bytes: int) -> None:
    """Limit the address space of this process to its present size and `added_bytes`, unless a lower limit is set."""
    _set_limit(_address_space() + added_bytes)


class JobLimit:
    """Limits the address space of a process while it runs jobs. The process also does other work.

    Each job may add the same number of bytes to the address space at the start of the first running job.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs = self._base = 0
        self._before = (0, 0)

    @contextlib.contextmanager
    def added(self, job_bytes: int) -> Iterator[None]:
        """Context in which one job runs."""
        self._count(1, job_bytes)
        try:
            yield
        finally:
            self._count(-1, job_bytes)

    def _count(self, jobs: int, job_bytes: int) -> None:
        with self._lock:
            if not self._jobs:
                self._base, self._before = _address_space(), resource.getrlimit(resource.RLIMIT_AS)
            self._jobs += jobs
            resource.setrlimit(resource.RLIMIT_AS, self._before)
            if self._jobs:
                _set_limit(self._base + self._jobs * job_bytes)


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_bytes().split()[0])
    return pages * mmap.PAGESIZE


def _set_limit(limit: int) -> None:
    """Limit the address space, unless a lower limit is set."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY or limit < soft:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
