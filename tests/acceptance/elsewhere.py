"""A stand-in in a mount namespace in which the data are at other paths, as in the container of render-ws."""

import os
import shutil
import subprocess
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from handlers.render.responses import PathBuilder
from handlers.render.tiles import canonical_url
from handlers.uris import uri_to_path
from tests.acceptance.rig import REAL_URL, Program, Rig, fetch, url_said_in

UNSHARE = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--mount", "--map-root-user")


def require_namespaces() -> None:
    """Skip the test if no mount namespace can be created."""
    if REAL_URL:
        pytest.skip(f"needs a stand-in that sees other paths: {REAL_URL} is left alone")
    if shutil.which("unshare") is None:
        pytest.skip("needs the program unshare")
    done = subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a mount namespace cannot be made here: {done.stderr.strip()}")


def moved(*moves: tuple[Path, Path]) -> tuple[str, ...]:
    """Return the prefix of a command that finds each first directory at the second path, and nothing at the first."""
    words: list[str] = []
    script = ""
    for local, there in moves:
        there.mkdir(parents=True, exist_ok=True)
        script += f'mount --bind "${len(words) + 1}" "${len(words) + 2}" && mount -t tmpfs none "${len(words) + 1}" && '
        words += [str(local), str(there)]
    return (*UNSHARE, "sh", "-c", f'{script} shift {len(words)} && exec "$@"', "sh", *words)


@dataclass
class Elsewhere(Rig):
    """A rig whose stand-in finds acquisition and mipmaps below `render side/`, and nothing at their own paths."""

    entries: tuple[tuple[Path, Path], ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.mipmaps.mkdir(exist_ok=True)
        there = self.root / "render side"
        self.entries = ((self.acquisition, there / "raw"), (self.mipmaps, there / "levels"))

    def start_standin(self, port: int = 0, *arguments: str) -> None:
        require_namespaces()
        log = self.root / "standin.log"
        prefix = moved(*self.entries)
        self.standin = Program(log, "daemon", "standin", "--port", str(port), *arguments, prefix=prefix)
        self.render_url = url_said_in(self.standin, 0)

    def config_text(self) -> str:
        mapped = [f'[[render.path_map]]\nlocal = "{local}"\nrender = "{there}"\n' for local, there in self.entries]
        return "\n".join([super().config_text(), *mapped])

    def seen_by_render(self, path: str) -> Path:
        """Return the path by which this process can read the file that the stand-in finds at a path."""
        assert self.standin is not None
        return Path(f"/proc/{self.standin.process.pid}/root{path}")


def urls_of(tiles: dict[str, Any]) -> dict[tuple[str, int, str], str]:
    """Return the URLs in tile specs by tile id, level and key."""
    return {
        (tile_id, int(level), key): url
        for tile_id, tile in tiles.items()
        for level, urls in tile["mipmapLevels"].items()
        for key, url in urls.items()
    }


def assert_render_finds(rig: Elsewhere, urls: Collection[str]) -> None:
    """Assert that the stand-in finds a file at each URL, and that this process finds none there."""
    assert urls
    for url in urls:
        path = str(uri_to_path(url))
        assert rig.seen_by_render(path).stat().st_size > 0, path
        assert not Path(path).exists(), path


def derived_urls(rig: Elsewhere, stack: str, tiles: dict[str, Any]) -> list[str]:
    """Return the URLs that render-ws derives with the path builder of a stack, for every tile and level."""
    builder = PathBuilder.model_validate(fetch(f"{rig.stack_url(stack)}/mipmapPathBuilder"))
    return [
        canonical_url(builder.derived_path(url, level))
        for (_, at, _), url in urls_of(tiles).items()
        if at == 0
        for level in range(1, builder.number_of_levels + 1)
    ]
