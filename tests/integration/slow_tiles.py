"""Real levels, made slowly, and every start noted. Workers import this."""

import os
import time
from pathlib import Path

from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.report import MipmapReport
from handlers.workers.worker import make_mipmaps

STARTS = "starts.txt"
TAKES_S = 0.4


def made_slowly(job: MipmapJob) -> MipmapReport:
    """Note the start beside the directory of the images, and make the levels late."""
    assert isinstance(job.level0, Path)
    with (job.level0.parent.parent / STARTS).open("a") as file:
        file.write(f"{job.tile_id} {os.getpid()}\n")
    time.sleep(TAKES_S)
    return make_mipmaps(job)
