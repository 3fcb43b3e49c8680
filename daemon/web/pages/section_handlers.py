"""Handlers of the pages of sections and tiles, and of the pictures in them."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiohttp import web

from daemon.config.settings import Settings
from daemon.journal.journal import Journal
from daemon.montages.records import Montage
from daemon.pipeline.health import Facts, waits_of
from daemon.web import parameters
from daemon.web.pages.layout import Layout, in_time, link
from daemon.web.pages.section_files import SectionFiles, Tiles, files_of
from daemon.web.pages.section_page import (
    MAKES_MIPMAPS,
    History,
    look_up,
    outside_links,
    render_links,
    section_values,
)
from daemon.web.pages.tile_page import as_json, look_up_tile, quality_of_tile, tile_values
from daemon.web.pages.tile_picture import SIZES, tile_png
from handlers.errors import Fault
from handlers.images.reduction import level_size
from handlers.render.client import RenderClient
from handlers.render.names import StackId

RENDER_S = 3.0
"""Longest wait of a page for a tile spec of render-ws."""
PICTURES = 2
"""Largest number of pictures drawn at the same time, since the workers need the cores."""


class SectionPages:
    """The pages of sections and tiles.

    Parameters
    ----------
    client : fetches tile specs; None: none are shown.
    """

    def __init__(
        self,
        layout: Layout,
        settings: Callable[[], Settings],
        journal: Journal,
        facts: Callable[[], Awaitable[Facts]],
        client: RenderClient | None,
    ) -> None:
        self._layout = layout
        self._settings = settings
        self._journal = journal
        self._facts = facts
        self._client = client
        self._files = SectionFiles(settings)
        self._drawing = asyncio.Semaphore(PICTURES)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/montages/{id}", self.section),
            web.get("/montages/{id}/at", self.at),
            web.get("/montages/{id}/tiles/{tile}", self.tile),
            web.get("/api/tiles/{id}/{tile}.png", self.picture),
        ]

    async def section(self, request: web.Request) -> web.Response:
        """Return the page of a section; `?show=focus` shows a heatmap in place of the mosaic."""
        found, facts = await self._found(request)
        tiles, problem = await self._tiles(found.montage)
        first = tiles.tile_id(0) if tiles else None
        links = [*self._outside(found.montage), *render_links(self._render_url, found.montage, first)]
        values = section_values(found, tiles, waits_of(facts).reason_of(found.montage), links)
        values |= {"tiles_problem": problem, "now": time.time(), "show": request.query.get("show", "")}
        return await self._layout.page(request, "section.html", facts, **values)

    async def at(self, request: web.Request) -> web.Response:
        """Redirect to the page of the tile at a column and row."""
        found, _ = await self._found(request)
        tiles, problem = await self._tiles(found.montage)
        index = tiles.at.get(parameters.place_of(request)) if tiles else None
        if tiles is None or index is None:
            raise web.HTTPNotFound(reason=problem or "the section has no tile at this column and row")
        target = link(self._layout.base, "montages", found.montage.id, "tiles", tiles.tile_id(index))
        return web.Response(status=303, headers={"Location": target})

    async def tile(self, request: web.Request) -> web.Response:
        """Return the page of a tile."""
        found, facts = await self._found(request)
        montage = found.montage
        tiles, index = await self._tile(request, montage)
        tile_id = tiles.tile_id(index)
        (content, packed), files, specs = await asyncio.gather(
            in_time(self._journal.read(lambda connection: look_up_tile(connection, montage.id, tile_id))),
            asyncio.to_thread(files_of, tiles.level0[index], tiles.plan),
            self._specs(montage, tile_id, facts),
        )
        quality = await asyncio.to_thread(quality_of_tile, packed, tile_id)
        is_made = (montage.failed_in or montage.state) not in MAKES_MIPMAPS
        values = tile_values(montage, tiles, index, files, content, quality, is_made=is_made)
        links = [each for each in render_links(self._render_url, montage, tile_id) if "tileId" in each[1]]
        picture = _shown_size(tiles.level0[index].width, tiles.level0[index].height)
        return await self._layout.page(
            request, "tile.html", facts, **values, specs=specs, outside_links=links, picture=picture
        )

    async def picture(self, request: web.Request) -> web.Response:
        """Return a tile as PNG, drawn from its mipmaps."""
        size = parameters.size_of(request, SIZES)
        found, _ = await self._found(request)
        tiles, index = await self._tile(request, found.montage)
        try:
            async with self._drawing:
                body = await asyncio.to_thread(tile_png, tiles.level0[index], tiles.plan, size)
        except Fault as fault:
            raise web.HTTPNotFound(reason=_one_line(fault)) from None
        return web.Response(body=body, content_type="image/png")

    # --- parts

    @property
    def _render_url(self) -> str:
        return self._client.base_url if self._client else self._settings().render.public_url

    async def _found(self, request: web.Request) -> tuple[History, Facts]:
        montage_id = parameters.montage_id_of(request)
        reading = self._journal.read(lambda connection: look_up(connection, montage_id))
        found, facts = await asyncio.gather(in_time(reading), self._facts())
        if found is None:
            raise web.HTTPNotFound(reason="no such montage")
        return found, facts

    async def _tiles(self, montage: Montage) -> tuple[Tiles | None, str]:
        """Return the tiles of a montage, or why there are none."""
        try:
            return await self._files.read(montage), ""
        except Fault as fault:
            return None, _one_line(fault)

    async def _tile(self, request: web.Request, montage: Montage) -> tuple[Tiles, int]:
        tiles, problem = await self._tiles(montage)
        index = tiles.index.get(request.match_info["tile"]) if tiles else None
        if tiles is None or index is None:
            raise web.HTTPNotFound(reason=problem or "the section has no such tile")
        return tiles, index

    def _outside(self, montage: Montage) -> list[tuple[str, str]]:
        return outside_links(self._settings().links, self._render_url, montage)

    async def _specs(self, montage: Montage, tile_id: str, facts: Facts) -> Sequence[tuple[str, str, str]]:
        """Return (stack, tile spec as JSON, problem) for each stack of the montage; spec or problem is empty."""
        return await asyncio.gather(*(self._spec(stack, tile_id, facts) for stack in montage.stacks))

    async def _spec(self, stack: str, tile_id: str, facts: Facts) -> tuple[str, str, str]:
        if self._client is None or facts.render_fault:
            return stack, "", "render-ws is unreachable"
        try:
            async with asyncio.timeout(RENDER_S):
                spec: dict[str, Any] | None = await self._client.tile(StackId.parse(stack), tile_id)
        except TimeoutError:
            return stack, "", f"render-ws has not answered within {RENDER_S:g} s"
        except Fault as fault:
            return stack, "", _one_line(fault)
        return (stack, "", "the stack does not have this tile") if spec is None else (stack, as_json(spec), "")


def _one_line(fault: Fault) -> str:
    return " ".join(str(fault).split())


def _shown_size(width: int, height: int) -> tuple[int, int]:
    """Return the size in which a page shows a tile, pixels: at most that of the largest picture that is drawn."""
    level = 0
    while max(level_size(width, height, level)) > SIZES[-1]:
        level += 1
    return level_size(width, height, level)
