"""The apply step: name the mipmap levels of one montage in a stack, in its tile specs or by a path builder.

Tile specs are edited as JSON, so unknown fields survive. Only the levels of this montage's tiles change.
`apply_mipmaps_to_stack` processes whole layers.
"""

import asyncio
import itertools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from handlers.errors import Fault, ImageFault, ReadBackDiffers, RenderRefused, RenderUnavailable
from handlers.mipmaps.plan import MipmapPlan, faulty_levels, level0_of, level_uris
from handlers.progress import Progress
from handlers.render.client import RenderClient
from handlers.render.failures import Failure, failure_lines
from handlers.render.layer_responses import ResolvedTiles, release
from handlers.render.levels import Levels, check_levels, with_levels
from handlers.render.names import StackId, ZRange, format_z
from handlers.render.path_builder import check_derived, merged_builder
from handlers.render.read_back import delete_tiles, put_and_compare, read_layer, set_path_builder, tiles_by_id
from handlers.render.responses import PathBuilder
from handlers.render.sessions import PartialResolution, fill_resolution, leave_stack, restore_stack, write_while_loading
from handlers.render.tiles import MAX_TILES
from handlers.render.z_values import absent_z_failure, find_z, no_tiles_fault
from handlers.text import abbreviate, counted


@dataclass(frozen=True, slots=True)
class ApplyReport:
    """A montage whose mipmap levels were put into a stack, read back and compared."""

    source: StackId
    target: StackId
    z: float
    tile_count: int
    """Tiles of this montage."""
    level_count: int
    """Levels above 0 that these tiles have now, summed over the tiles."""
    mask_count: int
    """Levels with a mask."""
    request_count: int
    """Uploads of tiles; 0 if only the path builder was set."""
    deleted: tuple[str, ...]
    """Ids of the unwanted tiles that were deleted."""
    tiles_with_own_levels: tuple[str, ...] = ()
    """With a path builder: tiles that name levels above 0 themselves. These override the derived levels."""


@dataclass(frozen=True, slots=True, repr=False)
class LayersReport:
    """Layers whose mipmap levels were put into a stack, read back and compared."""

    target: StackId
    zs: tuple[float, ...]
    """Layers of the source that were processed."""
    tile_count: int
    """Tiles that have their levels now."""
    failures: tuple[Failure, ...]
    """Tiles that lack their levels, and layers that were not applied at all."""
    complete: bool
    """Whether the stack is COMPLETE at the end; else it is LOADING."""

    @property
    def missing_zs(self) -> tuple[float, ...]:
        """Every z with a failure, ascending."""
        return tuple(sorted({failure.z for failure in self.failures}))

    def __repr__(self) -> str:
        """Return the outcome as a person reads it."""
        state = "COMPLETE" if self.complete else "LOADING"
        layers = counted(len(self.zs), "layer")
        outcome = f"{self.target}: {self.tile_count} tiles of {layers} have their mipmaps"
        return "\n".join([f"{outcome}; the stack is {state}", *failure_lines(self.failures)])


LayerDone = Callable[[float, int, int], None]
"""Called after each layer with its z, the number of tiles that have their levels, and the number of its failures."""


async def apply_mipmaps_to_stack(
    client: RenderClient,
    source: StackId,
    target: StackId,
    zs: Collection[float] | ZRange,
    plan: MipmapPlan,
    *,
    resolution_nm: PartialResolution = (None, None, None),
    overwrite_layers: bool = False,
    close: bool = False,
    at_once: int = 1,
    progress: Progress = lambda done, known: None,
    on_layer: LayerDone = lambda z, tiles, failures: None,
) -> LayersReport:
    """Read the tiles of some layers from the source, set their mipmap levels, put them into the target, compare.

    The files of a tile's levels are checked first. A tile that lacks a level is a failure and does not stop the others.
    It is put into the target as it is in the source, so that no tile is lost. Source and target may be the same stack.

    Parameters
    ----------
    zs : z of the layers, or a range, as for `generate_mipmaps`.
    plan : the plan by which the levels were made.
    resolution_nm : x, y, z of a target that is created; None: the value of the source.
    overwrite_layers : whether each layer's tiles that the source lacks are deleted from the target afterwards.
    close : whether the target is made COMPLETE at the end, if nothing failed.
    at_once : layers processed at the same time.

    Raises
    ------
    RenderFault
        If the layers cannot be listed, none of the wanted layers exists, or the target cannot be closed.
    """
    found_z = await find_z(client, source, zs)
    if not found_z.present:
        raise no_tiles_fault(source, zs)
    meta = await client.stack(source)
    created_with = fill_resolution(resolution_nm, (meta.resolution_nm if meta else None) or (1.0, 1.0, 1.0))
    before = await client.stack(target)
    failures = [absent_z_failure(source, z) for z in found_z.absent]
    slots, done = asyncio.Semaphore(at_once), itertools.count(1)

    async def work(z: float) -> int:
        async with slots:
            applied = await _apply_layer(client, source, target, z, plan, created_with, overwrite_layers, failures)
        on_layer(z, applied, sum(failure.z == z for failure in failures))
        progress(next(done), len(found_z.present))
        return applied

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work(z), name=f"apply z {z}") for z in found_z.present]
        failures.sort(key=lambda failure: (failure.z, failure.tile_id or ""))
        complete = await leave_stack(client, target, before, found_z.present, close=close, whole=not failures)
    except Fault:
        await restore_stack(client, target, before)
        raise
    return LayersReport(target, found_z.present, sum(task.result() for task in tasks), tuple(failures), complete)


async def _apply_layer(
    client: RenderClient,
    source: StackId,
    target: StackId,
    z: float,
    plan: MipmapPlan,
    resolution_nm: tuple[float, float, float],
    overwrite: bool,
    failures: list[Failure],
) -> int:
    """Apply one layer, append its failures to `failures`, and return the number of tiles that have their levels now."""
    if any(isinstance(failure.fault, RenderUnavailable) for failure in failures):
        problem = "was not available for an earlier layer, so this layer was not tried"
        failures.append(Failure(z, None, RenderUnavailable(client.base_url, problem)))
        return 0
    try:
        found = await read_layer(client, source, z)
        edited, faulty = await asyncio.to_thread(_with_levels_of_files, tiles_by_id(found).values(), z, plan)
        specs = edited + ([] if source == target else [spec for spec, _ in faulty])

        async def put() -> None:
            await put_and_compare(client, target, z, specs, found.transform_id_to_spec_map, MAX_TILES)
            if overwrite and target != source:
                present = {tile.tile_id for tile in await client.tile_bounds(target, z)}
                await delete_tiles(client, target, z, present - set(tiles_by_id(found)))

        if specs:
            await write_while_loading(client, target, resolution_nm, put)
    except Fault as fault:
        failures.append(Failure(z, None, fault))
        return 0
    failures += [failure for _, failure in faulty]
    return len(edited)


def _with_levels_of_files(
    specs: Collection[dict[str, Any]], z: float, plan: MipmapPlan
) -> tuple[list[dict[str, Any]], list[tuple[dict[str, Any], Failure]]]:
    """Return the tiles whose files exist, with their levels, and the other tiles unchanged, with their failures."""
    edited, faulty = [], []
    for spec in specs:
        try:
            tile = level0_of(spec, plan.path_map)
            if problem := faulty_levels(tile, plan):
                raise ImageFault(f"tile '{tile.tile_id}'", f"lacks a mipmap level: {problem}", "make its mipmaps first")
            edited.append(with_levels(spec, level_uris(tile, plan)))
        except Fault as fault:
            faulty.append((spec, Failure(z, str(spec["tileId"]), fault)))
    return edited, faulty


async def apply_mipmaps(
    client: RenderClient,
    source: StackId,
    target: StackId,
    z: float,
    levels_by_tile: Mapping[str, Levels],
    *,
    unwanted: Collection[str] = (),
    max_tiles: int = MAX_TILES,
) -> ApplyReport:
    """Read a montage's tiles from the source, set their mipmap levels, put them into the target, compare.

    The given levels replace all levels above 0, including those of an earlier run. Level 0, bounds, transforms,
    references and unknown fields stay as found. Source and target may be the same stack.

    Parameters
    ----------
    levels_by_tile : the levels of each tile of the montage. Their files must exist, since render-ws reads them.
    unwanted : ids of the montage's earlier tiles. Tiles that it no longer has are deleted from the target at the end.

    Raises
    ------
    ReadBackDiffers
        If the source lacks tiles of the montage, or the target shows another value than was put.
    RenderRefused
        If a tile has no level 0 or several channels, if it has a mask but its levels have none, or if a URL is invalid.
    StackNotLoading
        If the target is closed: reopen it and apply again.
    """
    await asyncio.to_thread(check_levels, str(source), levels_by_tile)
    found = await read_layer(client, source, z)
    edited = await asyncio.to_thread(_specs_with_levels, source, z, found, levels_by_tile)
    request_count = await put_and_compare(client, target, z, edited, found.transform_id_to_spec_map, max_tiles)
    deleted = await delete_tiles(client, target, z, set(unwanted) - set(levels_by_tile))
    report = ApplyReport(
        source, target, z, len(edited), *await asyncio.to_thread(_counts, levels_by_tile), request_count, deleted
    )
    await asyncio.to_thread(release, edited, found.tile_id_to_spec_map)
    return report


async def apply_path_builder(
    client: RenderClient,
    source: StackId,
    target: StackId,
    z: float,
    levels_by_tile: Mapping[str, Levels],
    builder: PathBuilder,
    *,
    unwanted: Collection[str] = (),
    max_tiles: int = MAX_TILES,
) -> ApplyReport:
    """Set the target's path builder, so that render-ws itself derives the given levels of a montage's tiles.

    If the target is another stack, the tiles are put there first, as found in the source. An existing builder with the
    same root and extension is kept; its level count is raised if needed, never lowered.

    Parameters
    ----------
    levels_by_tile : as for `apply_mipmaps`; the builder must derive exactly these URLs.
    builder : the wanted path builder.
    unwanted : as for `apply_mipmaps`.

    Raises
    ------
    RenderRefused
        If the stack has another builder, or the builder derives other URLs than the given ones.
    ReadBackDiffers
        If the source lacks tiles, or the target shows another builder or other tiles than were put.
    """
    await asyncio.to_thread(check_levels, str(source), levels_by_tile)
    found = await read_layer(client, source, z)
    specs = await asyncio.to_thread(_specs_to_derive, source, target, z, found, levels_by_tile, builder)
    merged = merged_builder(str(target), await client.path_builder(target), builder)
    request_count = 0
    if target != source:
        request_count = await put_and_compare(client, target, z, specs, found.transform_id_to_spec_map, max_tiles)
    await set_path_builder(client, target, merged)
    deleted = await delete_tiles(client, target, z, set(unwanted) - set(levels_by_tile))
    own = tuple(str(spec["tileId"]) for spec in specs if len(spec.get("mipmapLevels") or {}) > 1)
    report = ApplyReport(
        source, target, z, len(specs), *await asyncio.to_thread(_counts, levels_by_tile), request_count, deleted, own
    )
    await asyncio.to_thread(release, specs, found.tile_id_to_spec_map)
    return report


def _counts(levels_by_tile: Mapping[str, Levels]) -> tuple[int, int]:
    """Return the number of levels, and the number of levels with a mask."""
    urls = [url for levels in levels_by_tile.values() for url in levels.values()]
    return len(urls), sum(mask is not None for _, mask in urls)


def _montage(stack: StackId, z: float, found: ResolvedTiles, wanted: Collection[str]) -> list[dict[str, Any]]:
    """Return the tile specs of a montage. Raises ReadBackDiffers if one is missing."""
    subject = f"{stack} z {format_z(z)}"
    if not wanted:
        raise RenderRefused(subject, "was given no tiles to apply mipmaps to")
    tiles = tiles_by_id(found)
    missing = [tile_id for tile_id in wanted if tile_id not in tiles]
    if missing:
        raise ReadBackDiffers(
            subject,
            f"{len(missing)} of {len(wanted)} tiles of the montage are missing: {abbreviate(sorted(missing), 5)}",
            "ingest the montage again",
        )
    return [tiles[tile_id] for tile_id in wanted]


def _specs_to_derive(
    source: StackId,
    target: StackId,
    z: float,
    found: ResolvedTiles,
    levels_by_tile: Mapping[str, Levels],
    builder: PathBuilder,
) -> list[dict[str, Any]]:
    """Return a montage's tiles. Raises RenderRefused unless the builder derives their levels."""
    specs = _montage(source, z, found, levels_by_tile)
    check_derived(target, specs, levels_by_tile, builder)
    return specs


def _specs_with_levels(
    stack: StackId, z: float, found: ResolvedTiles, levels_by_tile: Mapping[str, Levels]
) -> list[dict[str, Any]]:
    """Return a montage's tiles with their levels."""
    specs = _montage(stack, z, found, levels_by_tile)
    return [with_levels(spec, levels_by_tile[spec["tileId"]]) for spec in specs]
