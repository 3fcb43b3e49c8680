"""Measured costs of a tile: every constant of the planner with its source. Pure."""

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Constant:
    """One number of the model."""

    value: float
    unit: str
    meaning: str
    source: str
    """File of this repository and a text in it next to the figure; or "choice" and the reason."""


_RUN = 'docs/performance.md, "CPU of a tile: daemon"'
_PARTS = 'docs/performance.md, "share of its busy time"'
"""Shares of a worker's time, applied to the CPU of a tile in `_RUN` without that of its files."""


@dataclass(frozen=True, slots=True)
class Costs:
    """All constants."""

    daemon: Constant = Constant(5.3, "ms", "CPU of the daemon's own process for a tile of any size", _RUN)
    read_8bit: Constant = Constant(0.35, "ms/MP", "CPU of a worker: read, sum and measure 8-bit level 0", _PARTS)
    read_16bit: Constant = Constant(
        0.5, "ms/MP", "the same for 16-bit level 0", 'docs/performance.md, "tile of 5504x5504, 16 to 8 bit"'
    )
    write: Constant = Constant(1.13, "ms/MB", "CPU of a worker: write levels, read back, compare", _PARTS)
    file: Constant = Constant(
        0.24,
        "ms",
        "CPU of a worker for a level's file, in addition to its bytes",
        'docs/decisions/stores.md, "1.45 and 1.41 ms"',
    )
    put: Constant = Constant(
        1.8,
        "ms/MB",
        "CPU of a worker: put levels into an object store, without TLS",
        'docs/decisions/stores.md, "1.8 ms"',
    )
    put_object: Constant = Constant(
        2.4, "ms", "CPU of a worker for an object, in addition to its bytes", 'docs/decisions/stores.md, "2.4 ms"'
    )
    put_wait: Constant = Constant(
        80, "ms", "time that a worker waits for the puts of a tile's levels", 'docs/decisions/stores.md, "12.5 tiles/s"'
    )
    openings: Constant = Constant(
        2,
        "",
        "answers of a file server that a worker waits for, for a tile",
        'docs/decisions/cold-storage.md, "opened twice"',
    )
    png: Constant = Constant(2.6, "ms/MP", "CPU of encoding png", 'docs/performance.md, "encoded in 9.7 ms of CPU"')
    jpg: Constant = Constant(4.6, "ms/MP", "CPU of encoding jpg", 'docs/performance.md, "jpg of 1920x1920"')
    png_share: Constant = Constant(
        0.7, "", "bytes of a png as a share of its pixels' bytes", 'docs/performance.md, "png of 1920x1920"'
    )
    jpg_share: Constant = Constant(
        0.46, "", "bytes of a jpg as a share of its pixels' bytes", 'docs/performance.md, "jpg of 1920x1920"'
    )
    receive: Constant = Constant(
        0.65, "ms/MB", "CPU of writing level 0 to this server's disk", 'docs/performance.md, "CPU of writing a tile"'
    )
    render_up: Constant = Constant(
        2.7, "kB", "sent to render-ws for a tile with six levels", 'docs/performance.md, "sends 2.7 kB"'
    )
    render_down: Constant = Constant(
        3.3, "kB", "received from render-ws for a tile with six levels", 'docs/performance.md, "receives 3.3 kB"'
    )
    daemon_memory: Constant = Constant(
        106, "MiB", "memory of the daemon's own process", 'docs/performance.md, "finished montages in the journal"'
    )
    worker_memory: Constant = Constant(
        39, "MiB", "memory of a worker without its tile", 'docs/performance.md, "interpreter and imports"'
    )
    tile_memory: Constant = Constant(
        2.45,
        "",
        "memory of a worker for its tile, as a multiple of level 0's bytes",
        'docs/performance.md, "(peak - interpreter)"',
    )
    workers: Constant = Constant(
        1.0,
        "",
        "CPU of this machine's workers, as a multiple of the costs above",
        "choice: the machine of docs/performance.md",
    )
    usable: Constant = Constant(
        0.8, "", "usable share of each resource", "choice: the rest is for bursts, a backlog and other programs"
    )

    def listed(self) -> list[dict[str, Any]]:
        """Return name, value, unit, meaning and source of each constant."""
        pairs = ((each.name, getattr(self, each.name)) for each in fields(self))
        return [
            {"name": name, "value": one.value, "unit": one.unit, "meaning": one.meaning, "source": one.source}
            for name, one in pairs
        ]


COSTS = Costs()
