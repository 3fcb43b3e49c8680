"""The routes for uploading, moving, deleting and reading tiles."""

import asyncio
import re
from collections.abc import Callable

from aiohttp import web

from daemon.simulator.standin import json_types, stack_state, tile_rules, transforms
from daemon.simulator.standin.faults import slowness_s
from daemon.simulator.standin.http import (
    STACK,
    Route,
    box_of,
    compact,
    created,
    flag,
    json_body,
    layer_of,
    pretty,
    sides_of,
    stack_key,
    touches,
    z_range,
)
from daemon.simulator.standin.images import require_files
from daemon.simulator.standin.json_types import Json, Refusal
from daemon.simulator.standin.store import Stack, Store


class TileRoutes:
    """Handlers of the requests about tiles."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def routes(self) -> list[Route]:
        """Return the routes of this part."""
        return [
            ("PUT", STACK + "/resolvedTiles", self._put_tiles),
            ("PUT", STACK + "/z/{z}/resolvedTiles", self._put_tiles),
            ("GET", STACK + "/resolvedTiles", self._resolved_of_stack),
            ("GET", STACK + "/z/{z}/resolvedTiles", self._resolved_of_layer),
            ("GET", STACK + "/z/{z}/tile-specs", self._flattened_of_layer),
            ("PUT", STACK + "/tile-specs-with-ids", self._flattened_with_ids),
            ("GET", STACK + "/z/{z}/tileBounds", self._bounds_in_layer),
            ("GET", STACK + "/section/{section}/tileBounds", self._bounds_in_section),
            ("GET", STACK + "/z/{z}/sectionData", self._section_data_of_layer),
            ("GET", STACK + "/z/{z}/bounds", self._bounds_of_layer),
            ("GET", STACK + r"/z/{z}/box/{box:[^,/]+,[^,/]+,[^,/]+,[^,/]+}/tile-count", self._tile_count),
            ("GET", STACK + "/tileIds", self._tile_ids),
            ("PUT", STACK + "/z/{z}/tileIds", self._move_tiles),
            ("GET", STACK + "/section/{section}/z", self._z_of_section),
            ("PUT", STACK + "/section/{section}/z", self._move_section),
            ("DELETE", STACK + "/z/{z}", self._delete_layer),
            ("DELETE", STACK + "/section/{section}", self._delete_section),
            ("GET", STACK + "/tile/{tile}", self._tile),
            ("DELETE", STACK + "/tile/{tile}", self._delete_tile),
            ("GET", STACK + "/tile/{tile}/validation-info", self._validation_info),
            ("GET", STACK + "/transform/{transform}", self._transform),
        ]

    def _stack(self, request: web.Request) -> Stack:
        return self._store.stack(stack_key(request))

    async def _put_tiles(self, request: web.Request) -> web.Response:
        z = layer_of(request) if "z" in request.match_info else None
        body = await json_body(request)
        if body is None:
            raise Refusal(400, "no resolved tiles provided")
        tiles, transforms = json_types.read_resolved(body)
        stack = self._stack(request)
        tile_rules.require_loading_for_upload(stack)
        tile_rules.check_upload(tiles, transforms, z, derive=flag(request, "deriveData"))
        await asyncio.sleep(slowness_s.get())
        tile_rules.save_upload(stack, tiles, transforms)
        return created(request)

    async def _move_tiles(self, request: web.Request) -> web.Response:
        z, ids = layer_of(request), json_types.read_ids(await json_body(request), "List")
        stack = self._stack(request)
        tile_rules.move_tiles(stack, [stack.tiles[tile_id] for tile_id in ids if tile_id in stack.tiles], z)
        return created(request)

    async def _move_section(self, request: web.Request) -> web.Response:
        z = json_types.number(await json_body(request), "z")
        stack = self._stack(request)
        tile_rules.move_tiles(stack, tile_rules.tiles_of_section(stack, request.match_info["section"]), z)
        return created(request)

    async def _delete_layer(self, request: web.Request) -> web.Response:
        z = layer_of(request)
        return await self._delete(request, lambda stack: tile_rules.tiles_at(stack, z))

    async def _delete_section(self, request: web.Request) -> web.Response:
        section = request.match_info["section"]
        return await self._delete(request, lambda stack: tile_rules.tiles_of_section(stack, section))

    async def _delete_tile(self, request: web.Request) -> web.Response:
        tile_id = request.match_info["tile"]
        return await self._delete(request, lambda stack: [stack.tiles[tile_id]] if tile_id in stack.tiles else [])

    async def _delete(self, request: web.Request, selected: Callable[[Stack], list[Json]]) -> web.Response:
        stack = self._stack(request)
        tile_rules.require_loading_for_deletion(stack)
        await asyncio.sleep(slowness_s.get())
        tile_rules.delete_tiles(stack, selected(stack))
        return web.Response()

    async def _resolved_of_stack(self, request: web.Request) -> web.Response:
        is_wanted, box = z_range(request), box_of(request)
        stack = self._stack(request)
        group = request.query.get("groupId")
        tiles = tile_rules.by_id(
            tile
            for tile in stack.tiles.values()
            if is_wanted(tile.get("z")) and group in (None, tile.get("groupId")) and touches(tile, box)
        )
        if not tiles:
            raise Refusal(404, f"no matching tiles found in stack {stack.key.stack}")
        return compact(tile_rules.resolved(stack, tiles))

    def _layer(self, request: web.Request) -> tuple[Stack, float, list[Json]]:
        """Return the stack, z and tiles of a layer. Raises Refusal, 400, if it has no tiles."""
        z = layer_of(request)
        stack = self._stack(request)
        tiles = tile_rules.tiles_at(stack, z)
        if not tiles:
            raise Refusal(400, f"stack {stack.key.stack} does not contain any tiles with a z value of {z}")
        return stack, z, tiles

    async def _resolved_of_layer(self, request: web.Request) -> web.Response:
        z = layer_of(request)
        stack = self._stack(request)
        tiles = tile_rules.tiles_at(stack, z)
        if not tiles:
            raise Refusal(404, f"no tile specifications found in {stack.key} for z={z}")
        return compact(tile_rules.resolved(stack, tiles))

    async def _flattened_of_layer(self, request: web.Request) -> web.Response:
        stack, _, tiles = self._layer(request)
        return compact(tile_rules.with_flattened_transforms(stack, tiles))

    async def _flattened_with_ids(self, request: web.Request) -> web.Response:
        ids = json_types.read_ids(await json_body(request), "List")
        stack = self._store.find(stack_key(request))
        tiles = [] if stack is None else [stack.tiles[tile_id] for tile_id in ids if tile_id in stack.tiles]
        return compact([] if stack is None else tile_rules.with_flattened_transforms(stack, tiles))

    async def _bounds_in_layer(self, request: web.Request) -> web.Response:
        z = layer_of(request)
        stack = self._stack(request)
        tile_rules.require_tile_collection(stack)
        return compact([tile_rules.tile_bounds(tile) for tile in tile_rules.tiles_at(stack, z)])

    async def _bounds_in_section(self, request: web.Request) -> web.Response:
        stack = self._stack(request)
        tile_rules.require_tile_collection(stack)
        tiles = tile_rules.tiles_of_section(stack, request.match_info["section"])
        return compact([tile_rules.tile_bounds(tile) for tile in tiles])

    async def _section_data_of_layer(self, request: web.Request) -> web.Response:
        z = layer_of(request)
        return compact(stack_state.section_data(tile_rules.tiles_at(self._stack(request), z)))

    async def _bounds_of_layer(self, request: web.Request) -> web.Response:
        _, z, tiles = self._layer(request)
        return pretty({**stack_state.bounds_of(tiles), "minZ": z, "maxZ": z})

    async def _tile_count(self, request: web.Request) -> web.Response:
        z, box = layer_of(request), sides_of(request)
        return compact(sum(touches(tile, box) for tile in tile_rules.tiles_at(self._stack(request), z)))

    async def _tile_ids(self, request: web.Request) -> web.Response:
        is_wanted = z_range(request)
        pattern = re.compile(request.query.get("matchPattern", ""))
        stack = self._store.find(stack_key(request))
        tiles = () if stack is None else stack.tiles.items()
        return compact(sorted(i for i, tile in tiles if i and pattern.search(i) and is_wanted(tile.get("z"))))

    async def _z_of_section(self, request: web.Request) -> web.Response:
        section = request.match_info["section"]
        tiles = tile_rules.tiles_of_section(self._stack(request), section)
        if not tiles:
            raise Refusal(404, f"section {section} does not exist")
        return compact(tiles[0].get("z"))

    async def _tile(self, request: web.Request) -> web.Response:
        return pretty(tile_rules.tile_of(self._stack(request), request.match_info["tile"]))

    async def _transform(self, request: web.Request) -> web.Response:
        return pretty(tile_rules.transform_of(self._stack(request), request.match_info["transform"]))

    async def _validation_info(self, request: web.Request) -> web.Response:
        stack = self._stack(request)
        tile = tile_rules.tile_of(stack, request.match_info["tile"])
        await asyncio.to_thread(require_files, tile)
        transforms.derive_bounds(dict(tile), stack.transforms)
        return web.Response()
