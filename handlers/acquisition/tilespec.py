"""Making tile specs, render's records of tiles, from an acquisition. Pure."""

import hashlib
import math
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from handlers.acquisition.acquisition import Acquisition, Tile
from handlers.acquisition.formats.reader import Reader
from handlers.acquisition.geometry import Point
from handlers.acquisition.image_names import require_contained
from handlers.acquisition.placement import affine_of
from handlers.errors import MetafileFault, SettingsFault
from handlers.path_map import NO_MAP, PathMap
from handlers.text import abbreviate, excerpt
from handlers.uris import extracted_path, path_to_uri, quoted

Json = Mapping[str, Any]

DEFAULT_TILE_ID: Final = "{basename}.{z}"
"""The template of asap-modules."""

_AFFINE: Final = "mpicbg.trakem2.transform.AffineModel2D"

TileSpec = dict[str, Any]
"""Render's record of a tile as JSON: id, z, size, intensity range, layout, mipmap levels, transforms.

A plain dict, so that unknown fields of other programs survive a round trip."""


class Positions(StrEnum):
    """Rounding of a tile's position in pixels."""

    INTEGER = "integer"
    """Truncated toward zero before the origin is subtracted, as asap-modules does."""
    EXACT = "exact"
    """Not rounded; written with ten decimals."""


class Origin(StrEnum):
    """Origin of the tiles' translations."""

    ROI = "roi"
    """The smallest x and y of the region's own tiles: every region starts at (0, 0)."""
    STAGE = "stage"
    """The origin of the stage, rotated into the camera frame: regions of one z keep their relative positions."""


@dataclass(frozen=True, slots=True)
class TileSpecOptions:
    """The user's options for tile specs. Raises SettingsFault, with the setting as subject, for an invalid value."""

    minimum_intensity: int = 0
    maximum_intensity: int = 255
    section_id: str | None = None
    """None: z in decimal notation, as in `1050.0`."""
    mask: Path | None = None
    """Absolute path of one mask image for every tile; white pixels are opaque."""
    positions: Positions = Positions.INTEGER
    origin: Origin = Origin.ROI
    tile_id: str = DEFAULT_TILE_ID
    """Template with any of {basename}, {z}, {section_id}, {session_id}, {grid}, {roi_index}, {specimen_id},
    {raster_col}, {raster_row}, {raster_index}."""
    output_dir: Path | None = None
    """Directory of the mipmaps, in which level 0 of a section of an MRC file is made; None: such tiles are refused."""
    path_map: PathMap = NO_MAP
    """Translates the paths of images and mask into those of render-ws."""

    def __post_init__(self) -> None:
        if self.minimum_intensity >= self.maximum_intensity:
            problem = f"should be less than the maximum {self.maximum_intensity}, is {self.minimum_intensity}"
            raise SettingsFault("tilespecs.minimum_intensity", problem)
        if self.mask is not None and not self.mask.is_absolute():
            raise SettingsFault("tilespecs.mask", f"should be an absolute path, is {str(self.mask)!r}")
        _require_template(self.tile_id)


def options_for(reader: Reader) -> TileSpecOptions:
    """Return the default options of a format."""
    given = reader.tilespecs
    return TileSpecOptions(
        positions=Positions(given.get("positions", Positions.INTEGER)),
        origin=Origin(given.get("origin", Origin.ROI)),
        tile_id=given.get("tile_id", DEFAULT_TILE_ID),
    )


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
    """Raise SettingsFault unless every field of the template is known; attributes and indices are not allowed."""
    try:
        names = _fields_of(template)
    except ValueError as error:
        raise SettingsFault("tilespecs.tile_id", f"should be a template, is {template!r}: {error}") from None
    for name in names:
        if name not in _TILE_ID_FIELDS:
            raise SettingsFault("tilespecs.tile_id", f"{{{name}}} is not one of {', '.join(_TILE_ID_FIELDS)}")


def tile_specs_for(
    acquisition: Acquisition,
    z: float,
    image_directory: Path,
    options: TileSpecOptions | None = None,
    *,
    shared_transform_id: str | None = None,
    subject: str | None = None,
) -> tuple[TileSpec, ...]:
    """Return the tile specs of an acquisition, in the order of its tiles.

    With the default options, those of pyTEMCA equal the tile specs of asap-modules field by field.

    Parameters
    ----------
    z : the section's place in the stack, not rounded.
    image_directory : absolute path of the images: the metafile's own directory unless they were moved.
    shared_transform_id : id of a transform in the stack or in the same upload, applied before the translation.
    subject : name of the metafile for faults; None: the name of the acquisition.

    Raises
    ------
    MetafileFault
        If two tiles would share an id, or an img_path leads out of the directory.
    SettingsFault
        If the tile_id template makes an id that is invalid in a URL of render-ws.
    Fault
        If the path map refuses the path of an image or of the mask.
    """
    options = options or TileSpecOptions()
    z = float(z)
    section_id = options.section_id or str(z)
    mask = {} if options.mask is None else {"maskUrl": options.path_map.to_url(options.mask)}
    refs = [] if shared_transform_id is None else [{"type": "ref", "refId": shared_transform_id}]
    ids = tile_ids_for(acquisition, z, options, subject)
    images = _image_urls(image_directory, acquisition.tiles, options)
    translations = translations_for(acquisition.tiles, options.positions, options.origin)
    return tuple(
        {
            "tileId": tile_id,
            "z": z,
            "width": tile.width,
            "height": tile.height,
            "minIntensity": options.minimum_intensity,
            "maxIntensity": options.maximum_intensity,
            "layout": layout,
            "mipmapLevels": {"0": {"imageUrl": image, **mask}},
            "transforms": {"type": "list", "specList": [*refs, _transform_spec(tile, translation)]},
        }
        for tile_id, image, layout, tile, translation in zip(
            ids, images, _layouts(acquisition, section_id), acquisition.tiles, translations, strict=True
        )
    )


def _layouts(acquisition: Acquisition, section_id: str) -> Iterator[Json]:
    """Yield the layout of each tile, without the values that its format does not state; `pixelsize` is that in x."""
    scope_id, camera_id = acquisition.scope_id, acquisition.camera_id
    pixelsize = acquisition.pixel_size_nm[0] if acquisition.pixel_size_nm else None
    for tile in acquisition.tiles:
        layout = {
            "sectionId": section_id,
            "temca": scope_id,
            "camera": camera_id,
            "imageRow": tile.raster_row,
            "imageCol": tile.raster_col,
            "stageX": tile.stage_x,
            "stageY": tile.stage_y,
            "rotation": tile.angle_deg,
            "pixelsize": pixelsize,
        }
        if None in layout.values():  # never for pyTEMCA: copying a layout takes as long as making it
            layout = {key: value for key, value in layout.items() if value is not None}
        yield layout


def _image_urls(directory: Path, tiles: Iterable[Tile], options: TileSpecOptions) -> Iterator[str]:
    shared = "" if options.path_map else path_to_uri(f"{directory}/")
    for tile in tiles:
        require_contained(tile.img_path, directory)
        if shared and tile.section is None:
            yield shared + quoted(tile.img_path)
            continue
        image = f"{directory}/{tile.img_path}"
        if tile.section is not None:
            image = str(_extracted(Path(image), tile.section, options))
        yield options.path_map.to_url(image)


def _extracted(stack: Path, section: int, options: TileSpecOptions) -> Path:
    if options.output_dir is None:
        problem = "holds many images, and render-ws reads none of them"
        hint = "set mipmaps.output_dir to a directory and unset mipmaps.url: temwatch writes each image there as a TIFF"
        raise MetafileFault(str(stack), problem, hint)
    return extracted_path(options.output_dir, stack, section)


def tile_ids_for(
    acquisition: Acquisition, z: float, options: TileSpecOptions | None = None, subject: str | None = None
) -> tuple[str, ...]:
    """Return the ids of an acquisition's tiles, in its order. Raises as `tile_specs_for` does."""
    options = options or TileSpecOptions()
    subject = subject or acquisition.name
    shared: dict[str, object] = {
        "z": str(float(z)),
        "section_id": options.section_id or str(float(z)),
        "session_id": acquisition.fact("session_id"),
        "grid": acquisition.fact("grid"),
        "roi_index": acquisition.fact("roi_index"),
        "specimen_id": acquisition.fact("specimen_id") or "",
    }
    _require_fields(options.tile_id, shared, acquisition, subject)
    ids = tuple(_tile_id(options.tile_id, shared, tile, subject) for tile in acquisition.tiles)
    duplicates = [tile_id for tile_id, times in Counter(ids).items() if times > 1]
    if duplicates:
        problem = f"every tile should have its own id; several tiles would have {abbreviate(duplicates)}"
        raise MetafileFault(subject, problem, "check img_path and tilespecs.tile_id")
    return ids


def _require_fields(template: str, shared: Mapping[str, object], acquisition: Acquisition, subject: str) -> None:
    """Raise MetafileFault if the metafile lacks a value that the template names."""
    lacking = [f"metadata.{name}" for name, value in shared.items() if value is None]
    if any(tile.raster_index is None for tile in acquisition.tiles):
        lacking.append("data[].img_meta.raster_index")
    columns = ("raster_col", "raster_row")
    lacking += [each for each in columns if any(getattr(tile, each) is None for tile in acquisition.tiles)]
    wanted = _fields_of(template)
    for key in lacking:
        if key.rpartition(".")[2] in wanted:
            problem = f"{key}: missing, but the tile ids of this watch need it"
            raise MetafileFault(subject, problem, "check tilespecs.tile_id")


def _tile_id(template: str, shared: Mapping[str, object], tile: Tile, subject: str) -> str:
    fields = {
        **shared,
        "basename": tile.name,
        "raster_col": tile.raster_col,
        "raster_row": tile.raster_row,
        "raster_index": tile.raster_index,
    }
    try:
        tile_id = template.format_map(fields)
    except (ValueError, LookupError, AttributeError) as error:
        raise SettingsFault("tilespecs.tile_id", f"{template!r} cannot be filled: {error}") from None
    if not tile_id or "/" in tile_id or not tile_id.isprintable():
        hint = "tile ids are parts of URLs: they may not be empty, nor hold / or unprintable characters"
        if not tile.name.isprintable():
            raise MetafileFault(subject, f"img_path {tile.img_path!r} gives the invalid tile id {tile_id!r}", hint)
        raise SettingsFault("tilespecs.tile_id", f"{template!r} gives the invalid tile id {tile_id!r}", hint)
    return tile_id


def translations_for(tiles: Iterable[Tile], positions: Positions, origin: Origin) -> tuple[Point, ...]:
    """Return the translation (x, y) of each tile in level-0 pixels of the camera frame, in the order of the tiles.

    With the origin `roi` the smallest x and the smallest y are 0. With `stage` they may be negative: regions of one z
    keep their relative positions on the stage, also across metafiles.
    """
    places = [tile.position_px for tile in tiles]
    if positions is Positions.INTEGER:
        places = [(float(math.trunc(x)), float(math.trunc(y))) for x, y in places]
    if origin is Origin.STAGE or not places:
        return tuple(places)
    left, top = min(x for x, _ in places), min(y for _, y in places)
    return tuple((x - left, y - top) for x, y in places)


def _transform_spec(tile: Tile, translation: Point) -> Json:
    """Return the transform spec of a tile; without rotation and scale, in the form of asap-modules."""
    if tile.rotation_deg == 0 and tile.scale == 1:
        return translation_spec(translation)
    numbers = " ".join(f"{number:.10f}" for number in affine_of(tile, translation))
    return {"type": "leaf", "className": _AFFINE, "dataString": numbers}


def translation_spec(translation: Point) -> Json:
    """Return the transform spec of a translation in pixels, with ten decimals like those of asap-modules.

    >>> translation_spec((271413.0, 11.0))["dataString"]
    '1.0000000000 0.0000000000 0.0000000000 1.0000000000 271413.0000000000 11.0000000000'
    """
    x, y = translation
    numbers = f"1.0000000000 0.0000000000 0.0000000000 1.0000000000 {x:.10f} {y:.10f}"
    return {"type": "leaf", "className": _AFFINE, "dataString": numbers}


def shared_transform_for(acquisition: Acquisition, subject: str | None = None) -> Json | None:
    """Return the lens-correction transform of an acquisition as a transform spec; None if it has none.

    The spec always has an `id`: that of the metafile, or a hash of its content, so that regions with the same lens
    share a transform.

    Raises MetafileFault if the transform is invalid.
    """
    found = acquisition.shared_transform
    if not isinstance(found, dict):
        return None
    subject = subject or acquisition.name
    for name in ("className", "dataString"):
        if not isinstance(found.get(name), str) or not found[name]:
            raise MetafileFault(subject, f"sharedTransform.{name}: should be text, is {excerpt(found.get(name))}")
    if found.get("type", "leaf") != "leaf":
        raise MetafileFault(subject, f"sharedTransform.type: should be 'leaf', is {excerpt(found['type'])}")
    own_id = found.get("id") or found.get("transformId")
    return {
        **{key: value for key, value in found.items() if key != "transformId"},
        "type": "leaf",
        "id": str(own_id or _content_id(found)),
    }


def _content_id(transform: Json) -> str:
    content = f"{transform['className']} {transform['dataString']}"
    return f"lens_{hashlib.sha256(content.encode()).hexdigest()[:16]}"
