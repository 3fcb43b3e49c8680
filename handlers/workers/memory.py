"""Memory limit of a worker: enough for the largest image by any method, and no more.

The files and answers that workers decode come from others. A damaged or hostile one can ask a decoder for any amount of
memory; the limit makes that fail in this worker, for this tile.
"""

import contextlib
import mmap
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

BYTES_PER_PX = 16
"""Bytes for each pixel of level 0. The hungriest methods, Pillow's filters on 16 bits, take up to 10."""
HEADROOM_BYTES = 512 << 20
"""Bytes for imported modules, buffers and thread stacks; enough for small images."""


def worker_bytes(largest_image_px: int) -> int:
    """Return the address space that jobs of a worker may add to what the worker has at its start.

    >>> worker_bytes(50_000_000) >> 20
    1274
    """
    return HEADROOM_BYTES + BYTES_PER_PX * largest_image_px


def limit_memory(added_bytes: int) -> None:
    """Limit the address space of this process to its present size and `added_bytes`, unless a lower limit is set."""
    _set_limit(_address_space() + added_bytes)


class JobLimit:
    """Limits the address space of a process that others use too, while it has jobs.

    Each job may add the same number of bytes to what the process had when its first job began.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs = self._base = 0
        self._before = (0, 0)

    @contextlib.contextmanager
    def added(self, job_bytes: int) -> Iterator[None]:
        """Context of one job."""
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
