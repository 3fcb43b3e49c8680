"""Save pictures of every page in every state, light and dark, for a desktop and a phone.

    python -m tests.browser.gallery OUTPUT
    python -m tests.browser.gallery OUTPUT --scene complete --only tile --scheme dark --width phone

The states are real: a daemon brings sections into a stack of a stand-in, stops half-way, or fails. The pictures need
Chromium and Playwright.
"""

import argparse
import asyncio
import contextlib
import itertools
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

from aiohttp import web
from playwright.async_api import Browser, Page, async_playwright

from daemon.montages.states import MontageState
from daemon.simulator.section import SectionPlan, plan_section
from daemon.simulator.temca import write_section
from daemon.simulator.tile_faults import OVERLAP, spoil_tiles
from handlers.quality.heatmap_numbers import Number
from handlers.workers.backend import Backend
from handlers.workers.inline import InlineExecutor
from handlers.workers.pool import WorkerPool
from handlers.workers.worker import make_mipmaps
from tests.browser import facility
from tests.browser.conftest import CHROMIUM, START_TIMEOUT_MS, start
from tests.integration.inprocess import bench
from tests.integration.paged import Paged, paged
from tests.integration.shown import Shown, served
from tests.ready_facts import READY, ROOT

T = TypeVar("T")
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
SCHEMES = ("light", "dark")
LARGE_TILES = 2_772
Action = Callable[[Page], Any]


@dataclass(frozen=True, slots=True)
class View:
    """A page in a state."""

    name: str
    url: str
    act: Action | None = None
    """Actions of a person before the picture is taken."""


class LimitedExecutor(InlineExecutor):
    """Makes the mipmaps of a number of tiles; further jobs never end."""

    def __init__(self, tiles: int) -> None:
        self._left = tiles

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        if fn is not make_mipmaps:
            return super().submit(fn, *args, **kwargs)
        self._left -= 1
        return super().submit(fn, *args, **kwargs) if self._left >= 0 else Future()


# --- scenes: each yields pages of one daemon


@contextlib.asynccontextmanager
async def overviews(directory: Path) -> AsyncIterator[Sequence[View]]:
    """Pages of a facility with many sections and problems."""
    await facility.fill(directory / "journal.sqlite", time.time())
    async with paged(directory) as face:

        def unavailable(path: str) -> Action:
            async def look(page: Page) -> None:
                face.facts = facility.UNAVAILABLE
                await page.goto(_url(face, path))
                face.facts = facility.BUSY

            return look

        face.facts = facility.BUSY
        yield [
            _view(face, "overview-full", "/"),
            _view(face, "overview-failed", "/?state=failed"),
            View(
                "overview-unavailable", "about:blank", unavailable("/?watch=")
            ),  # the answer to "/" is cached for some seconds
            View("scope-unavailable", "about:blank", unavailable("/scopes/temca2/temca2?days=365")),
            _view(face, "overview-no-match", "/?state=ignored&scope=temca3&z_from=1000"),
            _view(face, "section-failed-unread", f"/montages/{facility.SECTIONS - 11}"),
            _view(face, "section-noticed", f"/montages/{facility.SECTIONS - 5}"),
            _view(face, "section-without-metafile", "/montages/20"),
            _view(face, "scope-full", "/scopes/temca2/temca3"),
            _view(face, "scope-one-day", "/scopes/temca4/temca4?days=1"),
            _view(face, "scope-empty", "/scopes/temca2/temca9"),
            _view(face, "error-404", "/nowhere"),
            _view(face, "error-404-section", "/montages/99999"),
            _view(face, "error-404-tile", "/montages/20/tiles/none"),
            _view(face, "error-400-filter", "/?z_from=north"),
        ]


@contextlib.asynccontextmanager
async def empty(directory: Path) -> AsyncIterator[Sequence[View]]:
    """Pages before the first section."""
    async with paged(directory) as face:
        yield [_view(face, "overview-empty", "/")]


@contextlib.asynccontextmanager
async def read_only(directory: Path) -> AsyncIterator[Sequence[View]]:
    """Pages of a daemon that other machines can reach, without a token."""
    async with paged(directory, host="0.0.0.0") as face:
        montage = await face.failed(1, "1 of 24 images is truncated", "copy it again")
        yield [_view(face, "overview-read-only", "/"), _view(face, "section-read-only", f"/montages/{montage}")]


@contextlib.asynccontextmanager
async def logins(directory: Path) -> AsyncIterator[Sequence[View]]:
    """Pages of a daemon with a token."""
    token = directory / "token"
    token.write_text("0123456789abcdef0123")
    token.chmod(0o600)

    async def refused(page: Page) -> None:
        await page.get_by_label("Token").fill("something else")
        await page.get_by_role("button", name="Log in").click()
        await page.get_by_role("alert").wait_for()

    async def logged_in(page: Page) -> None:
        await page.get_by_label("Token").fill("0123456789abcdef0123")
        await page.get_by_role("button", name="Log in").click()
        await page.get_by_role("button", name="Log out").wait_for()

    async with paged(directory, token_file=str(token)) as face:
        await face.failed(1, "1 of 24 images is truncated", "copy it again")
        yield [
            _view(face, "overview-without-login", "/"),
            _view(face, "login", "/login"),
            View("login-refused", _url(face, "/login"), refused),
            View("overview-logged-in", _url(face, "/login"), logged_in),
            View("error-403", _url(face, "/login"), _from_elsewhere),
        ]


async def _from_elsewhere(page: Page) -> None:
    """Send the form from a page of another site."""
    address = page.url
    await page.goto("about:blank")
    await page.set_content(f'<form method="post" action="{address}"><input name="token" value="x"><button>ok</button>')
    await page.get_by_role("button").click()
    await page.get_by_role("heading").wait_for()


@contextlib.asynccontextmanager
async def broken(directory: Path) -> AsyncIterator[Sequence[View]]:
    """Pages of a daemon that has a bug, and whose journal does not answer."""
    bug = mock.patch("daemon.web.pages.scope_handlers.scope_values", side_effect=RuntimeError("a bug"))
    async with paged(directory) as face:
        with bug, mock.patch("daemon.web.pages.section_handlers.in_time", side_effect=_no_answer):
            yield [_view(face, "error-500", "/scopes/temca2/temca2"), _view(face, "error-503", "/montages/1")]


async def _no_answer(question: Coroutine[Any, Any, Any]) -> None:
    question.close()
    raise web.HTTPServiceUnavailable(reason="the journal does not answer: check that its disk does")


@contextlib.asynccontextmanager
async def complete(directory: Path) -> AsyncIterator[Sequence[View]]:
    """A COMPLETE section with bad tiles: its page, each of its heatmaps, its tiles."""
    qc = {"measure_stage_error": True}
    async with section(
        directory, spoil_tiles(_plan(12, size=(512, 512), overlap=OVERLAP)), qc=qc, mipmaps={"levels": 3}
    ) as shown:
        page, tiles = f"/montages/{shown.montage.id}", await shown.tile_paths()
        yield [
            View("section-complete", shown.url(page)),
            *(View(f"section-{number}", shown.url(f"{page}?show={number}")) for number in Number),
            View("tile", shown.url(tiles[5])),
            View("tile-first", shown.url(tiles[0])),
            View("overview-one-section", shown.url("/")),
        ]


@contextlib.asynccontextmanager
async def half_made(directory: Path) -> AsyncIterator[Sequence[View]]:
    """A section of which some tiles have mipmaps."""
    async with section(directory, _plan(24, size=(256, 256)), made=11) as shown:
        tiles = await shown.tile_paths()
        yield [
            View("section-half-made", shown.url(f"/montages/{shown.montage.id}")),
            View("tile-not-made", shown.url(tiles[-1])),
            View("overview-half-made", shown.url("/")),
        ]


@contextlib.asynccontextmanager
async def large(directory: Path) -> AsyncIterator[Sequence[View]]:
    """A section as large as a large real one."""
    async with section(directory, _plan(LARGE_TILES, size=(64, 64)), pixels="noise") as shown:
        page = f"/montages/{shown.montage.id}"
        yield [
            View("section-large", shown.url(page)),
            View("section-large-focus", shown.url(f"{page}?show=focus")),
            View("tile-large", shown.url(await shown.first_tile_path())),
        ]


SCENES = {
    "overviews": overviews,
    "empty": empty,
    "read-only": read_only,
    "logins": logins,
    "broken": broken,
    "complete": complete,
    "half-made": half_made,
    "large": large,
}


def _plan(tiles: int, size: tuple[int, int], **more: Any) -> SectionPlan:
    return plan_section(tiles=tiles, size=size, specimen_id="s", created_at=datetime.now(UTC), **more)


@contextlib.asynccontextmanager
async def section(
    directory: Path, plan: SectionPlan, made: int | None = None, pixels: str = "tissue", **settings: Any
) -> AsyncIterator[Shown]:
    """Deliver a section and wait until it is COMPLETE; with `made`, until so many of its tiles have mipmaps."""
    backend = Backend(lambda _: LimitedExecutor(len(plan.tiles) if made is None else made), lambda *_: None)
    async with bench(directory, pool=WorkerPool(backend, 1), **settings) as running:
        written = await asyncio.to_thread(write_section, plan, directory / "acquisition", pixels=pixels)
        await running.notice(written.metafile)
        state = MontageState.COMPLETE if made is None else MontageState.INGESTED
        montage = await running.reaches(written.metafile, state, timeout_s=600)
        journal = running.assembly.journal
        while made is not None and len(await journal.tiles_made(montage.id)) < made:  # noqa: ASYNC110  no event reports it
            await asyncio.sleep(0.05)
        async with served(running, montage) as shown:
            shown.facts = replace(READY, roots=(replace(ROOT, name="w", directory=directory / "acquisition"),))
            yield shown


def _view(face: Paged, name: str, path: str) -> View:
    return View(name, _url(face, path))


def _url(face: Paged, path: str) -> str:
    return str(face.client.make_url("/")) + path.removeprefix("/")


# --- pictures


async def photograph(browser: Browser, view: View, path: Path, scheme: Any, size: tuple[int, int]) -> None:
    """Save the whole page as a picture."""
    viewport: Any = {"width": size[0], "height": size[1]}
    context = await browser.new_context(viewport=viewport, color_scheme=scheme, timezone_id="America/New_York")
    context.set_default_timeout(START_TIMEOUT_MS)
    try:
        page = await context.new_page()
        await page.goto(view.url)
        if view.act is not None:
            await view.act(page)
        await page.evaluate("Promise.all([...document.images].map(each => {each.loading = 'eager';"
                            " return each.decode().catch(() => null)}))")  # fmt: skip
        await page.screenshot(path=path, full_page=True, animations="disabled")
    finally:
        await context.close()


async def main(output: Path, scenes: Sequence[str], only: str, schemes: Sequence[str], widths: Sequence[str]) -> int:
    """Save the pictures; return how many there are."""
    output.mkdir(parents=True, exist_ok=True)
    count = 0
    async with async_playwright() as playwright:
        browser = await start(playwright)
        for scene in map(SCENES.__getitem__, scenes):
            with tempfile.TemporaryDirectory(prefix="temwatch-gallery-") as directory:
                async with scene(Path(directory)) as views:
                    wanted = [view for view in views if only in view.name]
                    for view, scheme, width in itertools.product(wanted, schemes, widths):
                        path = output / f"{view.name}-{scheme}-{width}.png"
                        await photograph(browser, view, path, scheme, WIDTHS[width])
                        count += 1
        await browser.close()
    return count


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--scene", choices=tuple(SCENES), action="append")
    parser.add_argument("--only", default="", help="part of the names of the pictures")
    parser.add_argument("--scheme", choices=SCHEMES, action="append")
    parser.add_argument("--width", choices=tuple(WIDTHS), action="append")
    given = parser.parse_args()
    if CHROMIUM is None:
        parser.error("chromium is not installed (Debian: chromium)")
    chosen = given.scene or tuple(SCENES), given.only, given.scheme or SCHEMES, given.width or tuple(WIDTHS)
    count = asyncio.run(main(given.output, *chosen))
    print(f"{count} pictures in {given.output}")  # noqa: T201
