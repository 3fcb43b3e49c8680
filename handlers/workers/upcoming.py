"""Images of the next jobs, which workers read ahead within a limit of bytes."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from handlers.images.read_ahead import UpcomingImage
from handlers.mipmaps.job import MipmapJob

BYTES_PER_WORKER = 256 << 20
"""Bytes to read ahead per worker: enough to hide the delay of a distant file server."""
MAX_SHARE_OF_MEMORY = 8
"""At most an eighth of the machine's memory is used: pages that are evicted before they are used are read twice."""
MAX_IMAGES = 4
"""Images that one job announces. The first jobs share them, so that the threads of all workers open them."""
MAX_PIXEL_BYTES = 2
MAX_EXTRA_BYTES = 1 << 20
"""Bytes for headers and metadata of an image."""


def max_read_ahead(workers: int) -> int:
    """Return the number of bytes that the workers of this machine may read ahead."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(workers * BYTES_PER_WORKER, memory // MAX_SHARE_OF_MEMORY)


class ReadAheadLimit:
    """Limit of the bytes that are read ahead for all users of a pool."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._free = max_bytes

    def take(self, count: int) -> bool:
        """Take bytes if enough are free. Return whether they were taken."""
        if count > self._free:
            return False
        self._free -= count
        return True

    def give_back(self, count: int) -> None:
        """Give back the bytes of a job that has ended."""
        self._free += count


class UpcomingImages:
    """Images of jobs that one user submits in order. The worker of an earlier job reads each image ahead, once."""

    def __init__(self, jobs: Sequence[MipmapJob], limit: ReadAheadLimit) -> None:
        self._jobs = jobs
        self._limit = limit
        self._next = 0
        self._taken: dict[int, int] = {}

    def before(self, number: int) -> MipmapJob:
        """Return the job with this number, which also reads the next images ahead as far as the limit allows."""
        images: list[UpcomingImage] = []
        self._next = max(self._next, number + 1)
        while self._next < len(self._jobs) and len(images) < MAX_IMAGES:
            image = _image_of(self._jobs[self._next])
            if image is not None:
                if not self._limit.take(image.max_bytes):
                    break
                self._taken[self._next] = image.max_bytes
                images.append(image)
            self._next += 1
        job = self._jobs[number]
        return replace(job, upcoming=tuple(images)) if images else job

    def done(self, number: int) -> None:
        """Give back the bytes of a job that has ended."""
        self._limit.give_back(self._taken.pop(number, 0))

    def end(self) -> None:
        """Give back all bytes, since no further job is submitted."""
        for number in tuple(self._taken):
            self.done(number)


def _image_of(job: MipmapJob) -> UpcomingImage | None:
    """Return the file that a job reads; None if it is an object, a section of an MRC file, or read by render-ws."""
    if not isinstance(job.level0, Path) or job.stack or job.source:
        return None
    return UpcomingImage(job.level0, job.root, MAX_PIXEL_BYTES * job.width * job.height + MAX_EXTRA_BYTES)
