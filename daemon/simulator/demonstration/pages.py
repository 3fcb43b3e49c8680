"""Take screenshots of the dashboard, if a browser is installed."""

import asyncio
import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import aiohttp

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_S = 90.0
"""Time-out of a screenshot."""
HEIGHTS = {"overview": 900, "section": 1500, "tile": 1100}


async def photograph_pages(
    http: aiohttp.ClientSession, url: str, montages: list[dict[str, Any]], output: Path
) -> list[Path]:
    """Take screenshots of the overview, the last section (with a heatmap) and one of its tiles; return their files.

    The result is empty without a browser or a complete section.

    Parameters
    ----------
    url : address of the daemon.
    output : directory for the files.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    complete = [montage for montage in montages if montage["state"] == "complete"]
    if browser is None or not complete:
        return []
    section = f"{url}/montages/{complete[-1]['id']}"  # it has the bad tiles
    pages = {"overview": f"{url}/", "section": f"{section}?show=focus", "tile": await _first_tile(http, section)}
    found = [await _photograph(browser, address, output / f"{name}.png", HEIGHTS[name])
             for name, address in pages.items() if address]  # fmt: skip
    return [path for path in found if path is not None]


async def _first_tile(http: aiohttp.ClientSession, section: str) -> str | None:
    """Return the address of a tile's page; None if the section has no tiles."""
    async with http.get(f"{section.replace('/montages/', '/api/montages/')}/tiles") as answer:
        tiles = (await answer.json()).get("tiles") if answer.status == 200 else None
    return f"{section}/tiles/{tiles[len(tiles) // 2]}" if tiles else None


async def _photograph(browser: str, address: str, path: Path, height: int) -> Path | None:
    path.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        arguments = ["--headless=new", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"]
        arguments += ["--no-sandbox"] if os.geteuid() == 0 else []
        process = await asyncio.create_subprocess_exec(
            browser, *arguments, f"--window-size=1280,{height}", f"--screenshot={path}", "--timeout=45000", address,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with asyncio.timeout(BROWSER_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return path if _exists(path) else None


def _exists(path: Path) -> bool:
    return path.exists()
