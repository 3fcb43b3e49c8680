"""Metafiles for tests, in the format of 2018. They are valid unless a test changes them."""

import json
import math
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from handlers.acquisition.acquisition import Acquisition
from handlers.acquisition.formats.pytemca import acquisition_of
from handlers.acquisition.formats.pytemca_parse import parse_metafile
from handlers.acquisition.metafile import Metafile

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
MONTAGE = DATA / "_metadata_20170829130146_295434_5LC_0064_01_redo_001050_0_.json"
LENS_SET = DATA / "_metadata_20170502174048_295434_5LC_0064_01_20170502174047_reference_0_.json"
NO_DATA = f"the real metafiles are not at {DATA}"

NAME = "_metadata_20180601120000_17797_1R_151_000042_0_.json"
Change = Callable[[dict[str, Any], list[dict[str, Any]]], object]


def header() -> dict[str, Any]:
    calibration = {"nm_per_pix": 4, "x_nm_per_pix": 4.0, "y_nm_per_pix": 4, "angle": 90.0}
    return {
        "roi_creation_time": "20180601120000",
        "session_id": "17797_1R_151",
        "grid": "000042",
        "roi_index": 0,
        "specimen_id": "17797_1R",
        "temca_id": "temca2",
        "camera_info": {
            "width": 5504,
            "height": 5504,
            "camera_model": "CB500MG",
            "camera_id": "A5",
            "camera_bpp": 8,
            "pixel_depth": 1,
            "exposure": 103125,
            "gain": 3,
        },
        "calibration": {"highmag": calibration, "lowmag": {**calibration, "nm_per_pix": 259, "x_nm_per_pix": 259.0}},
        "overlap": 0.11,
        "roi_center": [-1000, 2000],
        "aperture_centroid": None,
        "autofocus_value": 0.0,
        "notes": "",
        "placement_id": "",
        "media": "tape",
        "media_id": "0151",
        "z_index": 42,
        "lims_specimen_id": "703198163",
        "objective_focus": 31234,
        "beam_centering": {"beam_center_active": True, "beam_center_changed": False, "offset": [0.1, -0.2]},
        "server_copy_destination": "\\\\server\\share",
        "montage_settings": {},
        "n_edge_matches": 10,
    }


def tile(places: Collection[tuple[int, int]], index: int, col: int, row: int) -> dict[str, Any]:
    step_nm, angle = 5504 * (1 - 0.11) * 4.0, math.radians(90.0)
    x, y = col * step_nm, row * step_nm
    stage = [round(x * math.cos(angle) - y * math.sin(angle)), round(x * math.sin(angle) + y * math.cos(angle))]
    return {
        "img_path": f"20180601{120100 + index // 60 * 100 + index % 60:06d}000_17797_1R_151_000042_0_{col}_{row}.tif",
        "img_meta": {
            "stage_pos": stage,
            "raster_pos": [col, row],
            "raster_index": index,
            "angle": 90.0,
            "pixel_size": 4.0,
            "pixel_size_x_move": 4.0,
            "pixel_size_y_move": 4.0,
            "fps": "2.68" if index else "0.00",
        },
        "min": 14192,
        "max": 65520,
        "mean": 33191,
        "std_dev": 12,
        "focus_score": 21.5,
        "astig_score": 0,
        "astig_angle": 0,
        "matcher": [match(places, 3, col, row), match(places, 2, col, row)],
    }


def match(places: Collection[tuple[int, int]], position: int, col: int, row: int) -> dict[str, Any]:
    is_there = (col, row - 1) in places if position == 3 else (col - 1, row) in places
    return {
        "position": position,
        "row": row,
        "col": col,
        "dX": 1.5,
        "dY": -0.5,
        "dXsd": 0.1,
        "dYsd": 0.2,
        "distance": 1.6,
        "rotation": 0.001,
        "match_quality": 7 if is_there else -1,
    }


def section(change: Change | None = None, *, width: int = 4, height: int = 3) -> list[dict[str, Any]]:
    """A section without a tile at its first corner, as JSON; `change` is called with its header and tiles."""
    places = [(col, row) for row in range(height) for col in range(width) if (col, row) != (0, 0)]
    head, tiles = header(), [tile(places, index, *place) for index, place in enumerate(places)]
    if change is not None:
        change(head, tiles)
    return [{"metadata": head}, {"data": tiles}]


def metafile(change: Change | None = None) -> Metafile:
    return parse_metafile(json.dumps(section(change)).encode(), NAME)


def acquisition(change: Change | None = None) -> Acquisition:
    return acquisition_of(metafile(change))


def flat(change: Change | None = None) -> dict[str, Any]:
    """A section as one JSON object with the keys of header and data."""
    head, data = section(change)
    return {**head, **data}


def key_of(path: tuple[str | int, ...]) -> str:
    """A path as text, as in `data[7].img_meta.angle`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)[1:]


def put(document: Any, key: str, value: object) -> None:
    """Set the value of a key such as `data[7].img_meta.angle`; `...` removes it."""
    *parents, last = [int(step) if step.isdigit() else step for step in re.findall(r"[^.\[\]]+", key)]
    for step in parents:
        document = document[step]
    if value is ...:
        del document[last]
    else:
        document[last] = value
