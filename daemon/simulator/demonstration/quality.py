"""Show the quality of the demonstration's sections: verdicts, worst tiles, heatmaps."""

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from daemon.montages.states import MontageState
from handlers.quality.heatmap import number_text
from handlers.quality.heatmap_numbers import Number
from handlers.text import printable, z_text

Json = Mapping[str, Any]


async def fetch_verdicts(http: aiohttp.ClientSession, url: str, montages: Iterable[Json]) -> dict[int, Json]:
    """Fetch the verdict of each COMPLETE montage that has one, by id."""
    found = {}
    for montage in montages:
        if montage["state"] == MontageState.COMPLETE:
            async with http.get(f"{url}/api/montages/{montage['id']}") as answer:
                quality = (await answer.json())["quality"]
            if quality is not None:
                found[montage["id"]] = quality
    return found


async def save_heatmaps(http: aiohttp.ClientSession, url: str, montage: Json, directory: Path) -> list[Path]:
    """Save the mosaic and every heatmap of a montage; return the files."""
    base = f"{url}/api/montages/{montage['id']}"
    names = {"mosaic": "mosaic.png", **{str(number): f"heatmap/{number}.png" for number in Number}}
    files = []
    for name, path in names.items():
        async with http.get(f"{base}/{path}") as answer:
            if answer.status != 200:
                continue
            file = directory / f"z{z_text(montage['z'])}_{name}.png"
            await asyncio.to_thread(file.write_bytes, await answer.read())
            files.append(file)
    return files


def quality_lines(montages: Iterable[Json], verdicts: Mapping[int, Json]) -> Iterator[str]:
    """Yield a line for each montage, and one for each broken limit with the tiles that break it."""
    for montage in montages:
        if (quality := verdicts.get(montage["id"])) is None:
            continue
        yield f"quality   z {z_text(montage['z'])}: {quality['verdict']}"
        for finding in quality["findings"]:
            if finding["verdict"] != "pass":
                value, limit = number_text(finding["value"]), number_text(finding["limit"])
                yield f"          {finding['rule']} {value}, limit {limit}"
                yield from (f"            {printable(tile)}" for tile in finding["tiles"])


def planted_faults(log: Path) -> dict[str, str]:
    """Return the faults that the microscope planted, by the name of the tile, from its log."""
    found = {}
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if '"fault"' in line:
            fact = json.loads(line)
            found[fact["tile"]] = fact["fault"]
    return found


def quality_problem(verdicts: Mapping[int, Json], planted: Mapping[str, str]) -> str:
    """Return how the verdicts differ from the planted faults; empty if they list exactly these tiles."""
    tiles = [tile for each in verdicts.values() for finding in each["findings"] for tile in finding["tiles"]]
    named = {tile.rsplit(".", 2)[0] for tile in tiles}  # without z
    missed = [f"{tile} is {fault}, but no verdict lists it" for tile, fault in planted.items() if tile not in named]
    others = [f"{tile} is in a verdict, but is not bad" for tile in sorted(named - planted.keys())]
    return "; ".join([*missed, *others])
