"""Screenshots of the demonstration: which pages they show, and that there are none without a browser."""

from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from daemon.simulator.demonstration import pages

COMPLETE = {"id": 7, "state": "complete"}


@pytest.fixture
def browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-in for a browser that writes its arguments to the file of the screenshot."""
    program = tmp_path / "browser"
    program.write_text(
        '#!/bin/sh\nfor each; do case "$each" in --screenshot=*) f=${each#*=};; esac; done\necho "$@" > "$f"\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(pages, "BROWSERS", (str(program),))
    return program


async def photographed(tmp_path: Path, montages: list[dict], tiles: list[str] | None) -> dict[str, str]:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"tiles": tiles}) if tiles else web.json_response({"error": "none"}, status=404)

    app = web.Application()
    app.router.add_get("/api/montages/7/tiles", answer)
    async with TestServer(app) as server, ClientSession() as http:
        url = str(server.make_url("")).rstrip("/")
        found = await pages.photograph_pages(http, url, montages, tmp_path / "screenshots")
        return {path.name: path.read_text().split()[-1].removeprefix(url) for path in found}


async def test_overview_section_and_tile_are_photographed(browser, tmp_path):
    former = [{"id": 5, "state": "complete"}, {"id": 6, "state": "failed"}]
    assert await photographed(tmp_path, [*former, COMPLETE], ["a", "b.1050.0"]) == {
        "overview.png": "/",
        "section.png": "/montages/7?show=focus",
        "tile.png": "/montages/7/tiles/b.1050.0",
    }


async def test_a_section_without_numbers_has_no_picture_of_a_tile(browser, tmp_path):
    assert set(await photographed(tmp_path, [COMPLETE], None)) == {"overview.png", "section.png"}


async def test_there_are_no_screenshots_without_a_browser_or_a_complete_section(browser, tmp_path, monkeypatch):
    assert await photographed(tmp_path, [{"id": 7, "state": "failed"}], ["a"]) == {}
    monkeypatch.setattr(pages, "BROWSERS", ("/nowhere/browser",))
    assert await photographed(tmp_path, [COMPLETE], ["a"]) == {}
