"""Draw a section that is not in a stack yet, from its metafile or from resolved tiles at a URL or in a file.

    python -m daemon.simulator.picture /data/temca2/.../_metadata_..._.json section.png

Tiles of a metafile are placed by their stage positions. `temwatch picture` draws sections of stacks.
"""

import argparse
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from handlers.acquisition.formats.pytemca import PyTemca
from handlers.acquisition.tilespec import tile_specs_for
from handlers.errors import Fault, RenderUnavailable
from handlers.picture import compose_section, save_picture
from handlers.text import printable

Json = Mapping[str, Any]


def resolved_tiles_at(source: str) -> Json:
    """Read resolved tiles from a URL or file, or make them from a metafile with each tile at its stage position.

    Raises
    ------
    Fault
        If the source cannot be read or is neither a metafile nor resolved tiles.
    """
    if source.startswith(("http://", "https://")):
        return _tiles_in(_fetched(source), source)
    path = Path(source).absolute()
    try:
        return _tiles_of_metafile(path) if path.name.startswith("_metadata_") else _tiles_in(path.read_bytes(), source)
    except OSError as error:
        raise Fault(source, f"cannot be read: {error.strerror}") from error


def _fetched(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=60) as response:  # noqa: S310  the scheme was checked
            body: bytes = response.read()
            return body
    except OSError as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # closes the connection
        raise RenderUnavailable(url, f"could not fetch the tiles: {error}") from error


def _tiles_in(text: bytes, source: str) -> Json:
    try:
        tiles = json.loads(text)
    except ValueError as error:
        raise Fault(source, f"is not JSON: {error}") from error
    if not isinstance(tiles, dict) or "tileIdToSpecMap" not in tiles:
        raise Fault(source, "contains no resolved tiles", "use the URL .../z/{z}/resolvedTiles of a stack")
    return tiles


def _tiles_of_metafile(path: Path) -> Json:
    acquisition = PyTemca().parse(path.read_bytes(), path)
    specs = tile_specs_for(acquisition, 0.0, path.parent)
    return {"tileIdToSpecMap": {spec["tileId"]: spec for spec in specs}}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 when the picture is written, 1 on a fault."""
    parser = argparse.ArgumentParser("python -m daemon.simulator.picture", description="A picture of a section.")
    parser.add_argument("source", help="URL or file of a section's resolved tiles, or a metafile")
    parser.add_argument("png", type=Path, help="file to write")
    parser.add_argument("--max-px", type=int, default=2048, metavar="N", help="longest side")
    parser.add_argument("--greys", type=int, default=256, metavar="N", help="grey values; fewer make a smaller file")
    arguments = parser.parse_args(argv)
    try:
        picture = compose_section(resolved_tiles_at(arguments.source), max_px=arguments.max_px)
        save_picture(picture, arguments.png, arguments.greys)
    except Fault as fault:
        sys.stderr.write(f"picture: {fault}\n")
        return 1
    except OSError as error:
        sys.stderr.write(printable(f"picture: could not write {arguments.png}: {error.strerror}") + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
