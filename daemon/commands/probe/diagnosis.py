"""Why render-ws does not read a file of this machine: the path map, or permissions."""

import asyncio
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from daemon.commands.probe.files import described
from daemon.commands.probe.scratch import ScratchStack, is_not_found, is_not_readable
from handlers.errors import Fault, RenderUnavailable
from handlers.images.pixels import Grey
from handlers.path_map import PathMap
from handlers.place import Place, path_of

PATH_MAP = "render.path_map"


@dataclass(frozen=True, slots=True)
class Wrong:
    """Problem that the probe found."""

    key: str
    text: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A file that render-ws has to show."""

    path: Place
    key: str
    """Key of the configuration: the directory or file that it belongs to."""
    width: int
    height: int
    bits: int
    pixels: Grey | None
    """None if they are not compared."""
    url: str = ""
    """By which tile specs name it, if they do not name a file; the path map does not count then."""

    def seen_at(self, paths: PathMap) -> str:
        """Return where render-ws sees it."""
        return self.url or paths.render_path_of(path_of(self.path)).path


async def wrong_with(scratch: ScratchStack, paths: PathMap, shown: Shown) -> Wrong | None:
    """Ask render-ws for a file's pixels and compare them; None if they are right.

    Raises
    ------
    RenderUnavailable
        If render-ws does not answer, or refuses the login.
    """
    url = shown.url or paths.to_url(path_of(shown.path))
    try:
        found = await scratch.pixels(url, shown.width, shown.height, shown.bits)
    except RenderUnavailable:
        raise
    except Fault as fault:
        return await _reason(scratch, paths, shown, fault)
    if shown.pixels is not None and not np.array_equal(found, shown.pixels):
        key = shown.key if shown.url else PATH_MAP
        return Wrong(key, f"render-ws shows other pixels than {shown.path} holds: it has another file at {url}")
    return None


async def _reason(scratch: ScratchStack, paths: PathMap, shown: Shown, fault: Fault) -> Wrong:
    if shown.url:
        return Wrong(shown.key, f"render-ws cannot show {shown.path} by {shown.url}: {fault.problem}")
    if is_not_readable(fault):
        return Wrong(shown.key, await asyncio.to_thread(_closed, path_of(shown.path), "read"))
    if not is_not_found(fault):
        return Wrong(shown.key, f"render-ws cannot show {shown.path}: {fault.problem}")
    return await _not_found(scratch, paths, shown)


async def _not_found(scratch: ScratchStack, paths: PathMap, shown: Shown) -> Wrong:
    """Follow the path as render-ws does, down to the first directory that it does not find."""
    inside: Path | None = None
    path = path_of(shown.path)
    for directory in _directories(paths, path):
        if not await scratch.finds(paths.to_url(directory)):
            break
        inside = directory
    if inside is None:
        base = next(iter(_directories(paths, path)))
        return Wrong(PATH_MAP, f"render-ws has no {paths.render_path_of(base).path}, where {base} should be")
    if await asyncio.to_thread(_is_closed, inside):
        return Wrong(shown.key, await asyncio.to_thread(_closed, inside, "enter"))
    place = paths.render_path_of(path).path
    text = f"render-ws has no {place}, where {path} should be; it has {paths.render_path_of(inside).path}"
    hint = "correct the entry" if paths.base_of(path) else "add an entry: it sees the files at another path"
    return Wrong(PATH_MAP, f"{text} ({hint})")


def _directories(paths: PathMap, path: Path) -> Sequence[Path]:
    """Return the directories of a path, from that of its entry in the path map on, or from the root."""
    base = paths.base_of(path)
    return [each for each in reversed(path.parents) if base is None or each.is_relative_to(base)]


def _is_closed(directory: Path) -> bool:
    return not directory.stat().st_mode & stat.S_IXOTH


def _closed(path: Path, verb: str) -> str:
    return f"render-ws may not {verb} {described(path)}: let it run as that user or in that group, or open it to others"
