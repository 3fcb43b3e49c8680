"""Jobs that make the mipmap files of a tile and of its mask by a plan."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from handlers.container import Container
from handlers.errors import SettingsFault
from handlers.images.reduction import MASK
from handlers.images.render_source import RenderSource
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.plan import Level0, MipmapPlan

if TYPE_CHECKING:  # most importers only describe jobs
    from handlers.mipmaps.overlap import Neighbour


def tile_job(
    tile: Level0,
    plan: MipmapPlan,
    root: Container | None = None,
    *,
    measure: bool = False,
    neighbours: "tuple[Neighbour, ...]" = (),
) -> MipmapJob:
    """Return the job that makes a tile's levels.

    Parameters
    ----------
    root : directory that must contain the image, or its MRC file, after all links are followed; None: any.
    measure : whether the report contains numbers of the image and digests of the levels.
    neighbours : tiles whose overlap with this one is compared.
    """
    return MipmapJob(
        tile_id=tile.tile_id,
        level0=tile.image,
        stack=tile.stack,
        outputs=plan.outputs(tile.image),
        width=tile.width,
        height=tile.height,
        reduction=plan.reduction,
        encoding=plan.encoding,
        convert_to_8bit=plan.convert_to_8bit,
        intensity_range=plan.range_16bit,
        root=root,
        container=plan.container,
        output_dir=plan.output_dir,
        sharing=plan.sharing,
        force=plan.force,
        maximum_intensity=tile.maximum_intensity,
        measure=measure,
        neighbours=neighbours,
        source=_source(plan, RenderSource.of_image, tile.tile_id, tile.maximum_intensity),
    )


def mask_job(tile: Level0, plan: MipmapPlan) -> MipmapJob:
    """Return the job that makes the levels of a tile's mask. Its `tile_id` is the mask's path.

    Many tiles share one mask, which has their size. A pixel of a level is opaque only if its whole block is.

    Raises
    ------
    SettingsFault
        If the tile has no mask.
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
        container=plan.container,
        output_dir=plan.output_dir,
        sharing=plan.sharing,
        force=plan.force,
        source=_source(plan, RenderSource.of_mask, tile.tile_id),
    )


def _source(plan: MipmapPlan, make: Callable[..., RenderSource], *of: object) -> RenderSource | None:
    """Return the address at which render-ws serves an image or mask; None if the plan reads the file."""
    if plan.stack_url is None:
        return None
    return replace(make(plan.stack_url, *of), authorization=plan.authorization, access=plan.access)
