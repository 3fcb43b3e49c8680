"""The tile spec, render's record of a tile, and how tile specs follow from a metafile. Pure."""

import hashlib
import math
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from handlers.acquisition.geometry import Point
from handlers.acquisition.image_names import require_contained
from handlers.acquisition.metafile import Metafile, TileRecord
from handlers.errors import MetafileFault, SettingsFault
from handlers.uris import path_to_uri, quoted

Json = Mapping[str, Any]

DEFAULT_TILE_ID: Final = "{basename}.{z}"
"""That of asap-modules."""

_AFFINE: Final = "mpicbg.trakem2.transform.AffineModel2D"
_EXAMPLES = 3


TileSpec = dict[str, Any]
"""Render's record of a tile, as it goes over the wire: id, z, size, intensity range, layout, mipmap levels, transforms.

What others have put into one stays: no class of ours stands between."""


class Positions(StrEnum):
    """How the position of a tile in pixels becomes its translation."""

    INTEGER = "integer"
    """Truncated toward zero before the origin is subtracted, as asap-modules does."""
    EXACT = "exact"
    """As computed, written with ten decimals."""


class Origin(StrEnum):
    """What the translations of the tiles are counted from."""

    ROI = "roi"
    """The smallest x and y of the region's own tiles: every region begins at (0, 0)."""
    STAGE = "stage"
    """The origin of the stage, turned into the camera frame: regions of one z keep their places to each other."""


@dataclass(frozen=True, slots=True)
class TileSpecOptions:
    """What the user decides about tile specs. Raises SettingsFault, subject the setting, for what cannot be obeyed."""

    minimum_intensity: int = 0
    maximum_intensity: int = 255
    section_id: str | None = None
    """None: z as a float in decimal, as in `1050.0`."""
    mask: Path | None = None
    """One mask image for every tile, absolute; white counts."""
    positions: Positions = Positions.INTEGER
    origin: Origin = Origin.ROI
    tile_id: str = DEFAULT_TILE_ID
    """Template with any of {basename}, {z}, {section_id}, {session_id}, {grid}, {roi_index}, {specimen_id},
    {raster_col}, {raster_row}, {raster_index}."""

    def __post_init__(self) -> None:
        if self.minimum_intensity >= self.maximum_intensity:
            limits = f"{self.minimum_intensity} and {self.maximum_intensity}"
            raise SettingsFault("tilespecs.minimum_intensity", f"minimum and maximum intensity are {limits}")
        if self.mask is not None and not self.mask.is_absolute():
            raise SettingsFault("tilespecs.mask", f"{str(self.mask)!r} is not an absolute path")
        _require_template(self.tile_id)


_TILE_ID_FIELDS: Final = (
    "basename",
    "z",
    "section_id",
    "session_id",
    "grid",
    "roi_index",
    "specimen_id",
    "raster_col",
    "raster_row",
    "raster_index",
)


def _fields_of(template: str) -> list[str]:
    return [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]


def _require_template(template: str) -> None:
    """Raise SettingsFault unless every field of the template is known; attributes and indices of fields are not."""
    try:
        names = _fields_of(template)
    except ValueError as error:
        raise SettingsFault("tilespecs.tile_id", f"{template!r} is not a template: {error}") from None
    for name in names:
        if name not in _TILE_ID_FIELDS:
            raise SettingsFault("tilespecs.tile_id", f"{{{name}}} is not one of {', '.join(_TILE_ID_FIELDS)}")


def tile_specs_for(
    metafile: Metafile,
    z: float,
    image_directory: Path,
    options: TileSpecOptions | None = None,
    *,
    shared_transform_id: str | None = None,
) -> tuple[TileSpec, ...]:
    """The tile specs of a metafile, in its order; by default equal to those of asap-modules, field by field.

    Parameters
    ----------
    z : the section's place in the stack; a fraction is kept.
    image_directory : absolute; where the images are, the metafile's own directory unless they were moved.
    shared_transform_id : id of a transform that the stack has or is sent along, applied before the translation.

    Raises
    ------
    MetafileFault
        If two tiles would share an id, or an img_path leads out of the directory.
    SettingsFault
        If the tile_id template makes an id that cannot stand in a URL of render-ws.
    """
    options = options or TileSpecOptions()
    header, z = metafile.header, float(z)
    camera, pixelsize = header.camera, header.highmag.x_nm_per_pix
    section_id = options.section_id or str(z)
    mask = {} if options.mask is None else {"maskUrl": path_to_uri(options.mask)}
    refs = [] if shared_transform_id is None else [{"type": "ref", "refId": shared_transform_id}]
    ids = tile_ids_for(metafile, z, options)
    images = _image_uris(image_directory, metafile.tiles)
    translations = translations_for(metafile.tiles, options.positions, options.origin)
    return tuple(
        {
            "tileId": tile_id,
            "z": z,
            "width": camera.width,
            "height": camera.height,
            "minIntensity": options.minimum_intensity,
            "maxIntensity": options.maximum_intensity,
            "layout": {
                "sectionId": section_id,
                "temca": header.temca_id,
                "camera": camera.camera_id,
                "imageRow": tile.raster_row,
                "imageCol": tile.raster_col,
                "stageX": tile.stage_x_nm,  # nanometres, as is stageY, and pixelsize in x
                "stageY": tile.stage_y_nm,
                "rotation": tile.angle_deg,
                "pixelsize": pixelsize,
            },
            "mipmapLevels": {"0": {"imageUrl": image, **mask}},
            "transforms": {"type": "list", "specList": [*refs, translation_spec(translation)]},
        }
        for tile_id, image, tile, translation in zip(ids, images, metafile.tiles, translations, strict=True)
    )


def _image_uris(directory: Path, tiles: Iterable[TileRecord]) -> Iterator[str]:
    """URIs of the tiles' images; the directory, which they share, is put into one once."""
    base = path_to_uri(directory / "x").removesuffix("x")
    for tile in tiles:
        require_contained(tile.img_path, directory)
        yield base + quoted(tile.img_path)


def tile_ids_for(metafile: Metafile, z: float, options: TileSpecOptions | None = None) -> tuple[str, ...]:
    """The ids of a metafile's tiles, in its order. Raises as `tile_specs_for` does."""
    options = options or TileSpecOptions()
    header = metafile.header
    shared: dict[str, str | int | None] = {
        "z": str(float(z)),
        "section_id": options.section_id or str(float(z)),
        "session_id": header.session_id,
        "grid": header.grid,
        "roi_index": header.roi_index,
        "specimen_id": header.specimen_id or "",
    }
    _require_fields(options.tile_id, shared, metafile)
    ids = tuple(_tile_id(options.tile_id, shared, tile, header.metafile_name) for tile in metafile.tiles)
    doubled = [tile_id for tile_id, times in Counter(ids).items() if times > 1]
    if doubled:
        names = ", ".join(doubled[:_EXAMPLES]) + (" and others" if len(doubled) > _EXAMPLES else "")
        raise MetafileFault(
            header.metafile_name, f"several tiles would have the id {names}", "see img_path, and tilespecs.tile_id"
        )
    return ids


def _require_fields(template: str, shared: Mapping[str, str | int | None], metafile: Metafile) -> None:
    """Raise MetafileFault where the metafile lacks what the template names."""
    lacking = [f"metadata.{name}" for name, value in shared.items() if value is None]
    if any(tile.raster_index is None for tile in metafile.tiles):
        lacking.append("data[].img_meta.raster_index")
    wanted = _fields_of(template)
    for key in lacking:
        if key.rpartition(".")[2] in wanted:
            problem = f"{key}: missing, and the tile ids of this watch need it"
            raise MetafileFault(metafile.header.metafile_name, problem, "see tilespecs.tile_id")


def _tile_id(template: str, shared: Mapping[str, str | int | None], tile: TileRecord, metafile_name: str) -> str:
    fields = {
        **shared,
        "basename": tile.basename,
        "raster_col": tile.raster_col,
        "raster_row": tile.raster_row,
        "raster_index": tile.raster_index,
    }
    try:
        tile_id = template.format_map(fields)
    except (ValueError, LookupError, AttributeError) as error:
        raise SettingsFault("tilespecs.tile_id", f"{template!r} cannot be filled: {error}") from None
    if not tile_id or "/" in tile_id or not tile_id.isprintable():
        hint = "a tile id is a part of URLs, where / cannot stand"
        if not tile.basename.isprintable():
            raise MetafileFault(metafile_name, f"img_path {tile.img_path!r} makes the tile id {tile_id!r}", hint)
        raise SettingsFault("tilespecs.tile_id", f"{template!r} makes the id {tile_id!r}", hint)
    return tile_id


def translations_for(tiles: Iterable[TileRecord], positions: Positions, origin: Origin) -> tuple[Point, ...]:
    """Translation (x, y) of each tile, pixels at level 0 in the camera frame, in the order of the tiles.

    With the origin `roi` the smallest x and the smallest y are 0. With `stage` they may be negative; then regions of
    one z stand to each other as they do on the stage, also when they come in different metafiles.
    """
    places = [tile.position_px for tile in tiles]
    if positions is Positions.INTEGER:
        places = [(float(math.trunc(x)), float(math.trunc(y))) for x, y in places]
    if origin is Origin.STAGE or not places:
        return tuple(places)
    left, top = min(x for x, _ in places), min(y for _, y in places)
    return tuple((x - left, y - top) for x, y in places)


def translation_spec(translation: Point) -> Json:
    """A translation in pixels as a transform spec, in the form of asap-modules: ten decimals.

    >>> translation_spec((271413.0, 11.0))["dataString"]
    '1.0000000000 0.0000000000 0.0000000000 1.0000000000 271413.0000000000 11.0000000000'
    """
    x, y = translation
    numbers = f"1.0000000000 0.0000000000 0.0000000000 1.0000000000 {x:.10f} {y:.10f}"
    return {"type": "leaf", "className": _AFFINE, "dataString": numbers}


def shared_transform_for(metafile: Metafile) -> Json | None:
    """The lens-correction transform that the scope appended, as a transform spec that render takes; None without one.

    It always has an `id`: its own, or one made from its content, so that regions with the same lens share it.

    Raises MetafileFault if it is not a transform.
    """
    found = metafile.shared_transform
    if found is None:
        return None
    subject = metafile.header.metafile_name
    for name in ("className", "dataString"):
        if not isinstance(found.get(name), str) or not found[name]:
            raise MetafileFault(subject, f"sharedTransform.{name}: missing or not text")
    if found.get("type", "leaf") != "leaf":
        raise MetafileFault(subject, f"sharedTransform.type: should be leaf, not {found['type']!r}")
    own_id = found.get("id") or found.get("transformId")
    return {
        **{key: value for key, value in found.items() if key != "transformId"},
        "type": "leaf",
        "id": str(own_id or _content_id(found)),
    }


def _content_id(transform: Json) -> str:
    content = f"{transform['className']} {transform['dataString']}"
    return f"lens_{hashlib.sha256(content.encode()).hexdigest()[:16]}"
