"""The end of a run of SBEMimage: whether the run has ended, and which tiles it should have imaged. Blocking.

Two files lie beside `metadata_{time}.txt`: the last line of `log_{time}.txt` says that the run has ended, and
`config_{time}.txt` lists the active tiles of every grid.
"""

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from handlers.acquisition.section_path import Key
from handlers.container import Container
from handlers.regular_file import NotContained, NotRegular, open_regular, read_regular

_END: Final = b"*** END OF LOG ***"
_END_BYTES: Final = 256
"""Bytes at the end of a log that are searched: blank lines may follow the line."""
_MAX_CONFIG_BYTES: Final = 4 << 20
_MAX_GRIDS: Final = 10_000
_TILE_ID: Final = re.compile(rb"'tileid': *'(\d{1,6})\.(\d{1,6})\.")
Tile = tuple[int, int]
"""Number of a grid, and of a tile in it."""


def has_ended(log: Path, root: Container | None = None) -> bool:
    """Whether the run of a metadata log has ended; False if its log file cannot be read."""
    try:
        descriptor, _ = open_regular(_beside(log, "log_"), follow_links=False, root=root)
    except (OSError, NotRegular, NotContained):
        return False
    try:
        size = os.fstat(descriptor).st_size
        return _END in os.pread(descriptor, _END_BYTES, max(0, size - _END_BYTES))
    except OSError:
        return False
    finally:
        os.close(descriptor)


def is_imaged(log: Path, key: Key, lines: bytes, root: Container | None = None) -> bool:
    """Whether the lines of a section list every active tile; False if the configuration of the run cannot be read.

    A region of an array needs only the tiles of the grids that its lines name.
    """
    listed = {(int(grid), int(tile)) for grid, tile in _TILE_ID.findall(lines)}
    expected = set(_active(_grids(_beside(log, "config_"), root), key[0]))
    if key[1] is not None:
        named = {grid for grid, _ in listed}
        expected = {(grid, tile) for grid, tile in expected if grid in named}
    return bool(expected) and expected <= listed


def _beside(log: Path, kind: str) -> Path:
    return log.with_name(kind + log.name.removeprefix("metadata_"))


def _grids(config: Path, root: Container | None) -> Mapping[str, Any]:
    """Return the values of the section [grids], each parsed as JSON; none if the file cannot be read."""
    try:
        content, _ = read_regular(config, _MAX_CONFIG_BYTES, follow_links=False, root=root)
    except (OSError, NotRegular, NotContained):
        return {}
    found: dict[str, Any] = {}
    is_grids = False
    for line in content.decode(errors="replace").splitlines():
        if line.startswith("["):
            is_grids = line.strip() == "[grids]"
        elif is_grids:
            name, _, text = line.partition(" = ")
            try:
                found[name.strip()] = json.loads(text)
            except (ValueError, RecursionError):
                continue
    return found


def _active(grids: Mapping[str, Any], slice_: int) -> Iterator[Tile]:
    """Yield the tiles that are imaged in a slice. A grid without a list of active tiles has none."""
    tiles = grids.get("active_tiles")
    if not isinstance(tiles, list) or len(tiles) > _MAX_GRIDS:
        return
    for grid, numbers in enumerate(tiles):
        if isinstance(numbers, list) and _is_due(grids, grid, slice_):
            yield from ((grid, number) for number in numbers if isinstance(number, int))


def _is_due(grids: Mapping[str, Any], grid: int, slice_: int) -> bool:
    """Whether a grid is active and imaged in a slice: with an interval of n, in every n-th slice."""
    interval, offset = _value(grids, "acq_interval", grid, 1), _value(grids, "acq_interval_offset", grid, 0)
    is_active = _value(grids, "grid_active", grid, 1) != 0
    return is_active and interval > 0 and slice_ >= offset and (slice_ - offset) % interval == 0


def _value(grids: Mapping[str, Any], name: str, grid: int, otherwise: int) -> int:
    values: Collection[Any] = grids.get(name, ())
    found = values[grid] if isinstance(values, list) and grid < len(values) else otherwise
    return found if isinstance(found, int) else otherwise
