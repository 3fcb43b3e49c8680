"""Write sections like a TEMCA or its copy job."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from daemon.simulator.delivery import AT_ONCE, Delivery, Written, deliver
from daemon.simulator.frames import FrameSource, PixelSource, measure, tiff_bytes
from daemon.simulator.pytemca import MetafileForm, metafile_bytes
from daemon.simulator.section import SectionPlan


def write_section(
    plan: SectionPlan,
    root: Path,
    *,
    pixels: PixelSource | str = PixelSource.TISSUE,
    form: MetafileForm = MetafileForm.TILE_PER_LINE,
    appended: Mapping[str, Any] | None = None,
    metafile_first: bool = False,
    delivery: Delivery = AT_ONCE,
    on_file: Callable[[Path], None] | None = None,
) -> Written:
    """Write a section below `root`: the tiles, then the metafile; or the metafile first.

    Parameters
    ----------
    appended : third element of the metafile, such as {"sharedTransform": {...}}.
    metafile_first : whether the metafile is written first, as by a copy job that sorts files by name.
    on_file : called after each file.

    Raises
    ------
    OSError
        If a file cannot be written.
    """
    camera = FrameSource(plan, PixelSource(pixels))
    directory = Path(root, plan.directory)
    directory.mkdir(parents=True, exist_ok=True)
    metafile = directory / plan.metafile_name
    report = on_file or (lambda _: None)
    if metafile_first:
        statistics = [measure(camera.frame(tile), tile.fault) for tile in plan.tiles]
        deliver(metafile, metafile_bytes(plan, statistics, form, appended), delivery)
        report(metafile)
    measured = []
    for tile in plan.tiles:
        frame = camera.frame(tile)
        measured.append(measure(frame, tile.fault))
        deliver(directory / tile.image_name, tiff_bytes(frame), delivery)
        report(directory / tile.image_name)
        time.sleep(delivery.tile_pause_s)
    if not metafile_first:
        deliver(metafile, metafile_bytes(plan, measured, form, appended), delivery)
        report(metafile)
    return Written(directory, metafile, tuple(directory / tile.image_name for tile in plan.tiles))
