"""Compute the load of a facility on cores, disks and networks per second. Pure."""

from dataclasses import dataclass
from typing import Literal

from daemon.commands.plan.costs import Costs

DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Facility:
    """Microscopes of one kind that image without pause, and the mipmaps of their tiles."""

    scopes: int = 6
    tiles_per_s: float = 18.4 / 6
    """Rate of one microscope."""
    width: int = 5504
    """Pixels; the same for height."""
    height: int = 5504
    depth: Literal[8, 16] = 8
    """Bits of a level-0 pixel."""
    levels: int = 6
    level_depth: Literal[8, 16] = 8
    """Bits of a pixel of the levels, at most those of level 0."""
    format: Literal["tif", "png", "jpg"] = "tif"
    raw: Literal["disk", "mount"] = "disk"
    """Place of level 0: the server's disk, to which microscopes write over the network, or a file server."""
    delay_ms: float = 1.0
    """Time until the file server of level 0 answers."""
    store: Literal["disk", "mount", "object"] = "disk"
    """Place of the levels: a disk of the server, a file server, or an object store."""

    @property
    def megapixels(self) -> float:
        """Megapixels of a tile."""
        return self.width * self.height / 1e6

    @property
    def level0_mb(self) -> float:
        """Megabytes of a tile's level 0, uncompressed."""
        return self.megapixels * self.depth / 8

    @property
    def level_megapixels(self) -> float:
        """Megapixels of all levels of a tile.

        >>> round(Facility(width=64, height=64, levels=2).level_megapixels * 1e6)
        1280
        """
        return sum((self.width >> level) * (self.height >> level) for level in range(1, self.levels + 1)) / 1e6


@dataclass(frozen=True, slots=True)
class Load:
    """Rates of one microscope, or of all."""

    tiles_per_s: float
    level0_mb_s: float
    levels_mb_s: float
    level_files_per_s: float
    cores: float
    """Cores for the daemon, its workers, and receiving level 0."""
    daemon_cores: float
    """Cores for the daemon's own process, which can use only one."""
    workers: float
    """Number of busy worker processes: computing or waiting for a file server or an object store."""
    disk_read_mb_s: float
    disk_write_mb_s: float
    network_in_mb_s: float
    network_out_mb_s: float

    @property
    def disk_mb_s(self) -> float:
        """MB/s of the disk, reading and writing together."""
        return self.disk_read_mb_s + self.disk_write_mb_s

    @property
    def terabytes_per_day(self) -> float:
        """Terabytes of level 0 and all levels per day."""
        return (self.level0_mb_s + self.levels_mb_s) * DAY_S / 1e6

    @property
    def level_files_per_day(self) -> float:
        return self.level_files_per_s * DAY_S


def load_of(facility: Facility, scopes: float, costs: Costs) -> Load:
    """Return the load of a number of the facility's microscopes."""
    rate = scopes * facility.tiles_per_s
    level0, levels = facility.level0_mb, levels_mb(facility, costs)
    worker_s = worker_cpu_s(facility, costs)
    waits_s = wait_s(facility, costs)
    here, on_disk = facility.raw == "disk", facility.store == "disk"
    receiving_s = level0 * costs.receive.value / 1e3 if here else 0.0
    return Load(
        tiles_per_s=rate,
        level0_mb_s=rate * level0,
        levels_mb_s=rate * levels,
        level_files_per_s=rate * facility.levels,
        cores=rate * (worker_s + receiving_s + costs.daemon.value / 1e3),
        daemon_cores=rate * costs.daemon.value / 1e3,
        workers=rate * (worker_s + waits_s) / costs.usable.value,
        disk_read_mb_s=rate * level0 if here else 0.0,
        disk_write_mb_s=rate * ((level0 if here else 0.0) + (levels if on_disk else 0.0)),
        network_in_mb_s=rate * (level0 + costs.render_down.value / 1e3),
        network_out_mb_s=rate * ((0.0 if on_disk else levels) + costs.render_up.value / 1e3),
    )


def levels_mb(facility: Facility, costs: Costs) -> float:
    """Return the megabytes of all levels of a tile, encoded."""
    share = {"tif": 1.0, "png": costs.png_share.value, "jpg": costs.jpg_share.value}[facility.format]
    return facility.level_megapixels * facility.level_depth / 8 * share


def worker_cpu_s(facility: Facility, costs: Costs) -> float:
    """Return the CPU seconds of a worker for one tile."""
    read = costs.read_16bit if facility.depth == 16 else costs.read_8bit
    encoding = {"tif": 0.0, "png": costs.png.value, "jpg": costs.jpg.value}[facility.format]
    by_byte, by_file = (costs.put, costs.put_object) if facility.store == "object" else (costs.write, costs.file)
    taken_ms = (
        facility.megapixels * read.value
        + facility.level_megapixels * encoding
        + levels_mb(facility, costs) * by_byte.value
        + facility.levels * by_file.value
    )
    return costs.workers.value * taken_ms / 1e3


def wait_s(facility: Facility, costs: Costs) -> float:
    """Return the time, s, that a worker waits for a file server and an object store during one tile.

    Level 0 is read ahead, so there is no wait for its bytes if the storage is fast enough.
    """
    opening_ms = costs.openings.value * facility.delay_ms if facility.raw == "mount" else 0.0
    putting_ms = costs.put_wait.value if facility.store == "object" else 0.0
    return (opening_ms + putting_ms) / 1e3


def worker_memory_mib(facility: Facility, costs: Costs) -> float:
    """Return the peak memory of one worker, MiB."""
    return costs.worker_memory.value + costs.tile_memory.value * facility.level0_mb * 1e6 / 2**20
