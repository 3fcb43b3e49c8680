"""The tile spec, render's record of a tile, and how tile specs follow from a metafile. Pure."""

import hashlib
import math
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from handlers.errors import Fault, MetafileFault, SettingsFault
from handlers.geometry import Point
from handlers.metafile import Metafile, TileRecord, refuse_unsafe
from handlers.uris import path_to_uri, quoted

Json = Mapping[str, Any]

DEFAULT_TILE_ID: Final = "{basename}.{z}"
"""That of asap-modules."""

_AFFINE: Final = "mpicbg.trakem2.transform.AffineModel2D"
_EXAMPLES = 3


_NOTHING: Final[Json] = {}
"""Of the many records that have nothing to put there; one and the same.

The records of a tile are named tuples: a section has thousands of them, and frozen dataclasses take more than twice as
long to make (5.5 us for the three of a tile, where these take 2.1)."""


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


class Layout(NamedTuple):
    """Acquisition facts that a tile spec carries."""

    section_id: str | None = None
    temca: str | None = None
    camera: str | None = None
    image_row: int | None = None
    image_col: int | None = None
    stage_x: float | None = None
    """Nanometres here, as is `stage_y`; whatever others put there."""
    stage_y: float | None = None
    rotation: float | None = None
    """Degrees, stage to camera."""
    pixelsize: float | None = None
    """Nanometres per pixel in x."""
    other: Json = _NOTHING
    """Fields not known here, as found."""

    def to_json(self) -> dict[str, Any]:
        known = {
            "sectionId": self.section_id,
            "temca": self.temca,
            "camera": self.camera,
            "imageRow": self.image_row,
            "imageCol": self.image_col,
            "stageX": self.stage_x,
            "stageY": self.stage_y,
            "rotation": self.rotation,
            "pixelsize": self.pixelsize,
        }
        return _joined(self.other, known)

    @classmethod
    def from_json(cls, layout: Json) -> Self:
        return cls(**{attribute: layout.get(name) for name, attribute in _LAYOUT.items()}, other=_rest(layout, _LAYOUT))


_LAYOUT: Final = {
    "sectionId": "section_id",
    "temca": "temca",
    "camera": "camera",
    "imageRow": "image_row",
    "imageCol": "image_col",
    "stageX": "stage_x",
    "stageY": "stage_y",
    "rotation": "rotation",
    "pixelsize": "pixelsize",
}


class MipmapLevel(NamedTuple):
    """Where the image of a tile at one level is, and its mask."""

    image_url: str | None
    mask_url: str | None = None
    other: Json = _NOTHING
    """Loader types and slice numbers, as found."""

    def to_json(self) -> dict[str, Any]:
        return _joined(self.other, {"imageUrl": self.image_url, "maskUrl": self.mask_url})

    @classmethod
    def from_json(cls, level: Json) -> Self:
        return cls(level.get("imageUrl"), level.get("maskUrl"), _rest(level, ("imageUrl", "maskUrl")))


class TileSpec(NamedTuple):
    """The render-ws record of a tile. Fields not known here survive `from_json` and `to_json`."""

    tile_id: str
    z: float | None
    width: int | None
    """Pixels at level 0, as is `height`."""
    height: int | None
    minimum_intensity: float | None
    """Grey value shown black; `maximum_intensity` is shown white."""
    maximum_intensity: float | None
    layout: Layout | None
    mipmap_levels: Mapping[int, MipmapLevel]
    transforms: tuple[Json, ...]
    """render's transform specs, applied from the first to the last."""
    other: Json = _NOTHING
    """Other fields of the tile spec, as found: bounds, channels, labels, groupId."""
    other_transform_fields: Json = _NOTHING
    """Fields of the transform list beside its type and its specs, as found."""

    def to_json(self) -> dict[str, Any]:
        """The tile spec in render's form; absent fields are left out, since render takes a null for a zero."""
        known = {
            "tileId": self.tile_id,
            "z": self.z,
            "width": self.width,
            "height": self.height,
            "minIntensity": self.minimum_intensity,
            "maxIntensity": self.maximum_intensity,
            "layout": None if self.layout is None else self.layout.to_json(),
        }
        spec = _joined(self.other, known)
        spec["mipmapLevels"] = {str(number): level.to_json() for number, level in sorted(self.mipmap_levels.items())}
        spec["transforms"] = {**self.other_transform_fields, "type": "list", "specList": list(self.transforms)}
        return spec

    @classmethod
    def from_json(cls, spec: Json) -> Self:
        """The tile spec that `spec` is, in render's form.

        Raises Fault, subject the tile, if it has no id or its levels or transforms are not in the form of render.
        """
        tile_id = spec.get("tileId")
        if not isinstance(tile_id, str):
            raise Fault("tile spec", f"tileId should be text, not {tile_id!r}")
        transforms = _object(spec, "transforms", tile_id)
        if transforms.get("type", "list") != "list":
            raise Fault(tile_id, f"transforms should be of type list, not {transforms['type']!r}")
        return cls(
            tile_id,
            **{attribute: spec.get(name) for name, attribute in _TILE_SPEC.items()},
            layout=Layout.from_json(_object(spec, "layout", tile_id)) if "layout" in spec else None,
            mipmap_levels=_levels(_object(spec, "mipmapLevels", tile_id), tile_id),
            transforms=tuple(transforms.get("specList", ())),
            other=_rest(spec, ("tileId", "layout", "mipmapLevels", "transforms", *_TILE_SPEC)),
            other_transform_fields=_rest(transforms, ("type", "specList")),
        )


_TILE_SPEC: Final = {
    "z": "z",
    "width": "width",
    "height": "height",
    "minIntensity": "minimum_intensity",
    "maxIntensity": "maximum_intensity",
}


def _joined(other: Json, known: dict[str, Any]) -> dict[str, Any]:
    """Both, without what is None among the known; most tiles of a section have nothing but what is known, and all of
    it."""
    if None in known.values():
        known = {name: value for name, value in known.items() if value is not None}
    return {**other, **known} if other else known


def _rest(fields: Json, known: Iterable[str]) -> dict[str, Any]:
    left_out = set(known)
    return {name: value for name, value in fields.items() if name not in left_out}


def _object(spec: Json, name: str, tile_id: str) -> Json:
    value = spec.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise Fault(tile_id, f"{name} should be an object, not {value!r:.60}")
    return value


def _levels(levels: Json, tile_id: str) -> dict[int, MipmapLevel]:
    if not all(number.isdecimal() and isinstance(level, Mapping) for number, level in levels.items()):
        raise Fault(tile_id, "mipmapLevels should have objects by level number")
    return {int(number): MipmapLevel.from_json(level) for number, level in levels.items()}


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


def _require_template(template: str) -> None:
    """Raise SettingsFault unless every field of the template is known; attributes and indices of fields are not."""
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
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
    mask = None if options.mask is None else path_to_uri(options.mask)
    refs: tuple[Json, ...] = () if shared_transform_id is None else ({"type": "ref", "refId": shared_transform_id},)
    ids = tile_ids_for(metafile, z, options)
    images = _image_uris(image_directory, metafile.tiles)
    layouts = _layouts(metafile, options.section_id or str(float(z)))
    translations = translations_for(metafile.tiles, options.positions, options.origin)
    camera = metafile.header.camera
    return tuple(
        TileSpec(
            tile_id=tile_id,
            z=float(z),
            width=camera.width,
            height=camera.height,
            minimum_intensity=options.minimum_intensity,
            maximum_intensity=options.maximum_intensity,
            layout=layout,
            mipmap_levels={0: MipmapLevel(image, mask)},
            transforms=(*refs, translation_spec(translation)),
        )
        for tile_id, image, layout, translation in zip(ids, images, layouts, translations, strict=True)
    )


def _image_uris(directory: Path, tiles: Iterable[TileRecord]) -> Iterator[str]:
    """URIs of the tiles' images; the directory, which they share, is put into one once."""
    base = path_to_uri(directory / "x").removesuffix("x")
    for tile in tiles:
        refuse_unsafe(tile.img_path, directory)
        yield base + quoted(tile.img_path)


def tile_ids_for(metafile: Metafile, z: float, options: TileSpecOptions | None = None) -> tuple[str, ...]:
    """The ids of a metafile's tiles, in its order. Raises as `tile_specs_for` does."""
    options = options or TileSpecOptions()
    header = metafile.header
    shared: dict[str, str | int] = {
        "z": str(float(z)),
        "section_id": options.section_id or str(float(z)),
        "session_id": header.session_id,
        "grid": header.grid,
        "roi_index": header.roi_index,
        "specimen_id": header.specimen_id or "",
    }
    ids = tuple(_tile_id(options.tile_id, shared, tile, header.metafile_name) for tile in metafile.tiles)
    doubled = [tile_id for tile_id, times in Counter(ids).items() if times > 1]
    if doubled:
        names = ", ".join(doubled[:_EXAMPLES]) + (" and others" if len(doubled) > _EXAMPLES else "")
        raise MetafileFault(
            header.metafile_name, f"several tiles would have the id {names}", "see img_path, and tilespecs.tile_id"
        )
    return ids


def _tile_id(template: str, shared: Mapping[str, str | int], tile: TileRecord, metafile_name: str) -> str:
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


def _layouts(metafile: Metafile, section_id: str) -> Iterator[Layout]:
    header = metafile.header
    temca, camera, pixelsize = header.temca_id, header.camera.camera_id, header.highmag.x_nm_per_pix
    for tile in metafile.tiles:
        yield Layout(
            section_id=section_id,
            temca=temca,
            camera=camera,
            image_row=tile.raster_row,
            image_col=tile.raster_col,
            stage_x=tile.stage_x_nm,
            stage_y=tile.stage_y_nm,
            rotation=tile.angle_deg,
            pixelsize=pixelsize,
        )


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
    return {**_rest(found, ("transformId",)), "type": "leaf", "id": str(own_id or _content_id(found))}


def _content_id(transform: Json) -> str:
    content = f"{transform['className']} {transform['dataString']}"
    return f"lens_{hashlib.sha256(content.encode()).hexdigest()[:16]}"
