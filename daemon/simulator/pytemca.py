"""Make the metafile that pyTEMCA writes for a section, with all keys of the format since 2018."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import hypot
from typing import Any

from daemon.simulator.section import SectionPlan, TilePlan

_EDGE_MATCHES = 3


class MetafileForm(StrEnum):
    """Layout of a metafile's JSON. Real files vary in white space and container."""

    TILE_PER_LINE = "tile-per-line"
    """Header indented by 1, one tile on each line: most files since 2017."""
    INDENT_1 = "indent-1"
    INDENT_2 = "indent-2"
    COMPACT = "compact"
    """One line."""
    FLAT = "flat"
    """One object with the keys `metadata` and `data` instead of a list of two."""


@dataclass(frozen=True, slots=True)
class TileStatistics:
    """Statistics of a frame, in the units of the metafile."""

    minimum: int
    maximum: int
    mean: int
    """0 to 65535 for every bit depth."""
    std_dev: int
    """0 to 255."""
    focus_score: float


def metafile_bytes(
    plan: SectionPlan,
    statistics: Sequence[TileStatistics],
    form: MetafileForm = MetafileForm.TILE_PER_LINE,
    appended: Mapping[str, Any] | None = None,
) -> bytes:
    """Return the metafile's text.

    Parameters
    ----------
    statistics : statistics of the tiles, in the order of the plan.
    appended : a third element, such as {"sharedTransform": {...}}; None: no third element.
    """
    tiles = [_tile_record(plan, tile, measured) for tile, measured in zip(plan.tiles, statistics, strict=True)]
    extra = [dict(appended)] if appended else []
    if form is MetafileForm.FLAT:
        flat = {"metadata": _header(plan), "data": tiles}
        return json.dumps({**flat, **(extra[0] if extra else {})}).encode()
    if form is MetafileForm.TILE_PER_LINE:
        return _tile_per_line(_header(plan), tiles, extra).encode()
    indent = {MetafileForm.INDENT_1: 1, MetafileForm.INDENT_2: 2}.get(form)
    return json.dumps([{"metadata": _header(plan)}, {"data": tiles}, *extra], indent=indent).encode()


def _tile_per_line(header: Mapping[str, Any], tiles: Iterable[Mapping[str, Any]], extra: Iterable[Any]) -> str:
    head = json.dumps([{"metadata": header}], indent=1).removesuffix("\n]")
    lines = ",\n".join(json.dumps(tile) for tile in tiles)
    more = "".join(",\n " + json.dumps(element) for element in extra)
    return f'{head},\n {{\n  "data": [\n{lines} ]\n }}{more}\n]'


def _header(plan: SectionPlan) -> dict[str, Any]:
    camera = plan.camera
    return {
        "roi_creation_time": plan.created_at.strftime("%Y%m%d%H%M%S"),
        "session_id": plan.session_id,
        "grid": plan.grid,
        "roi_index": plan.roi_index,
        "specimen_id": plan.specimen_id,
        "lims_specimen_id": plan.lims_specimen_id,
        "temca_id": plan.temca_id,
        "media": "tape",
        "media_id": plan.media_id,
        "z_index": plan.z_index,
        "placement_id": "",
        "notes": "",
        "overlap": plan.overlap,
        "roi_center": list(plan.roi_center_nm),
        "aperture_centroid": {"x": plan.roi_center_nm[0] + 41740, "y": plan.roi_center_nm[1] + 35788},
        "autofocus_value": 22.789662043253582,
        "objective_focus": 2437,
        "camera_info": {
            "width": camera.width,
            "height": camera.height,
            "pixel_depth": 1 if camera.bits == 8 else 2,
            "camera_bpp": camera.bits,
            "camera_model": camera.camera_model,
            "camera_id": camera.camera_id,
            "exposure": 103125,
            "gain": 3200,
        },
        "calibration": {
            # Real headers mix integers and floats here.
            "lowmag": {"nm_per_pix": 259.0, "x_nm_per_pix": 259, "y_nm_per_pix": 259, "angle": 123.4},
            "highmag": {
                "nm_per_pix": plan.pixel_size_nm,
                "x_nm_per_pix": plan.pixel_size_nm,
                "y_nm_per_pix": plan.pixel_size_nm,
                "angle": plan.angle_deg,
            },
        },
        "beam_centering": {"beam_center_active": False, "beam_center_changed": False, "offset": [0.0, 0.0]},
        "server_copy_destination": f"//storage/{plan.project}/{plan.temca_id.upper()}",
        "montage_settings": {},
        "n_edge_matches": _EDGE_MATCHES,
    }


def _tile_record(plan: SectionPlan, tile: TilePlan, measured: TileStatistics) -> dict[str, Any]:
    elapsed_s = (tile.exposed_at - plan.tiles[0].exposed_at).total_seconds()
    return {
        "img_path": tile.image_name,
        "img_meta": {
            "raster_index": tile.raster_index,
            "raster_pos": [tile.raster_col, tile.raster_row],
            "stage_pos": [tile.stage_x_nm, tile.stage_y_nm],
            "angle": plan.angle_deg,
            "pixel_size": plan.pixel_size_nm,
            "pixel_size_x_move": plan.pixel_size_nm,
            "pixel_size_y_move": plan.pixel_size_nm,
            "fps": f"{tile.raster_index / elapsed_s if elapsed_s else 0:.2f}",
        },
        "min": measured.minimum,
        "max": measured.maximum,
        "mean": measured.mean,
        "std_dev": measured.std_dev,
        "focus_score": measured.focus_score,
        "astig_score": 0,
        "astig_angle": 0,
        "matcher": [_edge(plan, tile, 3, tile.above), _edge(plan, tile, 2, tile.before)],
    }


def _edge(plan: SectionPlan, tile: TilePlan, position: int, neighbour: int | None) -> dict[str, Any]:
    """Return the match with an earlier neighbour: position 3 above, 2 on the left. Quality -1: no neighbour."""
    edge = {"position": position, "row": tile.raster_row, "col": tile.raster_col}
    if neighbour is None:
        return edge | {"match_quality": -1} | dict.fromkeys(("dX", "dY", "dXsd", "dYsd", "distance", "rotation"), 0.0)
    other = plan.tiles[neighbour]
    step = 1 - plan.overlap
    dx = tile.left_px - other.left_px - (step * plan.camera.width if position == 2 else 0)
    dy = tile.top_px - other.top_px - (step * plan.camera.height if position == 3 else 0)
    return edge | {
        "match_quality": _EDGE_MATCHES,
        "dX": round(dx, 4),
        "dY": round(dy, 4),
        "dXsd": 0.25,
        "dYsd": 0.25,
        "distance": round(hypot(dx, dy), 4),
        "rotation": 0.0,
    }
