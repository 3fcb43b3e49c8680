"""Write a montage as SerialEM: a TIFF for each piece, and an idoc that grows and is rewritten at the end.

All montages of one root belong to one file. At the end, the aligned coordinates of the pieces and the entry MontSection
are added, as SerialEM does after it has made the overview.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from daemon.simulator.delivery import Delivery, Written, append, deliver
from daemon.simulator.frames import FrameSource, measure, tiff_bytes
from daemon.simulator.pytemca import TileStatistics
from daemon.simulator.section import SectionPlan, TilePlan

_CORRELATION = 0.42


@dataclass(frozen=True, slots=True)
class _Place:
    """Start of a montage in its file: numbers of its section and of its first image."""

    section: int
    image: int


def write_montage(
    plan: SectionPlan,
    root: Path,
    source: FrameSource,
    *,
    metafile_first: bool,
    delivery: Delivery,
    report: Callable[[Path], None],
) -> Written:
    """Write a section below `root`; arguments as for `write_section`."""
    directory = root / plan.specimen_id
    directory.mkdir(parents=True, exist_ok=True)
    idoc = directory / f"{plan.session_id}.idoc"
    before = idoc.read_bytes() if idoc.exists() else head(plan).encode()
    place = _Place(*(len(re.findall(rb"^\[%s" % kind, before, re.MULTILINE)) for kind in (b"MontSection", b"Image")))
    names = [f"{plan.session_id}_{place.image + index:04d}.tif" for index in range(len(plan.tiles))]
    entries = [f"Image = {name}" for name in names]
    if metafile_first:
        statistics = [measure(source.frame(tile), tile.fault) for tile in plan.tiles]
        deliver(idoc, before + montage_text(plan, entries, statistics, place.section).encode(), delivery)
        report(idoc)
    elif not idoc.exists():
        idoc.write_bytes(before)
    measured = []
    for tile, name in zip(plan.tiles, names, strict=True):
        frame = source.frame(tile)
        measured.append(measure(frame, tile.fault))
        deliver(directory / name, tiff_bytes(frame), delivery)
        report(directory / name)
        if not metafile_first:
            append(
                idoc, piece_text(plan, tile, f"Image = {name}", measured[-1], place.section, is_aligned=False), delivery
            )
        time.sleep(delivery.tile_pause_s)
    if not metafile_first:
        deliver(idoc, before + montage_text(plan, entries, measured, place.section).encode(), delivery)
        report(idoc)
    return Written(directory, idoc / f"montage@{place.section:05d}", tuple(directory / name for name in names))


def head(plan: SectionPlan) -> str:
    """Return the head of an idoc: the values of the whole file."""
    camera = plan.camera
    values = {
        "ImageSeries": 1,
        "PixelSpacing": f"{10 * plan.pixel_size_nm:g}",
        "Voltage": 120,
        "ImageSize": f"{camera.width} {camera.height}",
        "Montage": 1,
        "DataMode": 0 if camera.bits == 8 else 6,
    }
    title = f"[T = SerialEM: simulated {plan.temca_id}     {plan.created_at:%d-%b-%y  %H:%M:%S}    ]\r\n\r\n"
    return _lines(values) + title


def montage_text(plan: SectionPlan, names: Sequence[str], statistics: Sequence[TileStatistics], section: int) -> str:
    """Return the entries of a finished montage.

    Parameters
    ----------
    names : names of the images' entries, as in `Image = run_0000.tif`.
    """
    pieces = (
        piece_text(plan, tile, name, measured, section, is_aligned=True)
        for tile, name, measured in zip(plan.tiles, names, statistics, strict=True)
    )
    rows, columns = (max(getattr(tile, name) for tile in plan.tiles) + 1 for name in ("raster_row", "raster_col"))
    step_x, step_y = _steps(plan)
    size = f"{(columns - 1) * step_x + plan.camera.width} {(rows - 1) * step_y + plan.camera.height}"
    values = {
        "PixelSpacing": f"{10 * plan.pixel_size_nm:g}",
        "NavigatorLabel": plan.z_index,
        "FullMontSize": size,
        "MoveStage": 1,
        "FullMontNumFrames": f"{columns} {rows}",
    }
    return "".join(pieces) + f"[MontSection = {section}]\r\n" + _lines(values)


def piece_text(
    plan: SectionPlan, tile: TilePlan, name: str, measured: TileStatistics, section: int, *, is_aligned: bool
) -> str:
    """Return the entry of an image."""
    step_x, step_y = _steps(plan)
    bottom = max(each.raster_row for each in plan.tiles)
    x, y = tile.raster_col * step_x, (bottom - tile.raster_row) * step_y
    aligned_x = tile.left_px - min(each.left_px for each in plan.tiles)
    aligned_y = max(each.top_px for each in plan.tiles) - tile.top_px
    values: dict[str, object] = {
        "PieceCoordinates": f"{x} {y} {section}",
        "MinMaxMean": f"{measured.minimum // 257} {measured.maximum // 257} {measured.mean / 257:g}",
        "StagePosition": f"{tile.stage_x_nm / 1000:g} {tile.stage_y_nm / 1000:g}",
        "StageZ": -0.635793,
        "Magnification": 5000,
        "PixelSpacing": f"{10 * plan.pixel_size_nm:g}",
        "ImageShift": "0 0",
        "Binning": 1,
        "CameraIndex": 0,
        "DateTime": f"{tile.exposed_at:%d-%b-%y  %H:%M:%S}",
        "NavigatorLabel": plan.z_index,
        "UncroppedSize": f"-{plan.camera.width} -{plan.camera.height}",
    }
    if is_aligned:
        values["AlignedPieceCoordsVS"] = f"{aligned_x} {aligned_y} {section}"
        if tile.above is not None:
            values["YedgeDxyVS"] = f"0.5 -1.25 {_CORRELATION}"
    return f"[{name}]\r\n" + _lines(values)


def _steps(plan: SectionPlan) -> tuple[int, int]:
    """Return the distance between two columns and between two rows, pixels."""
    return round(plan.camera.width * (1 - plan.overlap)), round(plan.camera.height * (1 - plan.overlap))


def _lines(values: dict[str, object]) -> str:
    return "".join(f"{key} = {value}\r\n" for key, value in values.items()) + "\r\n"
