"""Sections for the daemon: real metafiles, and images that are links to one file.

A section of 20,000 tiles of 30 MB takes the space of one tile. The daemon does the same work for it: it opens, reads,
decodes, writes and reads back each tile.
"""

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from daemon.simulator.frames import tiff_bytes
from daemon.simulator.pytemca import TileStatistics, metafile_bytes
from daemon.simulator.section import SectionPlan, plan_section

AGE_S = 3600
MAX_LINKS = 60_000
"""Largest number of links to one file; ext4 allows 65,000."""
_STATISTICS = TileStatistics(minimum=10_000, maximum=50_000, mean=32_000, std_dev=30, focus_score=22.0)


def tissue_like(size: tuple[int, int], bits: int = 8) -> np.ndarray:
    """Return a frame (H, W) of grains of four pixels, which compresses and rounds like a real image."""
    width, height = size
    shape = (-(-height // 4), -(-width // 4))
    grains = np.random.default_rng(0).integers(40, 220, shape, np.uint8)
    frame = grains.repeat(4, axis=0).repeat(4, axis=1)[:height, :width]
    return frame if bits == 8 else frame.astype(np.uint16) * 257


def write_image(path: Path, size: tuple[int, int], bits: int = 8) -> Path:
    """Write an uncompressed TIFF whose times are an hour ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tiff_bytes(tissue_like(size, bits)))
    age(path)
    return path


def plan(tiles: int, size: tuple[int, int], number: int, *, temca: str = "temca2", bits: int = 8) -> SectionPlan:
    """Return the plan of section number `number`, counted from 0."""
    return plan_section(
        tiles=tiles,
        size=size,
        bits=bits,
        grid=1000 + number,
        temca_id=temca,
        specimen_id=f"{temca}_block",
        created_at=datetime(2024, 5, 1, tzinfo=UTC) + timedelta(minutes=number),
    )


def link_images(section: SectionPlan, root: Path, image: Path) -> None:
    """Make the directory and the images of a section, each image a link to `image`."""
    directory = Path(root, section.directory)
    directory.mkdir(parents=True, exist_ok=True)
    for tile in section.tiles:
        if image.stat().st_nlink >= MAX_LINKS:
            _replace_by_copy(image)
        os.link(image, directory / tile.image_name)


def _replace_by_copy(image: Path) -> None:
    """Replace an image by a copy, which has no other link."""
    copy = image.with_suffix(".copy")
    shutil.copyfile(image, copy)
    copy.replace(image)


def metafile_text(section: SectionPlan) -> bytes:
    """Return the section's metafile."""
    return metafile_bytes(section, [_STATISTICS] * len(section.tiles))


def put_metafile(section: SectionPlan, root: Path) -> Path:
    """Write the metafile under a temporary name and rename it."""
    path = Path(root, section.directory, section.metafile_name)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(metafile_text(section))
    part.replace(path)
    return path


def age(path: Path) -> None:
    """Set the times of a file back, so that it settles at once."""
    then = path.stat().st_mtime - AGE_S
    os.utime(path, (then, then))
