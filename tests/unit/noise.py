"""Images of noise for the tests of the kernels, and files that contain their rows."""

from typing import Any

import numpy as np

from handlers.images.pixels import Grey


def noise(depth: Any, height: int, width: int, seed: int = 5) -> Grey:
    """Return an image (H, W) of grey values from 0 to the white of its depth."""
    return np.random.default_rng(seed).integers(0, np.iinfo(depth).max, (height, width), depth, endpoint=True)


def file_of_rows(image: Grey, rows_each: int, start: int = 0) -> tuple[bytes, list[tuple[int, int]]]:
    """Return a file with an image in runs of rows, with other bytes between them, and (offset, rows) of each run."""
    content, runs = bytearray(start), []
    for top in range(0, len(image), rows_each):
        rows = image[top : top + rows_each]
        runs.append((len(content), len(rows)))
        content += rows.tobytes() + b"\xee" * 5
    return bytes(content), runs
