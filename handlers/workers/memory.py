"""How much memory a worker may have: enough for the largest image by any method, and no more.

The files and answers that workers decode come from others. A damaged or hostile one can ask a decoder for any amount of
memory; the limit makes that fail in this worker, for this tile.
"""

import mmap
import resource
from pathlib import Path

LARGEST_IMAGE_PX = 1 << 28
"""Pixels of the largest image, 16384 x 16384, if a caller does not say."""
BYTES_PER_PX = 16
"""For each pixel of level 0. The hungriest methods, Pillow's filters on 16 bits, were seen to take 10."""
HEADROOM_BYTES = 512 << 20
"""For modules that a job imports, buffers, and stacks of threads; what small images take."""


def worker_bytes(largest_image_px: int) -> int:
    """Return the address space that jobs of a worker may add to what the worker has at its start.

    >>> worker_bytes(50_000_000) >> 20
    1274
    """
    return HEADROOM_BYTES + BYTES_PER_PX * largest_image_px


def limit_memory(added_bytes: int) -> None:
    """Limit the address space of this process to its present size and `added_bytes`, unless a lower limit is set."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    limit = pages * mmap.PAGESIZE + added_bytes
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY or limit < soft:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
