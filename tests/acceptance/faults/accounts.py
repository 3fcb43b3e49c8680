"""Audit of the delivered montages from outside: from stacks, files and the daemon's answers."""

import contextlib
import io
import json
import struct
import time
import urllib.request
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from handlers.uris import uri_to_path
from tests.acceptance.rig import OWNER, PROJECT, Rig, fetch

Pixels = np.ndarray[Any, Any]

ENDED = ("complete", "failed", "ignored")


@dataclass(frozen=True, slots=True)
class Section:
    """Expected contents of the stacks for a metafile, read from the file itself."""

    metafile: Path
    specimen: str
    z: float
    tile_ids: frozenset[str]

    @classmethod
    def of(cls, metafile: Path) -> "Section":
        header, data = json.loads(metafile.read_bytes())[:2]
        z = float(int(header["metadata"]["grid"]))
        tile_ids = frozenset(f"{Path(tile['img_path']).stem}.{z}" for tile in data["data"])
        return cls(metafile, header["metadata"]["specimen_id"], z, tile_ids)

    @property
    def places(self) -> tuple[tuple[str, float], tuple[str, float]]:
        """The stacks and the z in which its tiles must be."""
        return (f"{self.specimen}_raw", self.z), (f"{self.specimen}_mips", self.z)


@dataclass(slots=True)
class Audit:
    """Counts for a row of the table, and the problems that were found."""

    montages: int = 0
    complete: int = 0
    lost: int = 0
    duplicated: int = 0
    left_over: int = 0
    problems: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Return the counts as arguments of FaultRun."""
        return {
            "montages": self.montages,
            "complete": self.complete,
            "lost": self.lost,
            "duplicated": self.duplicated,
            "left_over": self.left_over,
        }


def audit(rig: Rig, metafiles: Sequence[Path], *, levels: int, inside: Path = Path("/")) -> Audit:
    """Compare montages that must be COMPLETE with stacks and files.

    Parameters
    ----------
    metafiles : all delivered metafiles, by their paths for this process.
    inside : path by which this process can access the daemon's root directory, if the daemon has its own mounts.
    """
    result = Audit(montages=len(metafiles))
    sections = [Section.of(path) for path in metafiles]
    layers = all_layers(rig)
    problems = {section: _problem(section, layers, levels, inside) for section in sections}
    # The states are read last: a montage whose mipmaps are made again is not COMPLETE any more.
    rows = present_rows(rig)
    for section in sections:
        row = rows.get(section.metafile)
        state = row["state"] if row else "unknown"
        problem = problems[section] if state == "complete" else f"is {state}: {row and row['fault']}"
        result.complete += state == "complete"
        if problem:
            result.lost += 1
            result.problems.append(f"{section.metafile.name} {section.specimen}: {problem}")
    expected: dict[tuple[str, float], set[str]] = {}
    for section in sections:
        for place in section.places:
            expected.setdefault(place, set()).update(section.tile_ids)
    for place, tiles in layers.items():
        surplus = tiles.keys() - expected.get(place, set())
        result.duplicated += len(surplus)
        result.problems += [f"{place} also contains {tile}" for tile in sorted(surplus)[:3]]
    left = left_over(rig, inside)
    result.left_over = len(left)
    result.problems += [f"left over: {path}" for path in left[:3]]
    return result


def present_rows(rig: Rig) -> dict[Path, dict[str, Any]]:
    """Return the montage of the present content of each metafile."""
    return {Path(row["metafile"]): row for row in reversed(rig.montages()) if row["state"] != "superseded"}


def wait_until_ended(rig: Rig, metafiles: Collection[Path], timeout_s: float) -> dict[Path, dict[str, Any]]:
    """Wait until each montage is COMPLETE, FAILED or IGNORED, or for the time-out; return the montages."""
    deadline = time.monotonic() + timeout_s
    while True:
        rows = present_rows(rig)
        if all(path in rows and rows[path]["state"] in ENDED for path in metafiles) or time.monotonic() > deadline:
            return {path: rows[path] for path in metafiles if path in rows}
        time.sleep(0.2)


def all_layers(rig: Rig) -> dict[tuple[str, float], dict[str, Any]]:
    """Return all tiles of the project in render-ws: (stack, z) -> tile id -> tile spec."""
    base = f"{rig.render_url}/owner/{OWNER}/project/{PROJECT}"
    names = sorted(each["stack"] for each in fetch(f"{base}/stackIds"))
    return {(name, z): rig.tiles(name, z) for name in names for z in fetch(f"{base}/stack/{name}/zValues")}


def _problem(section: Section, layers: dict[tuple[str, float], dict[str, Any]], levels: int, inside: Path) -> str:
    """Return the first missing or wrong tile or level of a montage; empty if there is none."""
    for place in section.places:
        if missing := section.tile_ids - layers.get(place, {}).keys():
            return f"{place} lacks {len(missing)} tiles"
    tiles = layers[section.places[1]]
    found = (_level_problem(tiles[each], levels, inside) for each in sorted(section.tile_ids))
    return next(filter(None, found), "")


def _level_problem(tile: dict[str, Any], levels: int, inside: Path) -> str:
    """Return the first missing or wrong level of a tile; empty if there is none."""
    named = tile["mipmapLevels"]
    if sorted(named, key=int) != [str(level) for level in range(levels + 1)]:
        return f"{tile['tileId']} has levels {sorted(named)}"

    try:
        reduced = [_opened(_file_of(named[str(level)], inside)) for level in range(1, levels + 1)]
        level_0 = _bytes_of(named["0"], inside)
    except (OSError, ValueError) as error:
        return f"{tile['tileId']}: {error}"
    problem = f"{tile['tileId']}: no reader opens level 0"
    for raw in _readings(level_0):
        if not (problem := _difference(raw, reduced, tile["tileId"])):
            break
    return problem


def _difference(raw: Pixels, reduced: Sequence[Pixels], tile_id: str) -> str:
    for level, found in enumerate(reduced, 1):
        # By default the daemon scales the full range of 16 bits to 8 bits.
        scale = 255 / 65535 if (raw.dtype, found.dtype) == (np.uint16, np.uint8) else 1.0
        if difference := differs(raw * scale, found.astype(np.float64), level):
            return f"{tile_id} level {level}: {difference}"
    return ""


def _readings(content: bytes) -> Iterator[Pixels]:
    """Yield the pixels that independent readers find in a level 0. Of a damaged header they may read one, or differ."""
    for read in (_opened, tifffile.imread, lambda file: _opened(io.BytesIO(with_shorts(file.getvalue())))):
        with contextlib.suppress(OSError, TypeError, ValueError, struct.error):
            yield read(io.BytesIO(content))


def _opened(file: Path | io.BytesIO) -> Pixels:
    # Pillow warns about unusual metadata, which are harmless.
    with warnings.catch_warnings(action="ignore"), Image.open(file) as image:
        return np.asarray(image)


def _file_of(level: dict[str, Any], inside: Path) -> Path | io.BytesIO:
    url = level["imageUrl"]
    if url.startswith("http"):  # in an object store
        with urllib.request.urlopen(url) as answer:
            return io.BytesIO(answer.read())
    return inside / uri_to_path(url).relative_to("/")


def _bytes_of(level: dict[str, Any], inside: Path) -> bytes:
    file = _file_of(level, inside)
    return file.read_bytes() if isinstance(file, Path) else file.getvalue()


def with_shorts(content: bytes) -> bytes:
    """Return a little-endian TIFF whose single numbers of the type BYTE have the type SHORT.

    TIFF 6.0 (section 2) allows either for every unsigned integer. Pillow and tifffile read a BYTE as a text.
    """
    changed = bytearray(content)
    (directory,) = struct.unpack_from("<I", content, 4)
    (entries,) = struct.unpack_from("<H", content, directory)
    for at in range(directory + 2, directory + 2 + 12 * entries, 12):
        kind, count = struct.unpack_from("<HI", content, at + 2)
        if (kind, count) == (1, 1):
            struct.pack_into("<H", changed, at + 2, 3)
            struct.pack_into("<H", changed, at + 8, content[at + 8])
    return bytes(changed)


def differs(raw: np.ndarray[Any, Any], reduced: np.ndarray[Any, Any], level: int) -> str:
    """Return how a level (H, W) differs from the exact area mean of level 0 (H, W); empty within one grey value."""
    block = 1 << level
    height, width = raw.shape[0] // block, raw.shape[1] // block
    if reduced.shape != (height, width):
        return f"is {reduced.shape}"
    exact = raw[: height * block, : width * block].reshape(height, block, width, block).mean(axis=(1, 3))
    error = float(np.abs(exact - reduced).max())
    return "" if error <= 1.0 else f"differs by {error:.1f} grey values"


def stack_lacks(rig: Rig, row: dict[str, Any], levels: int) -> str:
    """Return the first missing or wrong tile or level of a COMPLETE montage, by its row; empty if there is none."""
    raw, mipmapped = (row[key].rsplit("/", 1)[1] for key in ("raw_stack", "mipmapped_stack"))
    found = rig.tiles(mipmapped, row["z"])
    if min(len(found), len(rig.tiles(raw, row["z"]))) < row["tiles"]:
        return f"COMPLETE with {row['tiles']} tiles, of which its stacks contain {len(found)}"
    return next(filter(None, (_level_problem(tile, levels, Path("/")) for tile in found.values())), "")


def tiles_twice(rig: Rig) -> list[str]:
    """Return the tiles that are more than once in the raw stacks, or in the stacks with mipmaps."""
    seen: set[tuple[str, str]] = set()
    twice = []
    for (stack, _), tiles in all_layers(rig).items():
        for tile_id in tiles:
            key = stack.rpartition("_")[2], tile_id
            twice += [tile_id] if key in seen else []
            seen.add(key)
    return twice


def left_over(rig: Rig, inside: Path = Path("/")) -> list[Path]:
    """Return the daemon's temporary files in the mipmap and acquisition trees."""
    trees = [inside / tree.relative_to("/") for tree in (rig.mipmaps, rig.acquisition)]
    return sorted(path for tree in trees if tree.exists() for path in tree.rglob("*") if path.name.endswith(".tmp"))
