"""The plan of mipmaps: the settings with which levels are made, and the files that belong to a tile."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

from handlers.container import Container, Containers
from handlers.errors import ImageFault, StoreFault, storage_fault
from handlers.images.encode import PLAIN_TIFF, Encoding
from handlers.images.header import inspect_image
from handlers.images.mrc_header import StackSection
from handlers.images.reduction import FULL_RANGE, MEAN, IntensityRange, Reduction, level_size
from handlers.path_map import NO_MAP, PathMap
from handlers.place import ObjectPlace, Place, encoded_key, is_object_address, key_problem, parse_object, path_of
from handlers.render.http.access import NO_LOGIN, Access
from handlers.render.names import BaseUrl, StackId
from handlers.render.tiles import image_holder, level_0
from handlers.sharing import AS_MADE, Sharing, make_directories
from handlers.stores.choose import store_of
from handlers.uris import mipmap_path

LevelFiles = Mapping[int, tuple[Place, Place | None]]
"""Level -> (image file, mask file or None)."""
LevelUris = Mapping[int, tuple[str, str | None]]
"""Level -> (image URI, mask URI or None)."""


@dataclass(frozen=True, slots=True)
class Level0:
    """The raw image of a tile, as its tile spec describes it."""

    tile_id: str
    image: Place
    mask: Place | None
    width: int
    height: int
    maximum_intensity: float = 255
    """Maximum intensity of the tile spec; above 255 the image has 16 bits."""
    stack: StackSection | None = None
    """Section of an MRC file from which temwatch makes the file `image`; None: `image` is a file of the microscope."""


@dataclass(frozen=True, slots=True)
class MipmapPlan:
    """Settings of the mipmaps, and the places of their files.

    Parameters
    ----------
    levels : the highest level; levels 1 to this level are made.
    reduction : reduction of images; masks are always reduced by the minimum.
    encoding : encoding of images. Masks are encoded as png if this encoding is not lossless.
    range_16bit : the 16-bit values that become 0 and 255 when 16-bit images are converted.
    force : whether valid existing levels are made again.
    container : output_dir, resolved once, so that no link below it is followed; see `contained`.
    sharing : modes and group of new files and directories.
    path_map : translates the paths of images, masks and levels into those of render-ws.
    url : base URL of the levels in tile specs; empty: output_dir as render-ws sees it.
    is_derived : whether a path builder of render-ws derives the paths of levels from its path of level 0.
    stack_url, authorization, access : stack whose tiles render-ws serves, and the login for it; see `served_by`.
    """

    output_dir: Place
    levels: int = 6
    reduction: Reduction = MEAN
    encoding: Encoding = PLAIN_TIFF
    convert_to_8bit: bool = True
    range_16bit: IntensityRange = FULL_RANGE
    force: bool = True
    container: Container | None = None
    sharing: Sharing = AS_MADE
    path_map: PathMap = NO_MAP
    url: str = ""
    is_derived: bool = False
    stack_url: str | None = None
    authorization: str | None = field(default=None, repr=False)
    access: Access = NO_LOGIN

    def served_by(self, service: BaseUrl, stack: StackId, access: Access = NO_LOGIN) -> Self:
        """Return the plan for the tiles of a stack, from which render-ws serves level 0 with method "render"."""
        if self.reduction.method != "render":
            return self
        login = service.authorization
        return replace(self, stack_url=service.url + stack.path, authorization=login, access=access)

    def contained(self, containers: Containers) -> Self:
        """Make output_dir if it is missing, and return the plan with it resolved. Blocking. Raises StorageFault."""
        if isinstance(self.output_dir, ObjectPlace):
            return self
        try:
            make_directories(self.output_dir, self.sharing)
            return replace(self, container=containers.of(self.output_dir))
        except OSError as error:
            raise storage_fault(str(self.output_dir), "use the mipmap directory", error) from error

    @property
    def extension(self) -> str:
        """Extension of the images: tif, png or jpg."""
        return self.encoding.extension

    @property
    def mask_encoding(self) -> Encoding:
        """The encoding of masks."""
        return self.encoding if self.encoding.lossless else Encoding("png")

    def path(self, level: int, level0: Place, *, mask: bool = False) -> Place:
        """Return the place of a level's file for an image or mask; the same for the writer and for the stack."""
        extension = self.mask_encoding.extension if mask else self.extension
        return mipmap_path(self.output_dir, level, self._source(level0), extension)

    def _source(self, level0: Place) -> Place:
        return self.path_map.derived(level0) if self.is_derived and isinstance(level0, Path) else level0

    def outputs(self, level0: Place, *, mask: bool = False) -> tuple[tuple[int, Place], ...]:
        """Return every level of an image or mask, with its file."""
        return tuple((level, self.path(level, level0, mask=mask)) for level in range(1, self.levels + 1))

    def url_of(self, place: Place) -> str:
        """Return the URL of a level for tile specs."""
        if self.url:
            return f"{self.url.rstrip('/')}/{encoded_key(self._below_output_dir(place))}"
        return place.url if isinstance(place, ObjectPlace) else self.path_map.to_url(place)

    def place_of_url(self, url: str) -> Place | None:
        """Return the place of a level from its URL in a tile spec; None if this is not below `url` or the store."""
        base = self.url.rstrip("/") or (self.output_dir.url if isinstance(self.output_dir, ObjectPlace) else "")
        if not base or not url.startswith(f"{base}/"):
            return None
        names = unquote(url[len(base) + 1 :])
        return None if key_problem(names) else self.output_dir / names

    def _below_output_dir(self, place: Place) -> str:
        if isinstance(place, ObjectPlace):
            assert isinstance(self.output_dir, ObjectPlace)
            return place.below(self.output_dir)
        return str(place.relative_to(path_of(self.output_dir)))

    def path_builder(self) -> dict[str, object]:
        """Return the mipmapPathBuilder with which render-ws derives the same paths."""
        root = self.path_map.root_path(path_of(self.output_dir))
        return {"rootPath": root, "numberOfLevels": self.levels, "extension": self.extension}


def level_files(tile: Level0, plan: MipmapPlan) -> LevelFiles:
    """Return the files of a tile's levels: image, and mask if it has one."""
    return {
        level: (path, plan.path(level, tile.mask, mask=True) if tile.mask else None)
        for level, path in plan.outputs(tile.image)
    }


def level_uris(tile: Level0, plan: MipmapPlan) -> LevelUris:
    """Return the URIs of a tile's levels for its tile spec, as render-ws sees them."""
    return uris_of(level_files(tile, plan), plan)


def uris_of(files: LevelFiles, plan: MipmapPlan) -> LevelUris:
    """Return the URIs of a tile's level files, as render-ws sees them."""
    return {level: (plan.url_of(image), plan.url_of(mask) if mask else None) for level, (image, mask) in files.items()}


def absent_levels(tiles: Sequence[Level0], plan: MipmapPlan, files: Iterable[LevelFiles] | None = None) -> list[Place]:
    """Return the level files that are missing or empty, including level 0 if temwatch makes it. Blocking.

    Parameters
    ----------
    files : level files of each tile, if the caller has them.

    Raises
    ------
    StoreFault
        If an object store cannot be listed.
    """
    extracted = [tile.image for tile in tiles if tile.stack is not None]
    pairs = [pair for levels in files or (level_files(tile, plan) for tile in tiles) for pair in levels.values()]
    masks = {mask for _, mask in pairs if mask}
    places = [*extracted, *(image for image, _ in pairs), *masks]
    if isinstance(plan.output_dir, ObjectPlace):
        return _absent_objects(places)
    return [place for place in places if not _has_content(path_of(place))]


def _absent_objects(places: Iterable[Place]) -> list[Place]:
    """Return the objects that their directories do not list. A request for each object would take far longer."""
    listed: dict[Place, set[str]] = {}
    absent: list[Place] = []
    for place in places:
        directory = place.parent
        if directory not in listed:
            found = store_of(directory).list(directory)
            listed[directory] = {name for name, stat in found if stat.size}
        if place.name not in listed[directory]:
            absent.append(place)
    return absent


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def level0_of(spec: Mapping[str, Any], path_map: PathMap) -> Level0:
    """Return the raw image that a tile spec names, with its path on this machine.

    Parameters
    ----------
    spec : a tile spec as render-ws JSON.

    Raises
    ------
    Fault
        If the tile has no image, several channels, no size, or a URL that is neither a file nor an object; or if the
        path map refuses the URL.
    """
    tile_id = str(spec.get("tileId"))
    entry = level_0(image_holder(spec)) or {}
    if not entry.get("imageUrl"):
        raise ImageFault(f"tile '{tile_id}'", "has no image at mipmap level 0", "ingest its metafile again")
    width, height = spec.get("width"), spec.get("height")
    if not isinstance(width, int | float) or not isinstance(height, int | float) or min(width, height) < 1:
        raise ImageFault(
            f"tile '{tile_id}'",
            f"expected a width and height from 1 on, found {width} x {height}",
            "ingest its metafile again",
        )
    mask = entry.get("maskUrl")
    return Level0(
        tile_id,
        _place_of(entry["imageUrl"], path_map),
        _place_of(mask, path_map) if mask else None,
        int(width),
        int(height),
        float(image_holder(spec).get("maxIntensity") or 255),
    )


def _place_of(url: str, path_map: PathMap) -> Place:
    """Return the place of a URL. An object is accessed as the environment says."""
    if not is_object_address(url):
        return path_map.to_path(url)
    try:
        return parse_object(unquote(url, errors="strict"))
    except ValueError as error:
        raise ImageFault(url, f"is not the address of an object: {error}", "ingest its metafile again") from None


def faulty_levels(tile: Level0, plan: MipmapPlan) -> str:
    """Return the first problem of a tile's level files by their headers; empty if each has the right size.

    >>> faulty_levels(Level0("a", Path("/d/a.tif"), None, 64, 64), MipmapPlan(Path("/nowhere"), levels=1))
    '/nowhere/1/d/a.tif.tif is missing'
    """
    outputs = plan.outputs(tile.image) + (plan.outputs(tile.mask, mask=True) if tile.mask else ())
    problems = (_level_problem(path, *level_size(tile.width, tile.height, level)) for level, path in outputs)
    return next((problem for problem in problems if problem), "")


def _level_problem(path: Place, width: int, height: int) -> str:
    try:
        found = inspect_image(path)
    except FileNotFoundError:
        return f"{path} is missing"
    except (ImageFault, StoreFault, OSError) as error:
        return f"{path} cannot be used: {error.strerror if isinstance(error, OSError) else error.problem}"
    if (found.width, found.height) != (width, height):
        return f"{path} is {found.width}x{found.height} pixels, expected {width}x{height}"
    return ""
