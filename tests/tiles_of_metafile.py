"""Images for a metafile that no simulated microscope has written."""

import json
from pathlib import Path

from daemon.simulator.frames import NoiseFrames, tiff_bytes


def write_tiles_for(metafile: Path | bytes, directory: Path, size: tuple[int, int] | None = None) -> tuple[Path, ...]:
    """Write a distinct 8-bit image for each tile of a metafile; return their paths.

    Parameters
    ----------
    metafile : path or content of the metafile, a list of two elements.
    size : (width, height), pixels; None: those of the header.
    """
    header, data = json.loads(metafile if isinstance(metafile, bytes) else metafile.read_bytes())[:2]
    camera = header["metadata"]["camera_info"]
    width, height = size or (camera["width"], camera["height"])
    noise = NoiseFrames(width, height, seed=0)
    directory.mkdir(parents=True, exist_ok=True)
    images = tuple(directory / tile["img_path"] for tile in data["data"])
    for index, image in enumerate(images):
        image.write_bytes(tiff_bytes(noise.frame(index)))
    return images
