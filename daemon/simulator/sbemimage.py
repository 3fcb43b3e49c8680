"""Write a slice as SBEMimage: its images, a line in the run's log for each, and a line that closes the slice.

All slices of one root belong to one run, whose log grows. Each line is written whole, unless the delivery writes in
pieces.
"""

import time
from collections.abc import Callable
from pathlib import Path

from daemon.simulator.delivery import Delivery, Written, append, deliver
from daemon.simulator.frames import FrameSource, tiff_bytes
from daemon.simulator.section import SectionPlan, TilePlan
from handlers.acquisition.section_path import Part

THICKNESS_NM = 50


def write_slice(
    plan: SectionPlan,
    root: Path,
    source: FrameSource,
    *,
    metafile_first: bool,
    delivery: Delivery,
    report: Callable[[Path], None],
) -> Written:
    """Write a section below `root`; arguments as for `write_section`."""
    base = root / plan.specimen_id
    log = base / "meta" / "logs" / f"metadata_{plan.created_at:%Y-%m-%d}{0:08d}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    earlier = sorted(log.parent.glob("metadata_*.txt"))
    log = earlier[-1] if earlier else log
    if not earlier:
        log.write_text(session_line(plan), newline="")
    images = tuple(base / image_name(plan, tile) for tile in plan.tiles)
    offset = log.stat().st_size
    lines = "".join(tile_line(plan, tile) for tile in plan.tiles) + complete_line(plan)
    if metafile_first:
        append(log, lines, delivery)
        report(log)
    for tile, image in zip(plan.tiles, images, strict=True):
        image.parent.mkdir(parents=True, exist_ok=True)
        deliver(image, tiff_bytes(source.frame(tile)), delivery)
        report(image)
        if not metafile_first:
            append(log, tile_line(plan, tile), delivery)
        time.sleep(delivery.tile_pause_s)
    if not metafile_first:
        append(log, complete_line(plan), delivery)
        report(log)
    return Written(base, Part(log, plan.z_index, offset).path, images)


def image_name(plan: SectionPlan, tile: TilePlan) -> str:
    """Return the path of a tile's image below the base directory."""
    number = tile.raster_index
    return f"tiles/g0000/t{number:04d}/{plan.specimen_id}_g0000_t{number:04d}_s{plan.z_index:05d}.tif"


def session_line(plan: SectionPlan) -> str:
    """Return the first line of a run's log."""
    return _line(
        "SESSION",
        {
            "timestamp": int(plan.created_at.timestamp()),
            "eht": 1.5,
            "beam_current": 320,
            "wd_stig_xy_default": [0.0062, -0.014, 1.094],
            "slice_thickness": THICKNESS_NM,
            "grids": ["0000"],
            "grid_origins": [[75.806, 3.315]],
            "rotation_angles": [0.0],
            "pixel_sizes": [plan.pixel_size_nm],
            "dwell_times": [0.8],
            "contrast": 98.9,
            "brightness": 15.9,
            "email_addresses: ": ["operator@example.org", ""],
        },
    )


def tile_line(plan: SectionPlan, tile: TilePlan) -> str:
    """Return the line of a tile."""
    return _line(
        "TILE",
        {
            "tileid": f"0000.{tile.raster_index:04d}.{plan.z_index:05d}",
            "timestamp": int(tile.exposed_at.timestamp()),
            "slice_counter": plan.z_index,
            "filename": image_name(plan, tile),
            "tile_width": plan.camera.width,
            "tile_height": plan.camera.height,
            "wd_stig_xy": [0.00625, -0.014, 1.094],
            "glob_x": round(tile.left_px * plan.pixel_size_nm),
            "glob_y": round(tile.top_px * plan.pixel_size_nm),
            "glob_z": plan.z_index * THICKNESS_NM,
        },
    )


def complete_line(plan: SectionPlan) -> str:
    """Return the line that closes a slice. It contains the number of the next slice."""
    at = int(plan.tiles[-1].exposed_at.timestamp()) + 20
    return _line("SLICE COMPLETE", {"timestamp": at, "completed_slice": plan.z_index + 1})


def _line(kind: str, values: dict[str, object]) -> str:
    return f"{kind}: {values}\r\n"
