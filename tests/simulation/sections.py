"""Small sections as a microscope writes them. Their tiles have 8 x 8 pixels of one grey value."""

import functools
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

SIDE = 8
_OVERLAP = 0.25
_NM = 4.0
_ANGLE_DEG = 90.0
_SPECIMEN = "17797_1R"


@dataclass(frozen=True, slots=True)
class Section:
    """One region of one section, which may be imaged several times."""

    grid: int
    """Also its z."""
    roi_index: int

    @property
    def stem(self) -> str:
        """Common part of the names of its files."""
        return f"{_SPECIMEN}_151_{self.grid:06d}_{self.roi_index}"

    @property
    def metafile_name(self) -> str:
        """Name of its metafile."""
        return f"_metadata_20180601120000_{self.stem}_.json"

    def images(self, version: int) -> dict[str, bytes]:
        """Return the images of a version by name."""
        return {
            self.image_name(index, *place): tiff(grey(self, version, index))
            for index, place in enumerate(_places(version))
        }

    def image_name(self, index: int, col: int, row: int) -> str:
        """Return the name of a tile's image: the same in every version."""
        return f"201806011201{index:02d}000_{self.stem}_{col}_{row}.tif"

    def metafile(self, version: int) -> bytes:
        """Return the content of the metafile of a version."""
        places = _places(version)
        tiles = [_tile(self, version, index, *place) for index, place in enumerate(places)]
        return json.dumps([{"metadata": _header(self, version)}, {"data": tiles}]).encode()


FEWER = 3
"""The version that has one tile less than the others."""
VERSIONS = 4


def _places(version: int) -> list[tuple[int, int]]:
    return [(0, 0), (1, 0)] if version == FEWER else [(0, 0), (1, 0), (0, 1)]


def grey(section: Section, version: int, index: int) -> int:
    """Return the grey value of a tile. Versions 0 and 1 have the same images and different metafiles."""
    shown = 0 if version == 1 else version
    return 20 + (section.grid * 7 + section.roi_index * 29 + index * 13 + shown * 50) % 200


@functools.cache
def tiff(value: int) -> bytes:
    """Return an image with one grey value."""
    file = io.BytesIO()
    Image.new("L", (SIDE, SIDE), value).save(file, "TIFF")
    return file.getvalue()


def _header(section: Section, version: int) -> dict[str, Any]:
    calibration = {"nm_per_pix": _NM, "x_nm_per_pix": _NM, "y_nm_per_pix": _NM, "angle": _ANGLE_DEG}
    return {
        "roi_creation_time": "20180601120000",
        "session_id": f"{_SPECIMEN}_151",
        "grid": f"{section.grid:06d}",
        "roi_index": section.roi_index,
        "specimen_id": _SPECIMEN,
        "temca_id": "temca2",
        "camera_info": {"width": SIDE, "height": SIDE, "camera_id": "A5"},
        "calibration": {"highmag": calibration, "lowmag": calibration},
        "overlap": _OVERLAP,
        "media": "tape",
        "media_id": "0151",
        "notes": f"version {version}",
    }


def _tile(section: Section, version: int, index: int, col: int, row: int) -> dict[str, Any]:
    step_nm, angle = SIDE * (1 - _OVERLAP) * _NM, math.radians(_ANGLE_DEG)
    x, y = col * step_nm, row * step_nm
    offset = 10_000 * version  # each version has other coordinates, so that a stack with tiles of two versions is found
    stage = [
        round(x * math.cos(angle) - y * math.sin(angle)) + offset,
        round(x * math.sin(angle) + y * math.cos(angle)),
    ]
    return {
        "img_path": section.image_name(index, col, row),
        "img_meta": {
            "stage_pos": stage,
            "raster_pos": [col, row],
            "raster_index": index,
            "angle": _ANGLE_DEG,
            "pixel_size": _NM,
            "pixel_size_x_move": _NM,
            "pixel_size_y_move": _NM,
        },
    }


@dataclass
class Slot:
    """The files of a section: where they are, and which version they have."""

    section: Section
    directory: Path
    name: str
    version: int = 0
    moves: int = 0

    @property
    def metafile(self) -> Path:
        """Path of its metafile, which may not exist."""
        return self.directory / self.name
