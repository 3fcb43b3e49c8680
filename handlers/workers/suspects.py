"""Jobs that killed their worker: their reports, and which of them must run alone from then on."""

from handlers.errors import WorkerFault
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.report import FaultReport, MipmapReport

MAX_SUSPECTS = 1_000


class Suspects:
    """Tile ids of the latest jobs that killed their own process, at most MAX_SUSPECTS."""

    def __init__(self) -> None:
        self._tile_ids: dict[str, None] = {}

    def add(self, job: MipmapJob) -> None:
        """Remember a job."""
        if len(self._tile_ids) >= MAX_SUSPECTS:
            del self._tile_ids[next(iter(self._tile_ids))]
        self._tile_ids[job.tile_id] = None

    def __contains__(self, job: MipmapJob) -> bool:
        return job.tile_id in self._tile_ids


def worker_killed_report(job: MipmapJob, problem: str) -> MipmapReport:
    """Return the report of a job that killed its worker."""
    fault = WorkerFault(
        str(job.level0),
        problem,
        "look for memory that ran out in the kernel's log; otherwise check the image and its disk",
    )
    return MipmapReport(job.tile_id, fault=FaultReport.of(fault))
