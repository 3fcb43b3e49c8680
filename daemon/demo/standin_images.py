"""Pixels of a tile's raw image or mask as render-ws serves them, its edge effect included."""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from daemon.demo.standin_specs import Json, Refusal

_FORMATS = {
    "png": ("PNG", "RGBA", "image/png"),
    "jpeg": ("JPEG", "RGB", "image/jpeg"),
    "tiff": ("TIFF", "RGB", "image/tiff"),
}
"""Pillow's format, mode and media type: render-ws paints in colour whatever the source is."""
_JPEG_QUALITY = 85


@dataclass(frozen=True, slots=True)
class Window:
    """How an image is asked for: grey values low to high become 0 to 255."""

    scale: float = 1.0
    low: float = 0.0
    high: float = 255.0


def path_of(url: str) -> Path:
    """The file of a URL or plain path."""
    return Path(unquote(urlsplit(url).path) if ":" in url else url)


def files_of(tile: Json) -> Iterator[tuple[str, str]]:
    """(imageUrl or maskUrl, its value) of every level, of channels too."""
    for levels in (tile.get("mipmapLevels", {}), *(one.get("mipmapLevels", {}) for one in tile.get("channels", ()))):
        for level in levels.values():
            yield from ((key, level[key]) for key in ("imageUrl", "maskUrl") if key in level)


def require_files(tile: Json) -> None:
    """Refuse a tile of which any file, at any level, is missing or empty: render-ws then renders it at no scale."""
    for key, url in files_of(tile):
        path = path_of(url)
        if not path.is_file() or path.stat().st_size == 0:
            raise Refusal(400, f"cannot find {key} file '{url}'")


def lowest_level(tile: Json, key: str) -> Path:
    """The file of the lowest level, the only one that render-ws looks at for a raw image."""
    channel = next(iter(tile.get("channels", ())), tile)
    levels: Json = channel.get("mipmapLevels", {})
    url = levels[min(levels, key=int)].get(key) if levels else None
    if url is None:
        raise Refusal(400, "no imageUrl specified")
    return path_of(url)


def rendered(path: Path, file_format: str, window: Window) -> tuple[bytes, str]:
    """An image file in png, jpeg or tiff form, and its media type."""
    name, mode, media_type = _FORMATS[file_format]
    image = Image.fromarray(reduced(_grey(path), window)).convert(mode)
    file = io.BytesIO()
    image.save(file, name, **({"quality": _JPEG_QUALITY} if name == "JPEG" else {}))
    return file.getvalue(), media_type


def _grey(path: Path) -> npt.NDArray[np.uint32]:
    """(H, W) of 8 or 16 bits."""
    try:
        with Image.open(path) as image:
            pixels: npt.NDArray[Any] = np.asarray(image if image.mode in ("L", "I;16", "I;16B") else image.convert("L"))
    except (OSError, UnidentifiedImageError) as error:
        raise Refusal(500, f"failed to load {path}: {error}") from None
    return pixels.astype(np.uint32)


def reduced(pixels: npt.NDArray[np.uint32], window: Window) -> npt.NDArray[np.uint8]:
    """Pixels (H, W) as render-ws paints them, of size floor(H * scale), floor(W * scale).

    Below scale 1 row 0 and column 0 are black: the grid of level n lies (1 - 2^-n) / 2 pixels off the one painted on.

    >>> reduced(np.full((4, 6), 9, np.uint32), Window(scale=0.5)).tolist()
    [[0, 0, 0], [0, 9, 9]]
    """
    level = max(0, math.floor(-math.log2(window.scale)))
    size = [math.floor(side * window.scale) for side in pixels.shape]
    for _ in range(level):
        pixels = _halved(pixels)
    rows, columns = (
        np.minimum((np.arange(count) / (window.scale * 2**level)).astype(int), side - 1)
        for count, side in zip(size, pixels.shape, strict=True)
    )
    span = max(window.high - window.low, 1e-9)
    values = np.clip((pixels[np.ix_(rows, columns)] - window.low) * (255.0 / span), 0, 255)
    grey: npt.NDArray[np.uint8] = np.floor(values + 0.5).astype(np.uint8)
    if window.scale < 1:
        grey[:1, :] = 0
        grey[:, :1] = 0
    return grey


def _halved(pixels: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Half the size: means of 2 x 2 pixels cut off to integers; an odd last row or column is dropped."""
    height, width = (side // 2 * 2 for side in pixels.shape)
    even = pixels[:height, :width]
    return (even[0::2, 0::2] + even[0::2, 1::2] + even[1::2, 0::2] + even[1::2, 1::2]) // 4
