"""Find an image below a directory, to test whether render-ws can read it, too. Blocking."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from handlers.errors import Fault
from handlers.images.decode import read_image
from handlers.images.header import inspect_image
from handlers.images.pixels import Grey

MAX_ENTRIES = 20_000
"""Largest number of names that are read to find an image."""
_SUFFIXES = frozenset((".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp"))


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image that this machine can read."""

    path: Path
    width: int
    height: int
    bits: int
    pixels: Grey | None
    """Pixels (H, W), 8 bits; None for a 16-bit image, since render-ws returns 8 bits."""


def some_image(place: Path) -> FoundImage | None:
    """Return the image at a path, or the first one found below a directory; None without one."""
    candidates = [place] if place.is_file() else _images(place)
    for path in candidates:
        try:
            info = inspect_image(path, mask=path == place)
            pixels = read_image(path, info.width, info.height, mask=path == place)[0] if info.bits == 8 else None
        except (Fault, OSError):
            continue  # settling reports it
        return FoundImage(path, info.width, info.height, info.bits, pixels)
    return None


def _images(directory: Path) -> Iterator[Path]:
    """Yield image files, depth first, among the first `MAX_ENTRIES` names."""
    seen = 0
    for parent, directories, files in os.walk(directory):
        directories.sort()
        for name in sorted(files):
            if Path(name).suffix.lower() in _SUFFIXES:
                yield Path(parent, name)
        seen += len(files) + len(directories)
        if seen > MAX_ENTRIES:
            return
