"""Compute a tile's raw image or mask as render-ws serves it, with its edge effect and its cache."""

import http.client
import io
import math
import os
import re
import threading
import urllib.request
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from daemon.simulator.standin.json_types import Json, Refusal

_FORMATS = {
    "png": ("PNG", "RGBA", "image/png"),
    "jpeg": ("JPEG", "RGB", "image/jpeg"),
    "tiff": ("TIFF", "RGB", "image/tiff"),
}
"""Pillow's format, mode and media type: render-ws serves colour images even of grey sources."""
_JPEG_QUALITY = 85
_MESH_CELL_SIZE = 64
"""Side of the mesh cells at whose inner corners render-ws measures the scale. A smaller tile has none: scale 1."""
_Stored = npt.NDArray[Any]
Source = Path | str
"""A file, or an HTTP URL."""
FETCH_S = 30.0
MAX_FETCHED_BYTES = 2**30
"""Limits of a request for an image: time-out, and size of the body."""
_Pixels = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Window:
    """Scale and intensity range of a request: grey values low to high become 0 to 255."""

    scale: float = 1.0
    low: float = 0.0
    high: float = 255.0


def source_of(url: str) -> Source:
    """Return the file of a URL or path; an HTTP URL is returned unchanged. Raises Refusal, 500, for s3."""
    if url.startswith(("http://", "https://")):
        return url
    if url.startswith("s3://"):
        raise Refusal(500, f"failed to load {url}: the stand-in has no credentials for AWS")
    return Path(unquote(urlsplit(url).path) if ":" in url else url)


def files_of(tile: Json) -> Iterator[tuple[str, str]]:
    """Yield ("imageUrl" or "maskUrl", URL) of every level, including those of channels."""
    for levels in (tile.get("mipmapLevels", {}), *(one.get("mipmapLevels", {}) for one in tile.get("channels", ()))):
        for level in levels.values():
            yield from ((key, level[key]) for key in ("imageUrl", "maskUrl") if key in level)


def require_files(tile: Json) -> None:
    """Raise Refusal, 400, if a file of any level is missing, unreadable or empty."""
    for key, url in files_of(tile):
        _require_file(key, source_of(url))


def _require_file(key: str, path: Source) -> None:
    """Raise Refusal like render's `ImageAndMask.validateFile`: URLs are not checked, and directories count as files."""
    if isinstance(path, str):
        return
    if not os.path.exists(path):  # noqa: PTH110  False in a directory that may not be entered, as in Java
        raise Refusal(400, f"cannot find {key} file '{path}'")
    if not os.access(path, os.R_OK):
        raise Refusal(400, f"no read access for {key} file '{path}'")
    if path.stat().st_size == 0:
        raise Refusal(400, f"{key} file '{path}' is empty")


def lowest_level(tile: Json, key: str) -> Source:
    """Return the file of the lowest level, the only one that render-ws reads for a raw image. Raises Refusal, 400."""
    channel = next(iter(tile.get("channels", ())), tile)
    levels: Json = channel.get("mipmapLevels", {})
    url = levels[min(levels, key=int)].get(key) if levels else None
    if url is None:
        raise Refusal(400, "no imageUrl specified")
    return source_of(url)


class ImageCache:
    """Cache of decoded images by file. The least recently used ones are dropped first.

    As in render-ws, the cache never checks files for changes: the old pixels of a rewritten file are served.

    Parameters
    ----------
    max_bytes : largest size of all images together.
    """

    def __init__(self, max_bytes: int = 256 * 2**20) -> None:
        self._max_bytes = max_bytes
        self._images: OrderedDict[Source, _Stored] = OrderedDict()
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Drop all images."""
        with self._lock:
            self._images.clear()

    def grey(self, path: Source) -> _Stored:
        """Return the image, (H, W), uint8 or uint16. Raises Refusal: 400 (no file), 500 (not an image)."""
        with self._lock:
            if path not in self._images:
                _require_file("imageUrl", path)
                self._images[path] = _decoded(path)
            self._images.move_to_end(path)
            image = self._images[path]
            while len(self._images) > 1 and sum(each.nbytes for each in self._images.values()) > self._max_bytes:
                self._images.popitem(last=False)
            return image


def _decoded(path: Source) -> _Stored:
    try:
        with Image.open(path if isinstance(path, Path) else _fetched(path)) as image:
            return np.asarray(image if image.mode in ("L", "I;16", "I;16B") else image.convert("L"))
    except (OSError, UnidentifiedImageError, http.client.HTTPException) as error:
        raise Refusal(500, f"failed to load {path}: {error}") from None


def _fetched(url: str) -> io.BytesIO:
    """Return the body of an HTTP URL. Raises OSError."""
    with urllib.request.urlopen(url, timeout=FETCH_S) as answer:  # noqa: S310  the scheme was checked
        body = answer.read(MAX_FETCHED_BYTES + 1)
    if len(body) > MAX_FETCHED_BYTES:
        raise OSError(f"has more than {MAX_FETCHED_BYTES} bytes")
    return io.BytesIO(body)


def raw_parameters(tile: Json, key: str, scale: float) -> Json:
    """Return the render parameters of a tile's raw image or mask: its file without transforms."""
    channel = next(iter(tile.get("channels", ())), tile)
    levels: Json = channel.get("mipmapLevels", {})
    level = min(levels, key=int)
    image = {"imageUrl": levels[level].get(key)}
    return {
        "meshCellSize": float(_MESH_CELL_SIZE),
        "minMeshCellSize": 0.0,
        "x": 0.0,
        "y": 0.0,
        "width": int(tile.get("width", 0)),
        "height": int(tile.get("height", 0)),
        "scale": scale,
        "skipInterpolation": True,
        "tileSpecs": [{"channels": [{"mipmapLevels": {level: image}}], "transforms": {"type": "list", "specList": []}}],
    }


def painted(parameters: Json, images: ImageCache) -> bytes:
    """Render posted parameters to a PNG: one tile without transforms, at scale 1; otherwise raise Refusal, 501.

    A mask that differs in size from its image is dropped. This is from render-ws's source code: no response of
    render-ws was recorded yet.
    """
    (spec,) = parameters["tileSpecs"]
    if spec.get("transforms", {}).get("specList") or parameters.get("scale", 1.0) != 1.0:
        raise Refusal(501, "the stand-in renders no transforms")
    levels = next(iter(spec.get("channels", ())), spec)["mipmapLevels"]
    entry = levels[min(levels, key=int)]
    image = images.grey(source_of(entry["imageUrl"]))
    size = int(parameters["height"]), int(parameters["width"])
    canvas = reduced(image.astype(np.uint32), size, Window())
    mask = _mask(entry["maskUrl"], images) if "maskUrl" in entry else None
    alpha = np.full(size, 255, np.uint8)
    if mask is not None and mask.shape == image.shape:
        alpha = reduced(mask.astype(np.uint32), size, Window())
    file = io.BytesIO()
    Image.fromarray(np.dstack([canvas, canvas, canvas, alpha])).save(file, "PNG")
    return file.getvalue()


def _mask(url: str, images: ImageCache) -> _Stored:
    """Return a mask, (H, W), from its file or from a URL that describes it as opaque in a box."""
    box = re.fullmatch(r"mask://outside-box\?minX=(\d+)&minY=(\d+)&maxX=(\d+)&maxY=(\d+)&width=(\d+)&height=(\d+)", url)
    if box is None:
        return images.grey(source_of(url))
    left, top, right, bottom, width, height = map(int, box.groups())
    mask = np.zeros((height, width), np.uint8)
    mask[top:bottom, left:right] = 255
    return mask


def rendered(image: _Stored, size: tuple[int, int], file_format: str, window: Window) -> tuple[bytes, str]:
    """Return an image, drawn on a canvas of (height, width) times scale, as png, jpeg or tiff; and its media type."""
    name, mode, media_type = _FORMATS[file_format]
    painted = Image.fromarray(reduced(image.astype(np.uint32), size, window)).convert(mode)
    file = io.BytesIO()
    painted.save(file, name, **({"quality": _JPEG_QUALITY} if name == "JPEG" else {}))
    return file.getvalue(), media_type


def reduced(pixels: _Pixels, size: tuple[int, int], window: Window) -> npt.NDArray[np.uint8]:
    """Draw pixels (H, W) on a canvas of the tile's (height, width) times scale, truncated, like render-ws.

    The canvas is black outside the image. Below scale 1 the image's levels are used, and row 0 and column 0 are black,
    since the grid of level n is shifted by (1 - 2^-n) / 2 pixels against the canvas. For a tile of 64 pixels or less in
    x or y, render-ws uses level 0 at every scale: every 2^n-th pixel and no border.

    >>> reduced(np.full((70, 66), 9, np.uint32), (70, 66), Window(scale=0.5))[:2, :3].tolist()
    [[0, 0, 0], [0, 9, 9]]
    >>> reduced(np.arange(12, dtype=np.uint32).reshape(2, 6), (2, 8), Window(scale=0.5)).tolist()
    [[0, 2, 4, 0]]
    """
    has_levels = window.scale < 1 and min(size) > _MESH_CELL_SIZE
    level = math.floor(-math.log2(window.scale)) if has_levels else 0
    for _ in range(level):
        pixels = _halved(pixels)
    step = window.scale * 2**level
    canvas = np.zeros([math.floor(side * window.scale) for side in size], np.uint8)
    rows, columns = (
        (np.arange(there) / step).astype(int)[: math.ceil(side * step)]
        for there, side in zip(canvas.shape, pixels.shape, strict=True)
    )
    part = pixels[np.ix_(rows[rows < pixels.shape[0]], columns[columns < pixels.shape[1]])]
    canvas[: part.shape[0], : part.shape[1]] = _as_bytes(part, window)
    if has_levels:
        canvas[:1, :] = 0
        canvas[:, :1] = 0
    return canvas


def _as_bytes(pixels: _Pixels, window: Window) -> npt.NDArray[np.uint8]:
    """Map the grey values low to high, both inclusive, to 0 to 255.

    >>> _as_bytes(np.array([[0, 128, 129, 65535]], np.uint32), Window(high=65535)).tolist()
    [[0, 1, 1, 255]]
    """
    above = np.maximum(pixels.astype(np.float64) - window.low, 0)
    values = np.floor(above * (256.0 / (window.high - window.low + 1)) + 0.5)
    return np.minimum(values, 255).astype(np.uint8)


def _halved(pixels: _Pixels) -> _Pixels:
    """Halve the size: truncated means of 2 x 2 pixels. An odd last row or column is dropped."""
    height, width = (side // 2 * 2 for side in pixels.shape)
    even = pixels[:height, :width]
    return (even[0::2, 0::2] + even[0::2, 1::2] + even[1::2, 0::2] + even[1::2, 1::2]) // 4
