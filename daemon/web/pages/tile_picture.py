"""Draw a tile from the smallest of its levels that is large enough. Blocking."""

import io
import os
from pathlib import Path

from PIL import Image

from handlers.container import Container
from handlers.errors import ImagesMissing
from handlers.images.decode import read_image
from handlers.images.reduction import level_size
from handlers.mipmaps.plan import Level0, MipmapPlan
from handlers.place import Place

SIZES = (256, 1024)
"""Offered lengths of the longer side, pixels."""
MAX_PIXELS = 4_194_304
"""Largest level that is drawn, pixels."""


def level_for(tile: Level0, plan: MipmapPlan, size: int) -> tuple[int, Place]:
    """Return the highest level whose longer side has at least `size` pixels, and its file.

    Raises
    ------
    ImagesMissing
        If the tile has no level of a suitable size.
    """
    outputs = plan.outputs(tile.image)
    large = [each for each in outputs if max(level_size(tile.width, tile.height, each[0])) >= size]
    level, path = large[-1] if large else outputs[0] if outputs else (0, tile.image)
    width, height = level_size(tile.width, tile.height, level)
    if level == 0 or width * height > MAX_PIXELS:
        raise ImagesMissing(str(tile.image), f"has no level of at most {MAX_PIXELS} pixels", "raise mipmaps.levels")
    return level, path


def tile_png(tile: Level0, plan: MipmapPlan, size: int) -> bytes:
    """Return the tile as a PNG whose longer side has at most `size` pixels.

    Raises
    ------
    Fault
        If the level is missing or is not an image of the expected size.
    """
    level, path = level_for(tile, plan, size)
    output_dir = plan.output_dir
    root = Container(output_dir, Path(os.path.realpath(output_dir))) if isinstance(output_dir, Path) else None
    pixels, _ = read_image(path, *level_size(tile.width, tile.height, level), root=root)
    picture = Image.fromarray(pixels if pixels.dtype.itemsize == 1 else (pixels >> 8).astype("uint8"))
    picture.thumbnail((size, size), Image.Resampling.BOX)
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=3)
    return out.getvalue()
