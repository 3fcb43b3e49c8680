"""A job that makes real levels slowly and records its start. Workers import this."""

import os
import time
from pathlib import Path

from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.report import MipmapReport
from handlers.workers.worker import make_mipmaps

STARTS = "starts.txt"
"""Name of the file with the tile id and process id of each start."""
WAIT_S = 0.4


def make_slowly(job: MipmapJob) -> MipmapReport:
    """Record the start beside the directory of the images, wait, and make the levels."""
    assert isinstance(job.level0, Path)
    with (job.level0.parent.parent / STARTS).open("a") as file:
        file.write(f"{job.tile_id} {os.getpid()}\n")
    time.sleep(WAIT_S)
    return make_mipmaps(job)
