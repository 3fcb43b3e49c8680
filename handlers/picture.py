"""Pictures of a section, composed from the image files and transforms of its tile specs."""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from handlers.errors import Fault, ImageFault
from handlers.images.decode import read_image
from handlers.path_map import NO_MAP
from handlers.place import Place

Json = Mapping[str, Any]
Grey = npt.NDArray[np.uint8]
"""(height, width), 0 black to 255 white."""
Affine = npt.NDArray[np.float64]
"""(3, 3), from a tile's pixels to the section's."""


class Finder(Protocol):
    """Finds the files that a stack names; a `PathMap` is one."""

    def to_path(self, url: str) -> Place:
        """Return the place of a URL's file. Raises a Fault if it has none."""


STRIPES, STRIPES_OPACITY = (60, 200), 90
"""Greys of the stripes of a missing tile, 0 to 255, and their opacity: the page shows through, so that they suit light
and dark pages and do not look like tissue."""
_TOLERANCE = 1e-6
"""Largest deviation from the identity for a tile to count as neither rotated nor scaled."""


def compose_section(
    resolved_tiles: Json,
    *,
    level: int | None = None,
    max_px: int = 2048,
    background: int = 0,
    path_map: Finder = NO_MAP,
) -> Grey:
    """Draw all tiles of `resolved_tiles` (render's transformIdToSpecMap and tileIdToSpecMap), later ids on top.

    Affine and translation models are applied, also those of shared transforms. Other models, such as lens corrections,
    are ignored, since they are invisible at the scale of a picture.

    Parameters
    ----------
    level : the picture is reduced by 2**level; None: the smallest level at which it fits `max_px` in both directions.
        A tile without that mipmap level is reduced from its next lower level.
    max_px : largest width and height of the picture, if `level` is None.
    background : grey where there is no tile, 0 black to 255 white.
    path_map : finds the files that the stack names.

    Raises
    ------
    ImageFault
        If an image file is missing, cannot be decoded, or does not have the size of its level.
    Fault
        If there is no tile, or a tile spec is invalid.
    """
    placed = _all_checked(resolved_tiles)
    canvas = _canvas(placed, level, max_px, background)
    for tile in placed:
        _paste(canvas, tile, _reduced(tile, canvas.level, path_map))
    return canvas.grey


@dataclass(frozen=True, slots=True)
class MosaicJob:
    """A mosaic for a worker to draw."""

    tile_id: str
    """Name of the job, for the report if a worker dies."""
    resolved_tiles: Json
    """As for `compose_section`, but with places instead of URLs."""
    max_px: int


def draw_mosaic(job: MosaicJob) -> bytes:
    """Return the mosaic as PNG, transparent where there is no tile, striped for a tile whose image cannot be read."""
    placed = _all_checked(job.resolved_tiles)
    canvas = _canvas(placed, None, job.max_px, 0, max(min(tile.images) for tile in placed))
    opacity = np.zeros_like(canvas.grey)
    for tile in placed:
        try:
            _paste(canvas, tile, _reduced(tile, canvas.level, NO_MAP), opacity)
        except ImageFault:
            _paste(canvas, tile, _stripes(tile, canvas.level), opacity, STRIPES_OPACITY)
    file = io.BytesIO()
    picture = Image.merge("LA", (Image.fromarray(canvas.grey), Image.fromarray(opacity)))
    picture.save(file, "PNG", compress_level=3)
    return file.getvalue()


def save_picture(picture: Grey, path: Path, greys: int = 256) -> None:
    """Write a PNG under another name and rename it. Fewer distinct `greys` make a smaller file."""
    if greys < 256:
        step = 255 / (greys - 1)
        picture = np.rint(np.rint(picture / step) * step).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name[:50]}.part")  # a name has at most 255 bytes
    Image.fromarray(picture).save(part, "PNG", optimize=True)
    part.replace(path)


@dataclass(frozen=True, slots=True)
class _Placed:
    """A tile as the stack describes it."""

    tile_id: str
    width: int
    height: int
    range: tuple[float, float]
    """Pixel values that become black and white, for images of more than 8 bits."""
    images: Mapping[int, str | Place]
    """Level -> URL or place."""
    masks: Mapping[int, str | Place]
    transform: Affine


@dataclass(frozen=True, slots=True)
class _Canvas:
    """A picture that tiles are drawn into."""

    grey: Grey
    level: int
    to_picture: Affine
    """From the section's pixels to the picture's."""


def _canvas(
    tiles: Sequence[_Placed], level: int | None, max_px: int, background: int, lowest_level: int = 0
) -> _Canvas:
    left, top, right, bottom = _bounds(tiles)
    if level is None:
        level = max(lowest_level, math.ceil(math.log2(max(right - left, bottom - top) / max_px)))
    scale = 2**level
    shape = (max(1, int((bottom - top) / scale)), max(1, int((right - left) / scale)))
    to_picture = np.diag([1 / scale, 1 / scale, 1]) @ np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1]])
    return _Canvas(np.full(shape, background, np.uint8), level, to_picture)


def _all_checked(resolved_tiles: Json) -> list[_Placed]:
    """Return the tiles in order of their ids."""
    shared = resolved_tiles.get("transformIdToSpecMap") or {}
    specs = resolved_tiles.get("tileIdToSpecMap") or {}
    if not specs:
        raise Fault("picture", "the stack has no tiles at this z")
    return [_checked(tile_id, specs[tile_id], shared) for tile_id in sorted(specs)]


def _checked(tile_id: str, spec: Json, shared: Mapping[str, Json]) -> _Placed:
    try:
        return _placed(spec, shared)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Fault(f"tile {tile_id}", f"should be a tile spec with size, images and transforms: {error!r}") from error


def _placed(spec: Json, shared: Mapping[str, Json]) -> _Placed:
    levels = {int(level): urls for level, urls in spec["mipmapLevels"].items()}
    return _Placed(
        tile_id=spec["tileId"],
        width=int(spec["width"]),
        height=int(spec["height"]),
        range=(float(spec.get("minIntensity") or 0), float(spec.get("maxIntensity") or 255)),
        images={level: urls["imageUrl"] for level, urls in levels.items()},
        masks={level: urls["maskUrl"] for level, urls in levels.items() if urls.get("maskUrl")},
        transform=_affine(spec.get("transforms") or {"type": "list", "specList": []}, shared),
    )


def _affine(transform: Json, shared: Mapping[str, Json]) -> Affine:
    """Return the affine matrix of a transform; the identity for a model that is not affine."""
    match transform.get("type", "leaf"):
        case "list":
            whole = np.eye(3)
            for part in transform["specList"]:
                whole = _affine(part, shared) @ whole
            return whole
        case "ref" if transform["refId"] in shared:
            return _affine(shared[transform["refId"]], shared)
        case "leaf":
            return _leaf(transform["className"].rpartition(".")[2], transform["dataString"])
    return np.eye(3)


def _leaf(model: str, text: str) -> Affine:
    numbers = [float(number) for number in text.split()] if model in ("AffineModel2D", "TranslationModel2D") else []
    match numbers:
        case [a, b, c, d, x, y]:
            return np.array([[a, c, x], [b, d, y], [0, 0, 1]])
        case [x, y]:
            return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])
    return np.eye(3)


def _bounds(tiles: Iterable[_Placed]) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom in the section's pixels."""
    corners = np.hstack([tile.transform @ _corners(tile.width, tile.height) for tile in tiles])
    left, top, _ = np.floor(corners.min(axis=1) + _TOLERANCE)
    right, bottom, _ = np.ceil(corners.max(axis=1) - _TOLERANCE)
    return float(left), float(top), float(right), float(bottom)


def _corners(width: int, height: int) -> Affine:
    return np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]], np.float64)


def _reduced(tile: _Placed, level: int, path_map: Finder) -> npt.NDArray[np.uint8]:
    """Return the tile at a level, (height, width, 2): grey and opacity."""
    stored = max((n for n in tile.images if n <= level), default=min(tile.images))
    grey = _read(tile, stored, _place(tile.images[stored], path_map))
    if grey.dtype != np.uint8:
        black, white = tile.range
        grey = np.clip((grey - black) * (255 / max(white - black, 1)), 0, 255)
    opacity = (
        _read(tile, stored, _place(tile.masks[stored], path_map), mask=True)
        if stored in tile.masks
        else np.full(grey.shape, 255, np.uint8)
    )
    both = np.dstack([grey, np.where(opacity > 0, 255, 0)])
    factor = 2 ** max(0, level - stored)
    height, width = both.shape[0] // factor, both.shape[1] // factor
    blocks = both[: height * factor, : width * factor].reshape(height, factor, width, factor, 2)
    reduced: npt.NDArray[np.uint8] = np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)
    return reduced


def _stripes(tile: _Placed, level: int) -> npt.NDArray[np.uint8]:
    """Return stripes in the size of the tile at a level, in the form of `_reduced`."""
    y, x = np.indices((max(1, tile.height >> level), max(1, tile.width >> level)))
    stripes = np.where((x + y) // 4 % 2 == 0, *STRIPES)
    return np.dstack([stripes, np.full_like(stripes, 255)]).astype(np.uint8)


def _place(url: str | Place, path_map: Finder) -> Place:
    return path_map.to_path(url) if isinstance(url, str) else url


def _read(tile: _Placed, level: int, path: Place, *, mask: bool = False) -> npt.NDArray[Any]:
    try:
        return read_image(path, tile.width >> level, tile.height >> level, mask=mask)[0]
    except Fault as fault:
        problem = f"cannot be used for a picture of tile {tile.tile_id}, level {level}: {fault.problem}"
        raise ImageFault(str(path), problem, fault.hint) from fault


def _paste(
    canvas: _Canvas, tile: _Placed, pixels: npt.NDArray[np.uint8], opacity: Grey | None = None, shown: int = 255
) -> None:
    """Draw the opaque pixels of a tile into the picture, and set the picture's opacity there."""
    scale = 2**canvas.level
    to_picture = canvas.to_picture @ tile.transform @ np.diag([scale, scale, 1])
    if not np.allclose(to_picture[:2, :2], np.eye(2), atol=_TOLERANCE):
        pixels, to_picture = _resampled(pixels, to_picture)
    x, y = round(to_picture[0, 2]), round(to_picture[1, 2])
    height, width = canvas.grey.shape
    rows = slice(max(0, y), min(height, y + pixels.shape[0]))
    columns = slice(max(0, x), min(width, x + pixels.shape[1]))
    part = pixels[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
    is_opaque = part[..., 1] == 255
    np.copyto(canvas.grey[rows, columns], part[..., 0], where=is_opaque)
    if opacity is not None:
        opacity[rows, columns][is_opaque] = shown


def _resampled(tile: npt.NDArray[np.uint8], to_picture: Affine) -> tuple[npt.NDArray[np.uint8], Affine]:
    """Return the tile resampled into its bounding box, and the position of that box."""
    corners = to_picture @ _corners(tile.shape[1], tile.shape[0])
    (left, top), (right, bottom) = np.floor(corners.min(axis=1)[:2]), np.ceil(corners.max(axis=1)[:2])
    place = np.array([[1, 0, left], [0, 1, top], [0, 0, 1]])
    back = np.linalg.inv(to_picture) @ place
    resampled = Image.fromarray(tile, "LA").transform(
        (int(right - left), int(bottom - top)),
        Image.Transform.AFFINE,
        back[:2].ravel().tolist(),
        Image.Resampling.BILINEAR,
    )
    return np.asarray(resampled), place
