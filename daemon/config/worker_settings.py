"""The section [workers]: the workers that make mipmaps, on this machine or on a dask cluster. Pure."""

from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from daemon.config.errors import RefusedKeyError, quoted
from daemon.config.section import AbsolutePath, OptionalPath, OptionalText, Section, Text
from daemon.config.text import example
from daemon.system.cores import usable_cores
from handlers.workers.cluster.access import ClusterAccess, WorkerPath

CLUSTER_COUNT = 64
"""Number that replaces `count = 0` with a dask scheduler."""


def default_processes(cores: int) -> int:
    """Return the number of worker processes with `count = 0`, more than cores: some workers wait for disks.

    docs/decisions/atomic-writes.md has the figures.

    >>> [default_processes(cores) for cores in (1, 2, 3, 16)]
    [2, 3, 4, 24]
    """
    return cores + max(1, cores // 2)


class WorkerPathEntry(Section):
    """Path of a directory on this machine and its path on dask workers; one table for each. The longest match
    applies."""

    in_example: ClassVar[bool] = False

    hosts: Text = Field("*", **example("node*"))
    """Pattern of the host names of the workers with this path, as in "node*"."""
    local: AbsolutePath = Field(**example("/data/temca2"))
    """Directory on this machine. A path below no entry is the same on both sides."""
    worker: AbsolutePath = Field(**example("/mnt/em/temca2"))
    """The same directory's path on these workers."""


class WorkerSettings(Section):
    """The workers that make mipmaps."""

    executor: Literal["processes", "dask"] = "processes"
    """"processes": worker processes on this machine. "dask": the workers of a dask scheduler."""
    count: int = Field(0, ge=0, le=1024)
    """Number of worker processes. 0: three for every two cores that the daemon may use, since workers also wait for
    disks; a slow file server needs up to four for each core. With dask: about the number of threads of all workers; the
    daemon submits half as many tiles more. 0: 64."""
    dask_scheduler: OptionalText = Field(None, **example(""))
    """Address of the dask scheduler, as in "tcp://scheduler:8786" or "tls://scheduler:8786". Only valid with executor =
    "dask". While the scheduler or its workers are unreachable, tiles wait for them. `check-config --probe` tests the
    scheduler and its workers."""
    dask_ca_file: OptionalPath = Field(None, **example(""))
    """PEM file with the authorities that signed the certificates of scheduler and workers. Required with an
    address that begins with tls://."""
    dask_certificate_file: OptionalPath = Field(None, **example(""))
    """PEM file with the certificate by which temwatch identifies itself to the scheduler. Required with an address that
    begins with tls://."""
    dask_key_file: OptionalPath = Field(None, **example(""))
    """PEM file with the key of `dask_certificate_file`, without a passphrase. Other users must not be able to read this
    file. Empty: the key is in the file of the certificate."""
    tile_timeout_s: float = Field(300, gt=0)
    """Seconds that a worker may take for one tile. A worker that takes longer counts as hung, for example on a dead
    mount: it is replaced, and the tile is retried a few times."""
    largest_image_megapixels: float = Field(100, gt=0, le=4096)
    """Largest image, in millions of pixels. Larger images are refused. Each worker process may take 16 bytes of memory
    for each of its pixels, plus 512 MiB. A tile that needs more memory fails; other tiles are not affected."""
    path_map: tuple[WorkerPathEntry, ...] = ()
    """Paths of this machine's directories on workers of other hosts."""

    @model_validator(mode="after")
    def _scheduler_goes_with_dask(self) -> Self:
        if self.executor == "dask" and not self.dask_scheduler:
            raise RefusedKeyError("dask_scheduler", 'is required with executor = "dask", as in "tcp://scheduler:8786"')
        if self.executor != "dask":
            for key in ("dask_scheduler", "dask_ca_file", "dask_certificate_file", "dask_key_file", "path_map"):
                if getattr(self, key):
                    problem = f'is only valid with executor = "dask", and executor is "{self.executor}"'
                    raise RefusedKeyError(key, problem)
        for key, problem in self.cluster.problems() if self.cluster else ():
            raise RefusedKeyError(key, problem)
        return self

    @field_validator("path_map")
    @classmethod
    def _sides_are_distinct(cls, value: tuple[WorkerPathEntry, ...]) -> tuple[WorkerPathEntry, ...]:
        for side in ("local", "worker"):
            keys = [(entry.hosts, getattr(entry, side)) for entry in value]
            if twice := next((key for index, key in enumerate(keys) if key in keys[:index]), None):
                raise ValueError(f"{side} = {quoted(str(twice[1]))} is in two entries for the hosts {twice[0]}")
        return value

    @property
    def at_once(self) -> int:
        """Number of worker processes; with dask, number of tiles submitted at the same time."""
        return self.count or (CLUSTER_COUNT if self.cluster else default_processes(usable_cores()))

    @property
    def cluster(self) -> ClusterAccess | None:
        """Access to the dask scheduler; None for worker processes."""
        if self.executor != "dask" or not self.dask_scheduler:
            return None
        return ClusterAccess(self.dask_scheduler, self.dask_ca_file, self.dask_certificate_file, self.dask_key_file)

    @property
    def worker_paths(self) -> tuple[WorkerPath, ...]:
        """Paths of this machine's directories on the workers' hosts."""
        return tuple(WorkerPath(entry.hosts, entry.local, entry.worker) for entry in self.path_map)
