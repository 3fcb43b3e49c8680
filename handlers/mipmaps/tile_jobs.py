"""The jobs that make a tile's mipmap files, as a plan has them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from handlers.errors import SettingsFault
from handlers.images.reduction import MASK
from handlers.images.source import RenderSource
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.plan import Level0, MipmapPlan


def tile_job(tile: Level0, plan: MipmapPlan, root: Path | None = None) -> MipmapJob:
    """The job that makes a tile's levels; `root` is the directory that the image may not lead out of."""
    return MipmapJob(
        tile_id=tile.tile_id,
        level0=tile.image,
        outputs=plan.outputs(tile.image),
        width=tile.width,
        height=tile.height,
        reduction=plan.reduction,
        encoding=plan.encoding,
        convert_to_8bit=plan.convert_to_8bit,
        intensity_range=plan.range_16bit,
        root=root,
        force=plan.force,
        maximum_intensity=tile.maximum_intensity,
        source=_source(plan, RenderSource.of_image, tile.tile_id, tile.maximum_intensity),
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
        outputs=plan.outputs(tile.mask, mask=True),
        width=tile.width,
        height=tile.height,
        reduction=MASK,
        encoding=plan.mask_encoding,
        is_mask=True,
        force=plan.force,
        source=_source(plan, RenderSource.of_mask, tile.tile_id),
    )


def _source(plan: MipmapPlan, make: Callable[..., RenderSource], *of: object) -> RenderSource | None:
    """Where render-ws serves the image, by the maker for images or for masks; None if the file itself is read."""
    return replace(make(plan.stack_url, *of), authorization=plan.authorization) if plan.stack_url else None
