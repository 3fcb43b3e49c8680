"""Jobs of workers for tests. Workers import this within the time limit of a job, so it imports little."""

import os
import signal
import time
from pathlib import Path

from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.report import MipmapReport


def toy_job(job: MipmapJob) -> MipmapReport:
    """Hang, kill the worker, wait or be slow, as the tile id begins. Make no levels."""
    if job.tile_id.startswith("hang"):  # a read from a dead mount
        time.sleep(600)
    if job.tile_id.startswith("killer"):  # a decoder that crashes on one image
        os.kill(os.getpid(), signal.SIGKILL)
    if job.tile_id.startswith("held"):
        while not _release_file(job).exists():
            time.sleep(0.01)
    time.sleep(0.4 if job.tile_id.startswith("slow") else 0.02)
    return MipmapReport(job.tile_id)


def release(job: MipmapJob) -> None:
    """Let held jobs with images in the directory of this job's image end."""
    _release_file(job).touch()


def _release_file(job: MipmapJob) -> Path:
    assert isinstance(job.level0, Path)
    return job.level0.with_name("release")
