"""Write sections like the microscope of each format."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from daemon.simulator.delivery import AT_ONCE, Delivery, Written
from daemon.simulator.frames import FrameSource, PixelSource
from daemon.simulator.multisem import write_slab
from daemon.simulator.sbemimage import write_slice
from daemon.simulator.section import SectionPlan
from daemon.simulator.serialem import write_montage
from daemon.simulator.temca import write_section


class Writer(Protocol):
    """Writes a section below `root`; arguments as for `write_section`."""

    def __call__(
        self,
        plan: SectionPlan,
        root: Path,
        source: FrameSource,
        *,
        metafile_first: bool,
        delivery: Delivery,
        report: Callable[[Path], None],
    ) -> Written: ...


@dataclass(frozen=True, slots=True)
class Format:
    """How the demonstration and tests write and watch sections of a format."""

    write: Writer | None
    """Writer of a section; None: `write_section`."""
    z_rule: str
    specimen: str
    """specimen_id of the simulated block, as the format's reader returns it."""
    watch: str = ""
    """Further lines of its [[watch]] table."""


FORMATS: Mapping[str, Format] = {
    "pytemca": Format(None, "grid", "20314_2L"),
    "multisem": Format(write_slab, "header", "wafer_20314_2L", "pixel_size_nm = 4.0\n"),
    "sbemimage": Format(write_slice, "header", "20314_2L"),
    "serialem": Format(write_montage, "header", "20314_2L"),
}


def write_in_format(
    name: str,
    plan: SectionPlan,
    root: Path,
    *,
    pixels: PixelSource | str = PixelSource.TISSUE,
    metafile_first: bool = False,
    delivery: Delivery = AT_ONCE,
    on_file: Callable[[Path], None] | None = None,
) -> Written:
    """Write a section in a format; arguments as for `write_section`."""
    write = FORMATS[name].write
    if write is None:
        return write_section(
            plan, root, pixels=pixels, metafile_first=metafile_first, delivery=delivery, on_file=on_file
        )
    source = FrameSource(plan, PixelSource(pixels))
    report = on_file or (lambda _: None)
    return write(plan, root, source, metafile_first=metafile_first, delivery=delivery, report=report)
