"""Jobs for tests of hanging workers. Workers import this within the time limit of a job, so it imports little."""

import os
import signal
import time
from pathlib import Path

from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.report import MipmapReport


def released_by(job: MipmapJob) -> Path:
    """Return the path of the file that lets a job called "held" end."""
    return job.level0.with_suffix(".released")


def hanging_in_tiles_called_hang(job: MipmapJob) -> MipmapReport:
    """Stands in for a read from a dead mount."""
    if job.tile_id.startswith("hang"):
        time.sleep(600)
    if job.tile_id.startswith("held"):
        while not released_by(job).exists():
            time.sleep(0.01)
    if job.tile_id.startswith("killer"):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.4 if job.tile_id.startswith("slow") else 0.02)
    return MipmapReport(job.tile_id)
