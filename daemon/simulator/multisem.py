"""Write a section as a Zeiss MultiSEM of 2022: one slab of one scan, a PNG for each beam, then the table."""

import io
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from daemon.simulator.delivery import Delivery, Written, deliver
from daemon.simulator.frames import Frame, FrameSource
from daemon.simulator.section import SectionPlan, TilePlan

BEAMS = 91
"""Number of beams, and so of images, of one mFOV."""


def write_slab(
    plan: SectionPlan,
    root: Path,
    source: FrameSource,
    *,
    metafile_first: bool,
    delivery: Delivery,
    report: Callable[[Path], None],
) -> Written:
    """Write a section below `root`; arguments as for `write_section`."""
    region = region_directory(plan, root)
    table, content = region / "full_image_coordinates.txt", table_bytes(plan)
    names = [image_name(plan, tile) for tile in plan.tiles]
    region.mkdir(parents=True, exist_ok=True)
    if metafile_first:
        deliver(table, content, delivery)
        report(table)
    for tile, name in zip(plan.tiles, names, strict=True):
        image = region / name
        image.parent.mkdir(exist_ok=True)
        deliver(image, png_bytes(source.frame(tile)), delivery)
        report(image)
        time.sleep(delivery.tile_pause_s)
    if not metafile_first:
        deliver(table, content, delivery)
        report(table)
    return Written(region, table, tuple(region / name for name in names))


def region_directory(plan: SectionPlan, root: Path) -> Path:
    """Return the directory of a slab's region: wafer, scan, time of the scan, slab."""
    wafer, scan = f"wafer_{plan.specimen_id}", f"scan_{plan.z_index:03d}"
    started = plan.created_at.strftime("%Y%m%d_%H-%M-%S")
    return root / wafer / "imaging" / "msem" / scan / f"{wafer}_{scan}_{started}" / f"{plan.roi_index + 1:03d}_"


def image_name(plan: SectionPlan, tile: TilePlan) -> str:
    """Return the path of a tile's image below the region."""
    mfov, beam = divmod(tile.raster_index, BEAMS)
    at = f"{tile.exposed_at:%Y-%m-%dT%H%M%S}{tile.exposed_at.microsecond * 10:07d}"
    return f"{mfov + 1:06d}/{plan.roi_index + 1:03d}_{mfov + 1:06d}_{beam + 1:03d}_{at}.png"


def table_bytes(plan: SectionPlan) -> bytes:
    """Return the coordinate table: pixels with three decimals, far from the origin."""
    far = 2_000_000

    def line(tile: TilePlan) -> str:
        name = image_name(plan, tile).replace("/", "\\")
        return f"{name}\t{tile.left_px + far:.3f}\t{tile.top_px + far:.3f}\t0\r\n"

    return "".join(map(line, plan.tiles)).encode()


def png_bytes(frame: Frame) -> bytes:
    """Return a frame as a grey PNG with its bit depth."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "PNG", compress_level=1)
    return file.getvalue()
