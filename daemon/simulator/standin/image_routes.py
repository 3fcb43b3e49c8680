"""The routes of images: raw images, masks and render parameters."""

import asyncio
from collections.abc import Iterable

from aiohttp import web

from daemon.simulator.standin import json_types, tile_rules
from daemon.simulator.standin.http import (
    BOX,
    OWNER,
    STACK,
    Route,
    java_double,
    json_body,
    layer_of,
    pretty,
    sides_of,
    stack_key,
    touches,
)
from daemon.simulator.standin.images import (
    ImageCache,
    Window,
    lowest_level,
    painted,
    raw_parameters,
    rendered,
    require_files,
)
from daemon.simulator.standin.json_types import Json
from daemon.simulator.standin.store import Stack, Store


class ImageRoutes:
    """Handlers of the requests for pixels."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._images = ImageCache()

    def routes(self) -> list[Route]:
        """Return the routes of this part."""
        return [
            ("DELETE", "/imageProcessorCache/allEntries", self._clear),
            ("PUT", OWNER + "/png-image", self._painted),
            ("GET", STACK + "/tile/{tile}/{what:source|mask}/{format:png|jpeg|tiff}-image", self._image),
            ("GET", STACK + "/tile/{tile}/{what:source|mask}/scale/{scale}/render-parameters", self._raw_parameters),
            ("GET", STACK + "/tile/{tile}/{format:png|jpeg|tiff|tiff16}-image", self._tile_image),
            ("GET", STACK + "/tile/{tile}/render-parameters", self._render_parameters),
            ("GET", BOX + "/{format:png|jpeg|tiff|tiff16}-image", self._box_image),
        ]

    def clear(self) -> None:
        """Drop all decoded images."""
        self._images.clear()

    async def _clear(self, _: web.Request) -> web.Response:
        self.clear()
        return web.Response()

    def _stack(self, request: web.Request) -> Stack:
        return self._store.stack(stack_key(request))

    async def _render_parameters(self, request: web.Request) -> web.Response:
        stack = self._stack(request)
        tile = tile_rules.tile_of(stack, request.match_info["tile"])
        return pretty(json_types.render_parameters(tile_rules.with_flattened_transforms(stack, [tile])[0]))

    async def _raw_parameters(self, request: web.Request) -> web.Response:
        tile = tile_rules.tile_of(self._stack(request), request.match_info["tile"])
        key = "imageUrl" if request.match_info["what"] == "source" else "maskUrl"
        return pretty(raw_parameters(tile, key, java_double(request.match_info["scale"])))

    async def _painted(self, request: web.Request) -> web.Response:
        parameters = json_types.object_of(await json_body(request), "RenderParameters")
        body = await asyncio.to_thread(painted, parameters, self._images)
        return web.Response(body=body, content_type="image/png")

    async def _tile_image(self, request: web.Request) -> web.Response:
        return await self._unrendered([tile_rules.tile_of(self._stack(request), request.match_info["tile"])])

    async def _box_image(self, request: web.Request) -> web.Response:
        box = sides_of(request)
        return await self._unrendered(
            [tile for tile in tile_rules.tiles_at(self._stack(request), layer_of(request)) if touches(tile, box)]
        )

    async def _unrendered(self, tiles: Iterable[Json]) -> web.Response:
        """Check the files as render-ws does before it renders tiles, then answer 501."""
        for tile in tiles:
            await asyncio.to_thread(require_files, tile)
        return web.Response(status=501, text="the stand-in serves raw images and masks, and renders no tiles")

    async def _image(self, request: web.Request) -> web.Response:
        window = Window(
            scale=java_double(request.query.get("scale", "1")),
            low=java_double(request.query.get("minIntensity", "0")),
            high=java_double(request.query.get("maxIntensity", "255")),
        )
        stack = self._stack(request)
        tile = tile_rules.tile_of(stack, request.match_info["tile"])
        key = "imageUrl" if request.match_info["what"] == "source" else "maskUrl"
        image = await asyncio.to_thread(self._images.grey, lowest_level(tile, key))
        size = int(tile.get("height", image.shape[0])), int(tile.get("width", image.shape[1]))
        body, media_type = await asyncio.to_thread(rendered, image, size, request.match_info["format"], window)
        # As in render-ws, the tag is the stack's modification time, which uploads of tiles do not change.
        headers = {"Cache-Control": "max-age=3600", "ETag": f'"{stack.modified}"'}
        return web.Response(body=body, content_type=media_type, headers=headers)
