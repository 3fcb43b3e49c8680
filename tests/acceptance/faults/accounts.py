"""Audit of the delivered montages from outside: from stacks, files and the daemon's answers."""

import io
import json
import time
import urllib.request
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from handlers.uris import uri_to_path
from tests.acceptance.rig import OWNER, PROJECT, Rig, fetch

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
        """Return the layers that hold its tiles."""
        return (f"{self.specimen}_raw", self.z), (f"{self.specimen}_mips", self.z)


@dataclass(slots=True)
class Audit:
    """Counts for a row, and the problems found."""

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
    metafiles : all that were delivered, as paths of this process.
    inside : the daemon's root directory for this process, if the daemon has its own mounts.
    """
    result = Audit(montages=len(metafiles))
    sections = [Section.of(path) for path in metafiles]
    layers = all_layers(rig)
    lacking = {section: _amiss(section, layers, levels, inside) for section in sections}
    # The states come last: a montage whose mipmaps are made again meanwhile has left COMPLETE.
    rows = present_rows(rig)
    for section in sections:
        row = rows.get(section.metafile)
        state = row["state"] if row else "unknown"
        problem = lacking[section] if state == "complete" else f"is {state}: {row and row['fault']}"
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
        result.problems += [f"{place} holds {tile} besides" for tile in sorted(surplus)[:3]]
    left = left_over(rig, inside)
    result.left_over = len(left)
    result.problems += [f"left over: {path}" for path in left[:3]]
    return result


def present_rows(rig: Rig) -> dict[Path, dict[str, Any]]:
    """Return metafile -> the montage of its present content."""
    return {Path(row["metafile"]): row for row in reversed(rig.montages()) if row["state"] != "superseded"}


def wait_until_ended(rig: Rig, metafiles: Collection[Path], timeout_s: float) -> dict[Path, dict[str, Any]]:
    """Return the montages once each is COMPLETE, FAILED or IGNORED; after the time-out as they are."""
    deadline = time.monotonic() + timeout_s
    while True:
        rows = present_rows(rig)
        if all(path in rows and rows[path]["state"] in ENDED for path in metafiles) or time.monotonic() > deadline:
            return {path: rows[path] for path in metafiles if path in rows}
        time.sleep(0.2)


def all_layers(rig: Rig) -> dict[tuple[str, float], dict[str, Any]]:
    """Return (stack, z) -> tile id -> tile, of all tiles of the project in render-ws."""
    base = f"{rig.render_url}/owner/{OWNER}/project/{PROJECT}"
    names = sorted(each["stack"] for each in fetch(f"{base}/stackIds"))
    return {(name, z): rig.tiles(name, z) for name in names for z in fetch(f"{base}/stack/{name}/zValues")}


def _amiss(section: Section, layers: dict[tuple[str, float], dict[str, Any]], levels: int, inside: Path) -> str:
    """Return what a montage lacks in its stacks and files; nothing if it is whole."""
    for place in section.places:
        if missing := section.tile_ids - layers.get(place, {}).keys():
            return f"{place} lacks {len(missing)} tiles"
    tiles = layers[section.places[1]]
    return next((problem for each in sorted(section.tile_ids) if (problem := _wrong(tiles[each], levels, inside))), "")


def _wrong(tile: dict[str, Any], levels: int, inside: Path) -> str:
    named = tile["mipmapLevels"]
    if sorted(named, key=int) != [str(level) for level in range(levels + 1)]:
        return f"{tile['tileId']} has levels {sorted(named)}"

    def pixels(level: int) -> np.ndarray[Any, Any]:
        # Pillow only warns about unusual metadata, which does no harm.
        with warnings.catch_warnings(action="ignore"), Image.open(_file_of(named[str(level)], inside)) as image:
            return np.asarray(image)

    try:
        raw = pixels(0)
        for level in range(1, levels + 1):
            reduced = pixels(level)
            # The daemon's default: levels of images with 16 bits have 8, the full range becoming 0 to 255.
            scale = 255 / 65535 if (raw.dtype, reduced.dtype) == (np.uint16, np.uint8) else 1.0
            if wrong := differs(raw * scale, reduced.astype(np.float64), level):
                return f"{tile['tileId']} level {level}: {wrong}"
    except TypeError:
        return ""  # Pillow cannot read the offsets of a strip that are given as bytes: nothing to compare with
    except (OSError, ValueError) as error:
        return f"{tile['tileId']}: {error}"
    return ""


def _file_of(level: dict[str, Any], inside: Path) -> Path | io.BytesIO:
    url = level["imageUrl"]
    if url.startswith("http"):  # of an object store
        with urllib.request.urlopen(url) as answer:
            return io.BytesIO(answer.read())
    return inside / uri_to_path(url).relative_to("/")


def differs(raw: np.ndarray[Any, Any], reduced: np.ndarray[Any, Any], level: int) -> str:
    """Return how a level differs from the exact area mean of level 0, both (H, W); nothing within one grey value."""
    block = 1 << level
    height, width = raw.shape[0] // block, raw.shape[1] // block
    if reduced.shape != (height, width):
        return f"is {reduced.shape}"
    exact = raw[: height * block, : width * block].reshape(height, block, width, block).mean(axis=(1, 3))
    off = float(np.abs(exact - reduced).max())
    return "" if off <= 1.0 else f"is off by {off:.1f} grey values"


def stack_lacks(rig: Rig, row: dict[str, Any], levels: int) -> str:
    """Return what a COMPLETE montage lacks in its stacks, by the daemon's own row; nothing if it is whole."""
    raw, mipmapped = (row[key].rsplit("/", 1)[1] for key in ("raw_stack", "mipmapped_stack"))
    found = rig.tiles(mipmapped, row["z"])
    if min(len(found), len(rig.tiles(raw, row["z"]))) < row["tiles"]:
        return f"COMPLETE with {row['tiles']} tiles, of which its stacks show {len(found)}"
    return next((problem for tile in found.values() if (problem := _wrong(tile, levels, Path("/")))), "")


def tiles_twice(rig: Rig) -> list[str]:
    """Return tiles that stand in more than one place of the raw, or of the mipmapped, stacks."""
    seen: set[tuple[str, str]] = set()
    twice = []
    for (stack, _), tiles in all_layers(rig).items():
        for tile_id in tiles:
            key = stack.rpartition("_")[2], tile_id
            twice += [tile_id] if key in seen else []
            seen.add(key)
    return twice


def left_over(rig: Rig, inside: Path = Path("/")) -> list[Path]:
    """Return the daemon's temporary files in its trees, and all files that it wrote into the acquisition tree."""
    trees = [inside / tree.relative_to("/") for tree in (rig.mipmaps, rig.acquisition)]
    return sorted(path for tree in trees if tree.exists() for path in tree.rglob("*") if path.name.endswith(".tmp"))
