"""Which mipmap files belong to which tile: how they are made, where they live, and the jobs that make them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handlers.errors import ImageFault, SettingsFault
from handlers.imageheader import inspect_image
from handlers.images import MipmapJob
from handlers.mipmaps import level_size
from handlers.resolvedtiles import image_holder, level_0
from handlers.uris import canonical_extension, mipmap_path, path_to_uri, uri_to_path

LevelUris = Mapping[int, tuple[str, str | None]]
"""level -> (image URI, mask URI or None)."""


@dataclass(frozen=True, slots=True)
class Level0:
    """The raw image of a tile and what is known of it."""

    tile_id: str
    image: Path
    mask: Path | None
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class MipmapPlan:
    """How mipmaps are made, and where.

    Parameters
    ----------
    levels : the highest level; levels 1 to this are made.
    format : tif, tiff, png, jpg or jpeg.
    range_16bit : the 16-bit values that become 0 and 255 where 16-bit images are converted.
    """

    output_dir: Path
    levels: int = 6
    method: str = "mean"
    format: str = "tif"
    convert_to_8bit: bool = True
    range_16bit: tuple[int, int] = (0, 65535)

    @property
    def extension(self) -> str:
        """Extension of the files: tif, png or jpg."""
        return canonical_extension(self.format)

    def path(self, level: int, level0: Path) -> Path:
        """Where a level of an image lives, for the writer and for the stack."""
        return mipmap_path(self.output_dir, level, level0, self.extension)

    def outputs(self, level0: Path) -> tuple[tuple[int, Path], ...]:
        """Every level to be made with its file."""
        return tuple((level, self.path(level, level0)) for level in range(1, self.levels + 1))

    def path_builder(self) -> dict[str, object]:
        """render's mipmapPathBuilder that derives these very files."""
        return {"rootPath": f"{self.output_dir}/", "numberOfLevels": self.levels, "extension": self.extension}


def tile_job(tile: Level0, plan: MipmapPlan, root: Path | None = None) -> MipmapJob:
    """The job that makes a tile's levels; `root` is the directory that the image may not lead out of."""
    return MipmapJob(
        tile_id=tile.tile_id,
        level0=tile.image,
        outputs=plan.outputs(tile.image),
        width=tile.width,
        height=tile.height,
        method=plan.method,
        extension=plan.extension,
        convert_to_8bit=plan.convert_to_8bit,
        intensity_range=plan.range_16bit,
        root=root,
    )


def mask_job(tile: Level0, plan: MipmapPlan) -> MipmapJob:
    """The job that makes the levels of a tile's mask, of the tile's sizes: a pixel is clear only if its whole block is.

    Its `tile_id` is the mask's path: many tiles share one mask.
    """
    if tile.mask is None:
        raise SettingsFault("tilespecs.mask", f"tile {tile.tile_id} has no mask")
    return MipmapJob(
        tile_id=str(tile.mask),
        level0=tile.mask,
        outputs=plan.outputs(tile.mask),
        width=tile.width,
        height=tile.height,
        method="min",
        extension=plan.extension,
        convert_to_8bit=True,
        intensity_range=plan.range_16bit,
        root=None,
    )


def level_uris(tile: Level0, plan: MipmapPlan) -> LevelUris:
    """The URIs that the stack is to name for a tile's levels."""
    return {
        level: (path_to_uri(path), path_to_uri(plan.path(level, tile.mask)) if tile.mask else None)
        for level, path in plan.outputs(tile.image)
    }


def absent_levels(tiles: Sequence[Level0], plan: MipmapPlan) -> list[Path]:
    """Files of levels that are not there, or empty."""
    images = [tile.image for tile in tiles]
    masks = list({tile.mask for tile in tiles if tile.mask})
    paths = (path for image in images + masks for _, path in plan.outputs(image))
    return [path for path in paths if not _has_content(path)]


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def level0_of(spec: Mapping[str, Any]) -> Level0:
    """The raw image of a tile as a stack names it.

    Parameters
    ----------
    spec : a tile spec as render-ws JSON.

    Raises
    ------
    Fault
        If it has no image, several channels, no size, or a URL that is no file's.
    """
    tile_id = str(spec.get("tileId"))
    entry = level_0(image_holder(spec)) or {}
    if not entry.get("imageUrl"):
        raise ImageFault(f"tile '{tile_id}'", "has no image at mipmap level 0", "ingest its metafile again")
    width, height = spec.get("width"), spec.get("height")
    if not isinstance(width, int | float) or not isinstance(height, int | float) or min(width, height) < 1:
        raise ImageFault(f"tile '{tile_id}'", f"has no size, but {width} x {height}", "ingest its metafile again")
    mask = entry.get("maskUrl")
    return Level0(tile_id, uri_to_path(entry["imageUrl"]), uri_to_path(mask) if mask else None, int(width), int(height))


def faulty_levels(tile: Level0, plan: MipmapPlan) -> str:
    """What is wrong with the files of a tile's levels, by their headers; empty if each is there and of its size.

    >>> faulty_levels(Level0("a", Path("/d/a.tif"), None, 64, 64), MipmapPlan(Path("/nowhere"), levels=1))
    '/nowhere/1/d/a.tif.tif is not there'
    """
    images = [tile.image, tile.mask] if tile.mask else [tile.image]
    problems = (
        _level_problem(path, *level_size(tile.width, tile.height, level))
        for image in images
        for level, path in plan.outputs(image)
    )
    return next((problem for problem in problems if problem), "")


def _level_problem(path: Path, width: int, height: int) -> str:
    try:
        found = inspect_image(path)
    except FileNotFoundError:
        return f"{path} is not there"
    except (ImageFault, OSError) as error:
        return f"{path} cannot be used: {error.problem if isinstance(error, ImageFault) else error.strerror}"
    if (found.width, found.height) != (width, height):
        return f"{path} is {found.width}x{found.height} pixels, not {width}x{height}"
    return ""
