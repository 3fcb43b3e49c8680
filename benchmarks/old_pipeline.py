"""The old pipeline without its Java clients, from its other libraries: one step as a process.

render-python makes tile specs and applies mipmaps; scikit-image's `block_reduce` or Pillow makes mipmaps in a pool of
processes. Instead of the Java clients, one HTTP request uploads the tile specs. It syncs and verifies nothing.
"""

import io
import json
import math
import multiprocessing
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.import_commands import LEVELS, WORKERS, Z
from handlers.acquisition.image_names import image_path
from handlers.uris import path_to_uri, uri_to_path


def run_step(step: str, metafile: Path, place: Path, stack: str, applied: str) -> None:
    """Run a step in a new process.

    Parameters
    ----------
    step : "ingest", "apply", or the kind of mipmaps: "mean", "NEAREST" or "png".
    metafile : read by "ingest".
    place : directory of the mipmaps.
    stack, applied : URLs of the raw stack and of the stack with mipmaps.
    """
    command = [sys.executable, "-m", "benchmarks.old_pipeline", step, str(metafile), str(place), stack, applied]
    subprocess.run(command, check=True)


def _step(step: str, metafile: Path, place: Path, stack: str, applied: str) -> None:
    if step == "ingest":
        _create(stack)
        _put(stack, tile_specs(json.loads(metafile.read_bytes()), metafile.parent, Z))
    elif step == "apply":
        from renderapi.image_pyramid import MipMap

        specs = _specs_in(stack)
        for spec in specs:
            image = uri_to_path(spec.ip[0].imageUrl)
            for level in LEVELS:
                spec.ip[level] = MipMap(imageUrl=path_to_uri(_level_path(image, place, level)))
        _create(applied)
        _put(applied, specs)
        _request(f"{applied}/state/COMPLETE", "PUT")
    else:
        images = [uri_to_path(spec.ip[0].imageUrl) for spec in _specs_in(stack)]
        with multiprocessing.get_context("fork").Pool(WORKERS) as pool:
            if step == "NEAREST":
                pool.starmap(_resized, [(image, place) for image in images])
            else:
                extension = ".png" if step == "png" else ".tif"
                pool.starmap(_block_reduced, [(image, place, extension) for image in images])


def tile_specs(content: Any, directory: Path, z: float) -> list[Any]:
    """Return the tile specs of a parsed metafile as render-python's objects, as asap-modules makes them.

    Parameters
    ----------
    directory : the directory of the images.
    """
    from renderapi.image_pyramid import ImagePyramid, MipMap
    from renderapi.layout import Layout
    from renderapi.tilespec import TileSpec
    from renderapi.transform import AffineModel

    header, data = content
    metadata, tiles = header["metadata"], data["data"]
    camera = metadata["camera_info"]
    positions = [_position(tile["img_meta"]) for tile in tiles]
    left, top = min(x for x, _ in positions), min(y for _, y in positions)
    return [
        TileSpec(
            tileId=f"{Path(tile['img_path']).stem}.{z}",
            z=z,
            width=camera["width"],
            height=camera["height"],
            minint=0,
            maxint=255,
            layout=Layout(
                sectionId=str(z),
                scopeId=metadata["temca_id"],
                cameraId=camera["camera_id"],
                imageRow=tile["img_meta"]["raster_pos"][1],
                imageCol=tile["img_meta"]["raster_pos"][0],
                stageX=tile["img_meta"]["stage_pos"][0],
                stageY=tile["img_meta"]["stage_pos"][1],
                rotation=tile["img_meta"]["angle"],
                pixelsize=4.0,
            ),
            tforms=[AffineModel(B0=x - left, B1=y - top)],
            imagePyramid=ImagePyramid({0: MipMap(imageUrl=image_path(directory, tile["img_path"]).as_uri())}),
        )
        for tile, (x, y) in zip(tiles, positions, strict=True)
    ]


def _position(image: Any) -> tuple[int, int]:
    """Return the position (x, y) of a tile in pixels, truncated to integers as by asap-modules."""
    angle = math.radians(image["angle"])
    x, y = (image["stage_pos"][axis] / image[f"pixel_size_{'xy'[axis]}_move"] for axis in (0, 1))
    return int(x * math.cos(angle) + y * math.sin(angle)), int(-x * math.sin(angle) + y * math.cos(angle))


def _resized(image: Path, place: Path) -> None:
    """Make each level from level 0."""
    with Image.open(io.BytesIO(image.read_bytes())) as file:
        for level in LEVELS:
            path = _level_path(image, place, level)
            path.parent.mkdir(parents=True, exist_ok=True)
            size = file.width >> level, file.height >> level
            file.resize(size, Image.Resampling.NEAREST).save(path)


def _block_reduced(image: Path, place: Path, extension: str) -> None:
    """Make each level from the previous one; grey values are truncated to integers."""
    from skimage.measure import block_reduce

    with Image.open(image) as file:
        pixels = np.array(file)
    for level in LEVELS:
        pixels = block_reduce(pixels, (2, 2), func=np.mean).astype(pixels.dtype)
        path = _level_path(image, place, level, extension)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def _level_path(image: Path, place: Path, level: int, extension: str = ".tif") -> Path:
    return place / str(level) / f"{str(image).lstrip('/')}{extension}"


def _create(stack: str) -> None:
    _request(stack, "POST", json.dumps({"stackResolutionX": 4.0}).encode())


def _put(stack: str, specs: Sequence[Any]) -> None:
    from renderapi.resolvedtiles import ResolvedTiles
    from renderapi.utils import renderdumps

    _request(f"{stack}/z/{Z}/resolvedTiles?deriveData=true", "PUT", renderdumps(ResolvedTiles(specs)).encode())


def _specs_in(stack: str) -> list[Any]:
    from renderapi.resolvedtiles import ResolvedTiles

    specs: list[Any] = ResolvedTiles(json=json.loads(_request(f"{stack}/z/{Z}/resolvedTiles", "GET"))).tilespecs
    return specs


def _request(url: str, method: str, body: bytes | None = None) -> bytes:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request) as answer:
        content: bytes = answer.read()
    return content


if __name__ == "__main__":
    _step(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
