"""Transforms of tile specs: references, affine models and bounds. Pure."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from daemon.simulator.standin.json_types import Json, Refusal

Corners = list[tuple[float, float]]
"""(x, y), pixels."""


def references(spec: Any) -> Iterator[str]:
    """Yield the ids of the shared transforms that a transform references, at any depth."""
    if not isinstance(spec, dict):
        return
    if spec.get("type") == "ref":
        yield str(spec.get("refId"))
    for inner in (*(spec.get("specList") or ()), spec.get("a"), spec.get("b")):
        yield from references(inner)


def all_references(specs: Iterable[Json], shared: Mapping[str, Json]) -> set[str]:
    """Return the ids of all shared transforms that transforms reference, directly or indirectly."""
    found: set[str] = set()
    ahead = {name for spec in specs for name in references(spec)}
    while ahead:
        found |= ahead
        ahead = {name for key in ahead if key in shared for name in references(shared[key])} - found
    return found


def require_references(tile: Json, shared: Mapping[str, Json]) -> None:
    """Raise Refusal, 400, if a tile references a transform that is not in the upload."""
    missing = sorted(name for name in all_references([tile["transforms"]], shared) if name not in shared)
    if missing:
        raise Refusal(400, f"tile {tile.get('tileId')} requires the following transform ids [{', '.join(missing)}]")


def flattened(spec: Json, shared: Mapping[str, Json]) -> list[Json]:
    """Return the transforms of a list in order, with shared transforms in place of references. Raises Refusal."""
    if spec["type"] == "list":
        return [leaf for inner in spec.get("specList", ()) for leaf in flattened(inner, shared)]
    if spec["type"] == "ref":
        name = str(spec.get("refId"))
        if name not in shared:
            raise Refusal(500, f"transform {name} cannot be found")
        return flattened(shared[name], shared)
    return [spec]


def derive_bounds(tile: Json, shared: Mapping[str, Json]) -> None:
    """Set minX to maxY like render-ws: the least corner is truncated toward zero, the extent is rounded up.

    Corners are sufficient for affine models. Other models, such as lens corrections, are ignored, although they move
    borders by a few pixels. Raises Refusal.
    """
    if "width" not in tile or "height" not in tile:
        raise Refusal(500, "width and height must be set to create a bounding box")
    corners = [(x, y) for x in (0.0, tile["width"]) for y in (0.0, tile["height"])]
    for model in flattened(tile["transforms"], shared):
        corners = _mapped(model, corners, shared)
    for axis, values in zip("XY", zip(*corners, strict=True), strict=True):
        least = float(int(min(values)))
        tile[f"min{axis}"] = least
        tile[f"max{axis}"] = least + math.ceil(max(values) - min(values))


def _mapped(model: Json, corners: Corners, shared: Mapping[str, Json]) -> Corners:
    if model["type"] == "interpolated":
        return _blended(model, corners, shared)
    m00, m10, m01, m11, tx, ty = _matrix(model)
    return [(m00 * x + m01 * y + tx, m10 * x + m11 * y + ty) for x, y in corners]


def _blended(model: Json, corners: Corners, shared: Mapping[str, Json]) -> Corners:
    ends = []
    for end in (model["a"], model["b"]):
        moved = corners
        for inner in flattened(end, shared):
            moved = _mapped(inner, moved, shared)
        ends.append(moved)
    share = model.get("lambda", 0.0)
    return [(x + share * (u - x), y + share * (v - y)) for (x, y), (u, v) in zip(*ends, strict=True)]


_IDENTITY = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)
_TRAKEM2 = "mpicbg.trakem2.transform."
_COUNTS = {"AffineModel2D": 6, "SimilarityModel2D": 4, "RigidModel2D": 3, "TranslationModel2D": 2}


def _matrix(model: Json) -> tuple[float, ...]:
    """Return m00, m10, m01, m11, tx, ty of a leaf. Raises Refusal, 400, for classes that render-ws does not have."""
    name, data = str(model.get("className")), str(model.get("dataString", ""))
    if not name.startswith((_TRAKEM2, "mpicbg.", "lenscorrection.", "org.janelia.")):
        raise Refusal(400, f"transform class '{name}' cannot be found")
    kind = name.removeprefix(_TRAKEM2)
    if kind not in _COUNTS:
        return _IDENTITY
    try:
        numbers = [float(part) for part in data.split()]
    except ValueError:
        numbers = []
    if len(numbers) != _COUNTS[kind]:
        raise Refusal(400, f"Inappropriate parameters for {name}")
    if kind == "AffineModel2D":
        return tuple(numbers)
    *turn, tx, ty = numbers
    angle = turn[-1] if turn else 0.0
    scale = turn[0] if len(turn) == 2 else 1.0
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    return (cosine, sine, -sine, cosine, tx, ty)
