"""The ingest step: tile specs of one montage into a stack, read back."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from handlers.errors import ReadBackDiffers
from handlers.render import RenderClient, StackId, TileBounds
from handlers.rendernames import tile_segment
from handlers.resolvedtiles import MOST_TILES, Json, some, tile_ids


@dataclass(frozen=True, slots=True)
class IngestReport:
    """Tiles that are in the stack, read back."""

    stack: StackId
    z: float
    tile_count: int
    """Tiles of this montage."""
    other_tile_count: int
    """Tiles of this z that are not this montage's."""
    request_count: int
    """Uploads that it took."""
    deleted: tuple[str, ...]
    """Ids that were no longer wanted, and are gone."""


async def ingest_tiles(
    client: RenderClient,
    stack: StackId,
    z: float,
    specs: Sequence[Json],
    shared_transforms: Mapping[str, Json] | None = None,
    *,
    unwanted: Collection[str] = (),
    most_tiles: int = MOST_TILES,
) -> IngestReport:
    """Put a montage's tiles, read back that each is there at this z, then delete those no longer wanted.

    The order keeps a layer from ever being empty: new tiles are there, and seen, before old ones go. Doing it again,
    wholly or from the middle, ends in the same stack.

    Parameters
    ----------
    specs : tile specs as render-ws JSON, all of this z.
    shared_transforms : transforms that specs refer to, by id.
    unwanted : ids of this montage's earlier tiles, at any z; those that are not among the specs are deleted. No other
        tile is.
    most_tiles : of one upload.

    Raises
    ------
    StackNotLoading
        If somebody closed the stack; reopen it and ingest again.
    ReadBackDiffers
        If a tile is not there afterwards, or an unwanted one still is.
    RenderFault
        Others, as of the client.
    """
    wanted = tile_ids(specs)
    leftover = sorted(set(unwanted) - set(wanted))
    for tile_id in leftover:
        tile_segment(tile_id)
    request_count = await client.put_tiles(stack, z, specs, shared_transforms, most_tiles=most_tiles)
    there = _by_id(await client.tile_bounds(stack, z))
    _check(stack, z, specs, there)
    if leftover:
        there = _by_id(await client.delete_tiles(stack, z, leftover))
        _check(stack, z, specs, there)
    return IngestReport(stack, z, len(wanted), len(there) - len(wanted), request_count, tuple(leftover))


def _by_id(bounds: Collection[TileBounds]) -> dict[str, TileBounds]:
    return {tile.tile_id: tile for tile in bounds}


def _check(stack: StackId, z: float, specs: Sequence[Json], there: Mapping[str, TileBounds]) -> None:
    """Refuse to go on unless every tile is there, at its z, in its section."""
    missing = [tile_id for tile_id in tile_ids(specs) if tile_id not in there]
    if missing:
        raise ReadBackDiffers(
            f"{stack} z {z}",
            f"{len(missing)} of {len(specs)} tiles just put are not there: {some(missing)}",
            "another client deletes or moves them, or render-ws reads from a replica",
        )
    elsewhere = [str(spec["tileId"]) for spec in specs if _is_elsewhere(spec, there[spec["tileId"]])]
    if elsewhere:
        raise ReadBackDiffers(
            f"{stack} z {z}", f"has tiles at another z or in another section than was put: {some(elsewhere)}"
        )


def _is_elsewhere(spec: Json, seen: TileBounds) -> bool:
    section_id = (spec.get("layout") or {}).get("sectionId")
    return seen.z != spec["z"] or (section_id is not None and seen.section_id not in (None, section_id))
