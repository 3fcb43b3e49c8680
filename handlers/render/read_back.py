"""Writing tiles and path builders to a stack, then reading them back and comparing."""

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

from handlers.errors import ReadBackDiffers
from handlers.render.client import RenderClient
from handlers.render.layer_responses import ResolvedTiles, release
from handlers.render.names import StackId, format_z
from handlers.render.responses import PathBuilder
from handlers.render.tiles import Json, differences, shared_transforms
from handlers.text import abbreviate

_MAX_DIFFERENCES = 5
"""Differences that a fault lists; it counts the others."""


async def read_layer(client: RenderClient, stack: StackId, z: float) -> ResolvedTiles:
    """Read all tiles of a z. Raises ReadBackDiffers if there are none."""
    found = await client.resolved_tiles(stack, z)
    if found is None:
        raise ReadBackDiffers(f"{stack} z {format_z(z)}", "has no tiles", "ingest the montage again, or check its z")
    return found


def tiles_by_id(found: ResolvedTiles) -> dict[str, dict[str, Any]]:
    """Return the tile specs by their own ids; specs without an id are left out."""
    return {spec["tileId"]: spec for spec in found.tile_id_to_spec_map.values() if "tileId" in spec}


async def put_and_compare(
    client: RenderClient,
    target: StackId,
    z: float,
    specs: list[dict[str, Any]],
    transforms: Mapping[str, Json],
    max_tiles: int,
) -> int:
    """Put the specs and the transforms that they need, check that the stack shows them, and return the request count.

    Raises
    ------
    ReadBackDiffers
        If the stack shows another value, or lacks a tile or transform.
    """
    needed, has_bounds = await asyncio.to_thread(_needs, specs, transforms)
    count = await client.put_tiles(target, z, specs, needed, derive=not has_bounds, max_tiles=max_tiles)
    shown = await read_layer(client, target, z)
    await asyncio.to_thread(_compare, f"{target} z {format_z(z)}", specs, needed, shown)
    await asyncio.to_thread(release, shown.tile_id_to_spec_map)
    return count


def _needs(specs: list[dict[str, Any]], transforms: Mapping[str, Json]) -> tuple[dict[str, Json], bool]:
    """Return the transforms that the tiles need, and whether every tile has its bounds."""
    has_bounds = all(spec.get(side) is not None for spec in specs for side in ("minX", "minY", "maxX", "maxY"))
    return shared_transforms(specs, transforms), has_bounds


def _compare(subject: str, specs: Collection[Json], transforms: Mapping[str, Json], shown: ResolvedTiles) -> None:
    tiles = tiles_by_id(shown)
    pairs = [(f"tile '{spec['tileId']}'", spec, tiles.get(spec["tileId"])) for spec in specs]
    pairs += [
        (f"transform '{name}'", spec, shown.transform_id_to_spec_map.get(name)) for name, spec in transforms.items()
    ]
    found = [line for name, sent, there in pairs for line in _differences(name, sent, there)]
    if found:
        raise ReadBackDiffers(
            subject,
            f"shows other tiles than were written: {abbreviate(found, _MAX_DIFFERENCES, '; ')}",
            "another client writes the same tiles",
        )


def _differences(name: str, sent: Json, there: Json | None) -> list[str]:
    return [f"{name}: not shown"] if there is None else list(differences(sent, there, name))


async def delete_tiles(client: RenderClient, target: StackId, z: float, unwanted: Collection[str]) -> tuple[str, ...]:
    """Delete tiles, if any are given, check that they are gone, and return their ids in order."""
    if unwanted:
        await client.delete_tiles(target, z, sorted(unwanted))
    return tuple(sorted(unwanted))


async def set_path_builder(client: RenderClient, target: StackId, builder: PathBuilder) -> None:
    """Set the stack's path builder and read it back. Raises ReadBackDiffers if the stack shows another one."""
    await client.put_path_builder(target, builder)
    shown = await client.path_builder(target)
    if shown is None or shown.normalized() != builder:
        raise ReadBackDiffers(
            str(target),
            f"was given the path builder {builder.to_json()}, but shows {shown and shown.to_json()}",
            "another client changed the stack at the same moment",
        )
