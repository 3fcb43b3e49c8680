"""Images that the workers read ahead: those of the next jobs, within a limit of bytes."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from handlers.images.read_ahead import UpcomingImage
from handlers.mipmaps.job import MipmapJob

BYTES_PER_WORKER = 256 << 20
"""Read ahead for each worker: enough for the delay of a distant file server, while the images before are made."""
MOST_SHARE_OF_MEMORY = 8
"""At most an eighth of the machine's memory: pages that are dropped before they are used would be read twice."""
MOST_PIXEL_BYTES = 2
MOST_EXTRA_BYTES = 1 << 20
"""Bytes for headers and metadata."""


def most_read_ahead(workers: int) -> int:
    """Return how many bytes workers of this machine may read ahead."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(workers * BYTES_PER_WORKER, memory // MOST_SHARE_OF_MEMORY)


class ReadAheadLimit:
    """Bytes that all users of a pool together may have read ahead of their jobs."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._free = most_bytes

    def take(self, count: int) -> bool:
        """Take bytes, if there are enough left."""
        if count > self._free:
            return False
        self._free -= count
        return True

    def give_back(self, count: int) -> None:
        """Give back bytes that a job has used."""
        self._free += count


class UpcomingImages:
    """The images of jobs that one user submits in order. The worker of an earlier job reads each ahead, once."""

    def __init__(self, jobs: Sequence[MipmapJob], limit: ReadAheadLimit) -> None:
        self._jobs = jobs
        self._limit = limit
        self._next = 0
        self._taken: dict[int, int] = {}

    def before(self, number: int) -> MipmapJob:
        """Return a job that also reads the next images ahead, as far as the limit allows."""
        images: list[UpcomingImage] = []
        self._next = max(self._next, number + 1)
        while self._next < len(self._jobs):
            image = _image_of(self._jobs[self._next])
            if image is not None:
                if not self._limit.take(image.most_bytes):
                    break
                self._taken[self._next] = image.most_bytes
                images.append(image)
            self._next += 1
        job = self._jobs[number]
        return replace(job, upcoming=tuple(images)) if images else job

    def done(self, number: int) -> None:
        """Give back what a job has used."""
        self._limit.give_back(self._taken.pop(number, 0))

    def end(self) -> None:
        """Give back everything: no further job is submitted."""
        for number in tuple(self._taken):
            self.done(number)


def _image_of(job: MipmapJob) -> UpcomingImage | None:
    """Return the file that a job reads; None if it is in an object store or a stack, or render-ws reads it."""
    if not isinstance(job.level0, Path) or job.stack or job.source:
        return None
    return UpcomingImage(job.level0, job.root, MOST_PIXEL_BYTES * job.width * job.height + MOST_EXTRA_BYTES)
