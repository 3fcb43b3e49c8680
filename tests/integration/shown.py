"""A COMPLETE section of the whole pipeline, and all of its pages, for tests that request them."""

import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp.test_utils import TestClient, TestServer

from daemon.montages.records import Montage
from daemon.montages.states import MontageState
from daemon.pipeline.health import Facts
from daemon.pipeline.metrics import Metrics
from daemon.pipeline.pictures import Pictures
from daemon.web.live_events import LiveEvents
from daemon.web.pages.handlers import Pages
from daemon.web.routes import make_app
from tests.integration.inprocess import Bench, bench
from tests.integration.paged import HTML
from tests.ready_facts import READY


class Shown:
    """A section of four tiles that is COMPLETE, and its pages."""

    def __init__(self, bench: Bench, client: TestClient, montage: Montage) -> None:
        self.bench, self.client, self.montage = bench, client, montage
        self.facts = READY

    async def page(self, path: str, status: int = 200) -> str:
        async with self.client.get(f"/montages/{self.montage.id}{path}", headers=HTML) as answer:
            text = await answer.text()
            assert answer.status == status, text
            return text

    async def tile_paths(self) -> list[str]:
        """Return the path of each tile's page, in order of the metafile."""
        found, path = [], await self.first_tile_path()
        while path:
            found.append(path)
            async with self.client.get(path, headers=HTML) as answer:
                following = re.search(r'rel="next" href="([^"]*)"', await answer.text())
            path = following[1] if following else ""
        return found

    async def first_tile_path(self) -> str:
        """Return the path of the tile that the form on the section's page suggests."""
        column, row = re.findall(r'<input name="(?:column|row)"[^>]*value="(\d+)"', await self.page(""))
        path = f"/montages/{self.montage.id}/at?column={column}&row={row}"
        async with self.client.get(path, headers=HTML, allow_redirects=False) as answer:
            assert answer.status == 303
            return answer.headers["Location"]

    def url(self, path: str = "/") -> str:
        """Return the address of a page, for a browser."""
        return str(self.client.make_url(path))


@contextlib.asynccontextmanager
async def shown_section(tmp_path: Path, *, tiles: int = 4) -> AsyncIterator[Shown]:
    """Process a section until it is COMPLETE; serve the pages."""
    async with bench(tmp_path) as running:
        metafile = running.write(tiles=tiles)
        await running.notice(metafile)
        montage = await running.reaches(metafile, MontageState.COMPLETE)
        async with served(running, montage) as shown:
            yield shown


@contextlib.asynccontextmanager
async def served(running: Bench, montage: Montage) -> AsyncIterator[Shown]:
    """Serve the pages of a bench."""
    work = running.assembly

    async def facts() -> Facts:
        return shown.facts

    live = LiveEvents(work.journal)
    pages = Pages(work.settings, work.journal, facts, work.client, live)
    pictures = Pictures(work.settings, work.journal, lambda: work.pool)
    app = make_app(
        work.journal, Metrics(), facts, http=lambda: work.settings().http, pages=pages, live=live, pictures=pictures
    )
    async with TestClient(TestServer(app)) as client:
        shown = Shown(running, client, montage)
        yield shown
