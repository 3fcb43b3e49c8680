"""Diagnose why render-ws cannot read a file of this machine: path map or permissions."""

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
    """A problem that the probe found."""

    key: str
    text: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A file that render-ws has to read."""

    path: Place
    key: str
    """Key of the configuration to which the file belongs."""
    width: int
    height: int
    bits: int
    pixels: Grey | None
    """Pixels (H, W), 8 bits; None if they are not compared."""
    url: str = ""
    """URL in tile specs, if it is not a file URL. Then the path map is not used."""

    def seen_at(self, paths: PathMap) -> str:
        """Return the file's path or URL on render-ws."""
        return self.url or paths.render_path_of(path_of(self.path)).path


async def wrong_with(scratch: ScratchStack, paths: PathMap, shown: Shown) -> Wrong | None:
    """Request a file's pixels from render-ws and compare them; return the problem, None if they are equal.

    Raises
    ------
    RenderUnavailable
        If render-ws does not respond, or refuses the login.
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
        return Wrong(key, f"render-ws returns other pixels than those of {shown.path}: it has another file at {url}")
    return None


async def _reason(scratch: ScratchStack, paths: PathMap, shown: Shown, fault: Fault) -> Wrong:
    if shown.url:
        return Wrong(shown.key, f"render-ws cannot read {shown.path} at {shown.url}: {fault.problem}")
    if is_not_readable(fault):
        return Wrong(shown.key, await asyncio.to_thread(_closed, path_of(shown.path), "read"))
    if not is_not_found(fault):
        return Wrong(shown.key, f"render-ws cannot read {shown.path}: {fault.problem}")
    return await _not_found(scratch, paths, shown)


async def _not_found(scratch: ScratchStack, paths: PathMap, shown: Shown) -> Wrong:
    """Find the first directory of the path that render-ws does not find."""
    inside: Path | None = None
    path = path_of(shown.path)
    for directory in _directories(paths, path):
        if not await scratch.finds(paths.to_url(directory)):
            break
        inside = directory
    if inside is None:
        base = next(iter(_directories(paths, path)))
        return Wrong(PATH_MAP, f"render-ws does not find {paths.render_path_of(base).path}, the path of {base}")
    if await asyncio.to_thread(_is_closed, inside):
        return Wrong(shown.key, await asyncio.to_thread(_closed, inside, "enter"))
    place = paths.render_path_of(path).path
    text = f"render-ws does not find {place}, the path of {path}; it finds {paths.render_path_of(inside).path}"
    hint = "correct the entry" if paths.base_of(path) else "add an entry: the files have another path on render-ws"
    return Wrong(PATH_MAP, f"{text} ({hint})")


def _directories(paths: PathMap, path: Path) -> Sequence[Path]:
    """Return the directories of a path, starting with its entry in the path map, or with the root."""
    base = paths.base_of(path)
    return [each for each in reversed(path.parents) if base is None or each.is_relative_to(base)]


def _is_closed(directory: Path) -> bool:
    return not directory.stat().st_mode & stat.S_IXOTH


def _closed(path: Path, verb: str) -> str:
    return (
        f"render-ws may not {verb} {described(path)}: run it as that user or in that group, or give others permission"
    )
