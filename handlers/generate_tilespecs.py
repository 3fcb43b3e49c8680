"""The ingest step: put the tile specs of one montage into a stack and read them back.

`generate_tilespecs` reads, checks and ingests one metafile; `ingest_tiles` takes its tile specs.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from handlers.acquisition.acquisition import Acquisition
from handlers.acquisition.arrival import Arrival, check_images, depth_warnings, read_metafile, with_sizes
from handlers.acquisition.findings import Severity
from handlers.acquisition.formats.pytemca import PyTemca
from handlers.acquisition.formats.reader import Reader
from handlers.acquisition.tilespec import TileSpecOptions, options_for, shared_transform_for, tile_specs_for
from handlers.acquisition.z import ZRule, ZRuleKind, check_z
from handlers.errors import Fault, ImageFault, ImagesMissing, MetafileFault, ReadBackDiffers, SettingsFault
from handlers.render.client import RenderClient
from handlers.render.layer_responses import TileBounds
from handlers.render.names import StackId, tile_segment
from handlers.render.sessions import PartialResolution, fill_resolution, leave_stack, restore_stack, write_while_loading
from handlers.render.tiles import MAX_TILES, Json, tile_ids
from handlers.text import abbreviate, z_text

PYTEMCA: Final = PyTemca()
RESOLUTION_Z_NM = 45.0
"""Default thickness of a section in a stack that is created."""


@dataclass(frozen=True, slots=True)
class IngestReport:
    """Tiles that were put into a stack and read back."""

    stack: StackId
    z: float
    tile_count: int
    """Tiles of this montage."""
    other_tile_count: int
    """Tiles of other montages at this z."""
    request_count: int
    """Number of uploads."""
    deleted: tuple[str, ...]
    """Ids of the unwanted tiles that were deleted."""


@dataclass(frozen=True, slots=True, repr=False)
class TilespecsReport:
    """A metafile whose tile specs were put into a stack and read back."""

    ingested: IngestReport
    warnings: tuple[str, ...]
    """Problems of the metafile and its images that did not prevent the ingest."""
    complete: bool
    """Whether the stack is COMPLETE at the end; else it is LOADING."""

    def __repr__(self) -> str:
        """Return the outcome as a person reads it."""
        ingested, state = self.ingested, "COMPLETE" if self.complete else "LOADING"
        outcome = f"{ingested.stack}: {ingested.tile_count} tiles are at z {z_text(ingested.z)}; the stack is {state}"
        return "\n".join([outcome, *(f"warning: {warning}" for warning in self.warnings)])


async def generate_tilespecs(
    client: RenderClient,
    metafile: Path,
    stack: StackId,
    z: float,
    *,
    reader: Reader = PYTEMCA,
    pixel_size_nm: float | None = None,
    image_directory: Path | None = None,
    options: TileSpecOptions | None = None,
    shared_transform: bool = False,
    resolution_z_nm: float = RESOLUTION_Z_NM,
    resolution_nm: PartialResolution = (None, None, None),
    overwrite_layer: bool = False,
    close: bool = False,
) -> TilespecsReport:
    """Put the tile specs of one metafile into a stack at stage coordinates, and read them back.

    A missing stack is created with the metafile's calibration. The header of every image is checked: an image that is
    missing, truncated or of another size is a fault. If all images are missing, that is only a warning: render-ws may
    see a directory that this machine does not see.

    Parameters
    ----------
    reader : reader of the metafile's format.
    pixel_size_nm : overrides the pixel size of the metafile; required for a format that does not state it.
    image_directory : directory of the images; by default the reader's.
    options : intensities, section id, mask, positions; by default the reader's.
    shared_transform : whether tiles refer to the lens correction of the metafile, if it has one.
    resolution_z_nm : z resolution of a stack that is created; x and y are those of the calibration.
    resolution_nm : x, y, z of a stack that is created; each overrides the values above.
    overwrite_layer : whether other tiles of this z are deleted after the new tiles have been read back.
    close : whether the stack is made COMPLETE at the end.

    Raises
    ------
    Fault
        MetafileFault, ImageFault, ImagesMissing or StorageFault for files; SettingsFault if no pixel size is known;
        RenderFault for the stack, whose former state is restored.
    """
    directory = image_directory or reader.image_directory(metafile)
    options = options or options_for(reader)
    montage, warnings = await examine_metafile(metafile, z, directory, options, reader)
    if pixel_size_nm is not None:
        montage = replace(montage, pixel_size_nm=(pixel_size_nm, pixel_size_nm))
    transform = shared_transform_for(montage, str(metafile)) if shared_transform else None
    transform_id = transform["id"] if transform else None
    specs = tile_specs_for(montage, z, directory, options, shared_transform_id=transform_id, subject=str(metafile))
    transforms = {transform["id"]: transform} if transform else {}
    if montage.pixel_size_nm is None:
        raise SettingsFault("pixel_size_nm", f"is required: {metafile} does not state it")
    x_y_nm = montage.pixel_size_nm

    async def put() -> IngestReport:
        others = await client.tile_bounds(stack, z) if overwrite_layer else ()
        unwanted = [tile.tile_id for tile in others]
        return await ingest_tiles(client, stack, z, specs, transforms, unwanted=unwanted)

    before = await client.stack(stack)
    try:
        created_with = fill_resolution(resolution_nm, (*x_y_nm, montage.thickness_nm or resolution_z_nm))
        ingested = await write_while_loading(client, stack, created_with, put)
        complete = await leave_stack(client, stack, before, (z,), close=close, whole=True)
    except Fault:
        await restore_stack(client, stack, before)
        raise
    return TilespecsReport(ingested, warnings, complete)


async def examine_metafile(
    metafile: Path, z: float, image_directory: Path | None, options: TileSpecOptions, reader: Reader = PYTEMCA
) -> tuple[Acquisition, tuple[str, ...]]:
    """Return a parsed metafile, and the warnings about it and its images. Raises a fault if either is invalid."""
    content = await read_metafile(metafile, follow_links=True)
    directory = image_directory or reader.image_directory(metafile)
    return await asyncio.to_thread(_examine, metafile, content, directory, z, options, reader)


def _examine(
    path: Path, content: bytes, directory: Path, z: float, options: TileSpecOptions, reader: Reader
) -> tuple[Acquisition, tuple[str, ...]]:
    """Return the parsed metafile, and the warnings about it and its images. Raises a fault if either is invalid."""
    acquisition = with_sizes(reader.parse(content, path), directory)
    findings = [*reader.check(acquisition, path), *check_z(acquisition, z, ZRule(ZRuleKind.FIXED, fixed=z))]
    errors = [finding.text for finding in findings if finding.severity is Severity.ERROR]
    if errors:
        raise MetafileFault(str(path), "; ".join(errors), "check the program that wrote this metafile")
    arrival = check_images(acquisition, directory)
    warnings = [finding.text for finding in findings]
    warnings += _image_warnings(arrival, acquisition, directory)
    return acquisition, (*warnings, *depth_warnings(arrival.bits, options.maximum_intensity))


def _image_warnings(arrival: Arrival, acquisition: Acquisition, directory: Path) -> list[str]:
    """Return a warning if all images are missing. Raises ImageFault or ImagesMissing if only some are unusable."""
    total = len(acquisition.tiles)
    missing = sorted(problem.path.name for problem in arrival.missing)
    lacks = f"lacks {len(missing)} of {total} images: {abbreviate(missing, 5)}"
    if arrival.unreadable:
        invalid = abbreviate([f"{problem.path.name} {problem.why}" for problem in arrival.unreadable], 5, "; ")
        problems = [
            f"{len(arrival.unreadable)} of {total} images are invalid: {invalid}",
            *([lacks] if missing else []),
        ]
        raise ImageFault(str(directory), "; ".join(problems), arrival.unreadable[0].hint)
    if 0 < len(missing) < total:
        raise ImagesMissing(str(directory), lacks, "copy them there first")
    if missing and acquisition.tiles[0].width is None:
        raise ImagesMissing(
            str(directory), f"{lacks}; this format states the size of tiles only in the images", "copy them there first"
        )
    if missing:
        return [f"none of the {total} images is in {directory}: the tile specs were made without a check of the images"]
    return []


async def ingest_tiles(
    client: RenderClient,
    stack: StackId,
    z: float,
    specs: Sequence[Json],
    shared_transforms: Mapping[str, Json] | None = None,
    *,
    unwanted: Collection[str] = (),
    max_tiles: int = MAX_TILES,
) -> IngestReport:
    """Put a montage's tiles, check that each is in the stack at this z, then delete its unwanted tiles.

    The layer is never empty: old tiles are deleted only after the new ones have been read back. The step can be
    repeated after an interruption at any point, with the same result.

    Parameters
    ----------
    specs : tile specs as render-ws JSON, all of this z.
    shared_transforms : transforms that specs refer to, by id.
    unwanted : ids of this montage's earlier tiles, at any z. Those that are not among the specs are deleted, and no
        others.
    max_tiles : largest number of tiles of one upload.

    Raises
    ------
    StackNotLoading
        If another client closed the stack: reopen it and ingest again.
    ReadBackDiffers
        If a tile is missing afterwards, or an unwanted tile still exists.
    RenderFault
        As raised by the client.
    """
    leftover = await asyncio.to_thread(_leftover, specs, unwanted)
    request_count = await client.put_tiles(stack, z, specs, shared_transforms, max_tiles=max_tiles)
    present = await client.tile_bounds(stack, z)
    await asyncio.to_thread(_check, stack, z, specs, present)
    if leftover:
        present = await client.delete_tiles(stack, z, leftover)
        await asyncio.to_thread(_check, stack, z, specs, present)
    return IngestReport(stack, z, len(specs), len(present) - len(specs), request_count, leftover)


def _leftover(specs: Sequence[Json], unwanted: Collection[str]) -> tuple[str, ...]:
    """Return the unwanted ids that are not among the specs, sorted. Raises RenderRefused if a URL cannot hold one."""
    leftover = tuple(sorted(set(unwanted) - set(tile_ids(specs))))
    for tile_id in leftover:
        tile_segment(tile_id)
    return leftover


def _check(stack: StackId, z: float, specs: Sequence[Json], bounds: Collection[TileBounds]) -> None:
    """Check that every tile is in the stack, at its z and in its section. Raises ReadBackDiffers."""
    present = {tile.tile_id: tile for tile in bounds}
    missing = [tile_id for tile_id in tile_ids(specs) if tile_id not in present]
    if missing:
        raise ReadBackDiffers(
            f"{stack} z {z}",
            f"{len(missing)} of {len(specs)} tiles that were put are missing: {abbreviate(sorted(missing), 5)}",
            "another client deletes or moves them, or render-ws reads from a replica",
        )
    elsewhere = [str(spec["tileId"]) for spec in specs if _is_elsewhere(spec, present[spec["tileId"]])]
    if elsewhere:
        raise ReadBackDiffers(
            f"{stack} z {z}",
            f"has tiles at another z or in another section than was put: {abbreviate(sorted(elsewhere), 5)}",
        )


def _is_elsewhere(spec: Json, shown: TileBounds) -> bool:
    section_id = (spec.get("layout") or {}).get("sectionId")
    return shown.z != spec["z"] or (section_id is not None and shown.section_id not in (None, section_id))
