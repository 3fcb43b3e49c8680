"""The ingest step: tile specs of one montage into a stack, read back.

`generate_tilespecs` is the whole of it for one metafile, `generate_tilespecs_sync` the same for scripts and notebooks.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from handlers.acquisition.arrival import Arrival, check_images, depth_warnings, read_metafile
from handlers.acquisition.consistency import Severity, check_metafile
from handlers.acquisition.metafile import Metafile
from handlers.acquisition.parse import parse_metafile
from handlers.acquisition.tilespec import TileSpecOptions, shared_transform_for, tile_specs_for
from handlers.acquisition.z import ZRule, ZRuleKind, check_z
from handlers.errors import Fault, ImageFault, ImagesMissing, MetafileFault, ReadBackDiffers
from handlers.render.client import RenderClient, StackId, TileBounds
from handlers.render.names import tile_segment
from handlers.render.sessions import PartialResolution, completed, leave_stack, restore_stack, write_while_loading
from handlers.render.tiles import MOST_TILES, Json, tile_ids
from handlers.sync import synchronous
from handlers.text import abbreviate

RESOLUTION_Z_NM = 45.0
"""Thickness of a section in a stack that has to be created, unless another is given."""


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


@dataclass(frozen=True, slots=True)
class TilespecsReport:
    """A metafile whose tile specs are in a stack, read back."""

    ingested: IngestReport
    warnings: tuple[str, ...]
    """What a person may want to look at, though the tiles are in the stack."""
    complete: bool
    """Whether the stack was left COMPLETE; LOADING if not."""


async def generate_tilespecs(
    client: RenderClient,
    metafile: Path,
    stack: StackId,
    z: float,
    *,
    image_directory: Path | None = None,
    options: TileSpecOptions | None = None,
    shared_transform: bool = False,
    resolution_z_nm: float = RESOLUTION_Z_NM,
    resolution_nm: PartialResolution = (None, None, None),
    overwrite_layer: bool = False,
    close: bool = False,
) -> TilespecsReport:
    """Put the tile specs of one metafile into a stack at stage coordinates, and read them back.

    The stack is created, with the metafile's calibration, where it does not exist. Images are looked at by their
    headers: some of them missing, cut short or of another size is a fault. All of them missing is a warning: this
    machine may not see them where render-ws does.

    Parameters
    ----------
    image_directory : where the images are; by default where the metafile is.
    options : intensities, section id, mask, positions; by default tile specs as asap-modules makes them.
    shared_transform : whether tiles refer to the lens correction that the metafile may hold.
    resolution_z_nm : of a stack that has to be created; x and y are the calibration's.
    resolution_nm : x, y, z that go before both.
    overwrite_layer : whether other tiles of this z are deleted, once the new ones are seen in the stack.
    close : whether the stack is made COMPLETE at the end.

    Raises
    ------
    Fault
        MetafileFault, ImageFault, ImagesMissing or StorageFault for what is on disk; RenderFault for the stack, which
        then is left in the state in which it was found.
    """
    directory = image_directory or metafile.parent
    options = options or TileSpecOptions()
    content = await read_metafile(metafile, follow_links=True)
    parsed, warnings = await asyncio.to_thread(_examine, metafile, content, directory, z, options)
    transform = shared_transform_for(parsed) if shared_transform else None
    specs = tile_specs_for(parsed, z, directory, options, shared_transform_id=transform["id"] if transform else None)
    transforms = {transform["id"]: transform} if transform else {}
    calibration = parsed.header.highmag

    async def put() -> IngestReport:
        others = await client.tile_bounds(stack, z) if overwrite_layer else ()
        unwanted = [tile.tile_id for tile in others]
        return await ingest_tiles(client, stack, z, specs, transforms, unwanted=unwanted)

    before = await client.stack(stack)
    try:
        created_with = completed(resolution_nm, (*calibration.pixel_size_nm, resolution_z_nm))
        ingested = await write_while_loading(client, stack, created_with, put)
        complete = await leave_stack(client, stack, before, (z,), close=close, whole=True)
    except Fault:
        await restore_stack(client, stack, before)
        raise
    return TilespecsReport(ingested, warnings, complete)


generate_tilespecs_sync = synchronous(generate_tilespecs)
"""`generate_tilespecs` for callers that do not await; the client is given as the URL of the service."""


def _examine(
    path: Path, content: bytes, directory: Path, z: float, options: TileSpecOptions
) -> tuple[Metafile, tuple[str, ...]]:
    """The metafile, which can be meant, and what is odd about it and its images."""
    metafile = parse_metafile(content, str(path))
    findings = [*check_metafile(metafile, path.name), *check_z(metafile, z, ZRule(ZRuleKind.FIXED, fixed=z))]
    wrong = [finding.text for finding in findings if finding.severity is Severity.ERROR]
    if wrong:
        raise MetafileFault(str(path), "; ".join(wrong), "see what wrote this metafile")
    arrival = check_images(metafile, directory)
    warnings = [finding.text for finding in findings]
    warnings += _image_warnings(arrival, metafile, directory)
    return metafile, (*warnings, *depth_warnings(arrival.bits, options.maximum_intensity))


def _image_warnings(arrival: Arrival, metafile: Metafile, directory: Path) -> list[str]:
    """Warns of images that this machine cannot see. Raises ImageFault or ImagesMissing if some are there and whole."""
    total = len(metafile.tiles)
    if arrival.unreadable:
        first = arrival.unreadable[0]
        raise ImageFault(str(directory), f"{len(arrival.unreadable)} of {total} images: {first.why}", first.hint)
    if 0 < len(arrival.missing) < total:
        names = abbreviate(sorted([problem.path.name for problem in arrival.missing]), 5)
        raise ImagesMissing(
            str(directory), f"lacks {len(arrival.missing)} of {total} images: {names}", "copy them there first"
        )
    if arrival.missing:
        return [f"none of the {total} images is in {directory}: their tile specs were made unseen"]
    return []


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
    leftover = await asyncio.to_thread(_leftover, specs, unwanted)
    request_count = await client.put_tiles(stack, z, specs, shared_transforms, most_tiles=most_tiles)
    there = await client.tile_bounds(stack, z)
    await asyncio.to_thread(_check, stack, z, specs, there)
    if leftover:
        there = await client.delete_tiles(stack, z, leftover)
        await asyncio.to_thread(_check, stack, z, specs, there)
    return IngestReport(stack, z, len(specs), len(there) - len(specs), request_count, leftover)


def _leftover(specs: Sequence[Json], unwanted: Collection[str]) -> tuple[str, ...]:
    """The unwanted ids that are not among the specs, in order. Raises RenderRefused for an id that no URL can carry."""
    leftover = tuple(sorted(set(unwanted) - set(tile_ids(specs))))
    for tile_id in leftover:
        tile_segment(tile_id)
    return leftover


def _check(stack: StackId, z: float, specs: Sequence[Json], bounds: Collection[TileBounds]) -> None:
    """Refuse to go on unless every tile is there, at its z, in its section."""
    there = {tile.tile_id: tile for tile in bounds}
    missing = [tile_id for tile_id in tile_ids(specs) if tile_id not in there]
    if missing:
        raise ReadBackDiffers(
            f"{stack} z {z}",
            f"{len(missing)} of {len(specs)} tiles just put are not there: {abbreviate(sorted(missing), 5)}",
            "another client deletes or moves them, or render-ws reads from a replica",
        )
    elsewhere = [str(spec["tileId"]) for spec in specs if _is_elsewhere(spec, there[spec["tileId"]])]
    if elsewhere:
        raise ReadBackDiffers(
            f"{stack} z {z}",
            f"has tiles at another z or in another section than was put: {abbreviate(sorted(elsewhere), 5)}",
        )


def _is_elsewhere(spec: Json, seen: TileBounds) -> bool:
    section_id = (spec.get("layout") or {}).get("sectionId")
    return seen.z != spec["z"] or (section_id is not None and seen.section_id not in (None, section_id))
