"""Read back the stacks and mipmap files of the demonstration, and show them as tables."""

import asyncio
import io
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from daemon.montages.states import MontageState
from daemon.simulator.demonstration.processes import LEVELS
from daemon.simulator.demonstration.store import is_http
from handlers.images.reduction import level_size
from handlers.render.client import RenderClient
from handlers.render.names import StackId
from handlers.render.responses import StackState
from handlers.text import printable, z_text
from handlers.uris import uri_to_path


@dataclass(frozen=True, slots=True)
class Result:
    """Result of reading back a stack."""

    stack: StackId
    state: str
    tiles: int
    files: int
    problems: tuple[str, ...]


async def verify(client: RenderClient, montages: Iterable[dict[str, Any]]) -> list[Result]:
    """Read back every stack and check all of its mipmap files."""
    sections: dict[str, set[float]] = {}
    raw: set[str] = set()
    expected: dict[str, int] = {}
    for montage in montages:
        if montage["state"] != MontageState.COMPLETE:
            continue
        for name in {montage["raw_stack"], montage["mipmapped_stack"]}:
            sections.setdefault(name, set()).add(montage["z"])
            expected[name] = expected.get(name, 0) + montage["tiles"]
        if montage["raw_stack"] != montage["mipmapped_stack"]:
            raw.add(montage["raw_stack"])
    return [
        await _verify_stack(client, StackId.parse(name), sorted(zs), expected[name], 0 if name in raw else LEVELS)
        for name, zs in sorted(sections.items())
    ]


async def _verify_stack(client: RenderClient, stack: StackId, zs: list[float], expected: int, levels: int) -> Result:
    meta = await client.stack(stack)
    state = str(meta.state) if meta else "missing"
    problems = [] if state == StackState.COMPLETE else [f"{stack} is {state}, not COMPLETE"]
    tiles = files = 0
    for z in zs:
        found = await client.resolved_tiles(stack, z)
        specs = list(found.tile_id_to_spec_map.values()) if found else []
        tiles += len(specs)
        counted, wrong = await asyncio.to_thread(_verify_files, specs, levels)
        files += counted
        problems += wrong
    if tiles != expected:
        problems.append(f"{stack} has {tiles} tiles, not {expected}")
    return Result(stack, state, tiles, files, tuple(problems))


def _verify_files(specs: list[dict[str, Any]], levels: int) -> tuple[int, list[str]]:
    """Return how many levels above 0 are correct, and the problems of the others."""
    good, problems = 0, []
    for spec in specs:
        for level in range(1, levels + 1):
            entry = spec["mipmapLevels"].get(str(level))
            problem = "is not in the stack" if entry is None else _file_problem(spec, level, entry["imageUrl"])
            if problem:
                problems.append(f"{spec['tileId']} level {level} {problem}")
            else:
                good += 1
    return good, problems


def _file_problem(spec: dict[str, Any], level: int, url: str) -> str | None:
    try:
        with Image.open(_fetched(url) if is_http(url) else uri_to_path(url)) as image:
            image.load()
            size = image.size
    except OSError as error:
        return f"cannot be read: {error}"
    wanted = level_size(int(spec["width"]), int(spec["height"]), level)
    return None if size == wanted else f"has the size {size}, expected {wanted}"


def _fetched(url: str) -> io.BytesIO:
    with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310  the scheme was checked
        return io.BytesIO(answer.read())


def montage_table(montages: list[dict[str, Any]]) -> Table:
    """Return a table of the montages, with the seconds from noticing the metafile to COMPLETE."""
    table = Table(title="Montages", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("metafile", "z", "tiles", "state", "seconds"):
        justify: Literal["left", "right"] = "left" if heading in ("metafile", "state") else "right"
        table.add_column(heading, justify=justify, overflow="fold")
    for montage in montages:
        z = "" if montage["z"] is None else z_text(montage["z"])
        name = Path(montage["metafile"]).name.removeprefix("_metadata_").removesuffix(".json").removesuffix("_")
        table.add_row(escape(printable(name)), z, str(montage["tiles"] or ""), montage["state"], _seconds(montage))
    return table


def _seconds(montage: dict[str, Any]) -> str:
    if not montage["complete_at"]:
        return ""
    taken = datetime.fromisoformat(montage["complete_at"]) - datetime.fromisoformat(montage["noticed_at"])
    return f"{taken.total_seconds():.1f}"


def stack_table(results: list[Result]) -> Table:
    """Return a table of the results of all stacks."""
    table = Table(title="Stacks, read back over REST", box=SIMPLE_HEAD)
    for heading in ("stack", "state", "tiles", "mipmap files", "problems"):
        table.add_column(heading, justify="left" if heading in ("stack", "state") else "right")
    for result in results:
        table.add_row(str(result.stack), result.state, str(result.tiles), str(result.files), str(len(result.problems)))
    return table
