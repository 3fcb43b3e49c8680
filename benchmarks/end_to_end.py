"""Target 13: a metafile to a stack with mipmaps, by the three commands, and by the libraries of the old tool.

The old pipeline is rebuilt from its libraries: render-python's objects for tile specs, scikit-image's `block_reduce` in
a pool of processes, render-python's objects again to apply. Its Java clients are left out: tile specs go to the service
in one HTTP request, so the figures favour the old tool by the time of its JVMs. It syncs and verifies nothing.
"""

import ctypes
import io
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import processes, sections
from benchmarks.common import (
    Options,
    Outcome,
    Row,
    Taken,
    median_cpu_s,
    median_ratio,
    median_wall_s,
    number,
    run_script,
)
from handlers.acquisition.image_names import image_path
from handlers.uris import path_to_uri, uri_to_path

LEVELS, Z, WORKERS = range(1, 7), 1000.0, 2
SET_CHILD_SUBREAPER = 36
"""prctl(2)"""


STEPS = ("ingest", "mipmaps", "apply", "NEAREST", "png")
"""Of the three commands; then mipmaps once more, by PIL's NEAREST, and as png of some of the tiles."""
WHOLE = STEPS[:3]
NAMES = {
    "ingest": "metafile to raw stack",
    "mipmaps": "mipmaps, mean, tif",
    "apply": "apply mipmaps",
    "NEAREST": "mipmaps, PIL NEAREST, tif",
    "png": "mipmaps, mean, png",
}


def measure(options: Options) -> Outcome:
    """Run both pipelines in turn, step by step; each has stacks and level files of its own."""
    tiles, few, side, runs = (8, 4, 256, 1) if options.quick else (100, 10, 3840, 3)
    directory = options.directory
    many, some = sections.plan(tiles, (side, side), 0), sections.plan(few, (side, side), 0)
    image = sections.write_image(directory / "image.tif", (side, side))
    metafiles = {}
    for name, section in (("many", many), ("some", some)):
        sections.link_images(section, directory / name, image)
        metafiles[name] = sections.put_metafile(section, directory / name)
    taken: dict[str, dict[str, list[Taken]]] = {step: {"temwatch": [], "old tool": []} for step in STEPS}
    with processes.standin(directory) as (_, url):
        stack = f"{url}/owner/bench/project/old/stack"
        _ours(url, "ingest", metafiles["some"], directory, "some")
        _old(stack, "ingest", metafiles["some"], directory, "some")
        for _ in range(runs):
            for step in STEPS:
                which = "some" if step == "png" else "many"
                given = step, metafiles[which], directory, which
                taken[step]["temwatch"].append(of_whole_tree(partial(_ours, url, *given)))
                taken[step]["old tool"].append(of_whole_tree(partial(_old, stack, *given)))
    made = sum(1 for _ in directory.glob("old/mipmaps/**/*.tif"))
    assert made == len(many.tiles) * len(LEVELS), made
    size = f"of {side}x{side}"
    rows = [row(f"metafile to applied mipmaps by three commands, {tiles} tiles {size}", _summed(taken))]
    rows += [row(f"{NAMES[step]}, {few if step == 'png' else tiles} tiles {size}", taken[step]) for step in STEPS]
    return Outcome(rows)


def _summed(taken: Mapping[str, Mapping[str, Sequence[Taken]]]) -> dict[str, list[Taken]]:
    """Return the times of the three commands together."""
    return {
        name: [
            Taken(sum(each.wall_s for each in round_), sum(each.cpu_s for each in round_))
            for round_ in zip(*(taken[step][name] for step in WHOLE), strict=True)
        ]
        for name in ("temwatch", "old tool")
    }


def row(what: str, taken: Mapping[str, Sequence[Taken]]) -> Row:
    """Compare CPU, which a busy machine disturbs least."""
    cpu = {name: [each.cpu_s for each in many] for name, many in taken.items()}
    wall = {name: [each.wall_s for each in many] for name, many in taken.items()}
    ratio = median_ratio(cpu["old tool"], cpu["temwatch"])
    return Row(
        13,
        what,
        median_cpu_s(taken["temwatch"]),
        "s of CPU",
        1.5,
        at_most=False,
        peer=median_cpu_s(taken["old tool"]),
        peer_is="the old tool's libraries, without its JVMs",
        ratio=ratio,
        ratio_is="peer / measured",
        judged=ratio,
        note=f"wall {number(median_wall_s(taken['temwatch']))} s and {number(median_wall_s(taken['old tool']))} s, "
        f"ratio {number(median_ratio(wall['old tool'], wall['temwatch']))}",
    )


def of_whole_tree(work: Callable[[], object]) -> Taken:
    """Measure work in a process that inherits and reaps every descendant whose own parent has ended.

    A fork server ends after the command that started it, and would be reaped, uncounted, by the first process.
    """
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_reap_and_report, args=(work, sender))
    process.start()
    sender.close()
    try:
        return Taken(*receiver.recv())
    finally:
        process.join()


def _reap_and_report(work: Callable[[], object], sender: Any) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    began = time.perf_counter()
    work()
    wall_s = time.perf_counter() - began
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    used = [resource.getrusage(who) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)]
    sender.send((wall_s, sum(each.ru_utime + each.ru_stime for each in used)))


def _ours(url: str, step: str, metafile: Path, directory: Path, stack: str) -> None:
    """Run the command of a step."""
    address = url.removesuffix("/render-ws/v1").removeprefix("http://")
    host, _, port = address.partition(":")
    render = [f"--render.{key}={value}" for key, value in _render(host, port).items()]
    z, place = f"{Z:g}", directory / "temwatch" / step
    mipmaps = ("generate_mipmaps", f"--input_stack={stack}", f"--z={z}", "--levels=6", f"--pool_size={WORKERS}")
    applied = f"--mipmap_dir={directory / 'temwatch' / 'mipmaps'}"
    arguments = {
        "ingest": (
            "generate_EM_tilespecs_from_metafile",
            f"--metafile={metafile}",
            f"--stack={stack}",
            f"--z_index={z}",
        ),
        "mipmaps": (*mipmaps, "--method=block_reduce", f"--output_dir={place}"),
        "apply": (
            *("apply_mipmaps_to_render", f"--input_stack={stack}", "--output_stack=mips"),
            *(f"--z={z}", applied, "--levels=6"),
        ),
        "NEAREST": (*mipmaps, "--method=PIL", "--PIL_filter=NEAREST", f"--output_dir={place}"),
        "png": (*mipmaps, "--method=block_reduce", "--imgformat=png", f"--output_dir={place}"),
    }
    command = [sys.executable, "-m", "daemon", arguments[step][0], *render, *arguments[step][1:]]
    subprocess.run(command, check=True, capture_output=True)


def _render(host: str, port: str) -> dict[str, str]:
    return {"host": host, "port": port, "owner": "bench", "project": "ours"}


# --- the old pipeline


def _old(stacks: str, step: str, metafile: Path, directory: Path, stack: str) -> None:
    """Run a step as a process."""
    places = [str(directory / "old" / ("mipmaps" if step == "apply" else step)), f"{stacks}/{stack}", f"{stacks}/mips"]
    command = [sys.executable, "-m", "benchmarks.end_to_end", "--old-step", step, str(metafile), *places]
    subprocess.run(command, check=True)


def old_step(step: str, metafile: Path, place: Path, stack: str, applied: str) -> None:
    """Run one step of the old pipeline."""
    if step == "ingest":
        _create(stack)
        _put(stack, _specs_of(json.loads(metafile.read_bytes()), metafile.parent))
    elif step == "apply":
        from renderapi.image_pyramid import MipMap

        specs = _specs_in(stack)
        for spec in specs:
            image = uri_to_path(spec.ip[0].imageUrl)
            for level in LEVELS:
                spec.ip[level] = MipMap(imageUrl=path_to_uri(_level_path(image, place, level)))
        _create(applied)
        _put(applied, specs)
    else:
        images = [uri_to_path(spec.ip[0].imageUrl) for spec in _specs_in(stack)]
        with multiprocessing.get_context("fork").Pool(WORKERS) as pool:
            if step == "NEAREST":
                pool.starmap(_resized, [(image, place) for image in images])
            else:
                extension = ".png" if step == "png" else ".tif"
                pool.starmap(_block_reduced, [(image, place, extension) for image in images])


def _specs_of(content: Any, directory: Path) -> list[Any]:
    from renderapi.image_pyramid import ImagePyramid, MipMap
    from renderapi.tilespec import TileSpec
    from renderapi.transform import AffineModel

    header, data = content
    camera = header["metadata"]["camera_info"]
    return [
        TileSpec(
            tileId=f"{Path(tile['img_path']).stem}.{Z}",
            z=Z,
            width=camera["width"],
            height=camera["height"],
            minint=0,
            maxint=255,
            sectionId=str(Z),
            stageX=tile["img_meta"]["stage_pos"][0],
            stageY=tile["img_meta"]["stage_pos"][1],
            tforms=[AffineModel(B0=tile["img_meta"]["stage_pos"][0], B1=tile["img_meta"]["stage_pos"][1])],
            imagePyramid=ImagePyramid({0: MipMap(imageUrl=image_path(directory, tile["img_path"]).as_uri())}),
        )
        for tile in data["data"]
    ]


def _resized(image: Path, place: Path) -> None:
    """Make each level from level 0."""
    with Image.open(io.BytesIO(image.read_bytes())) as file:
        for level in LEVELS:
            path = _level_path(image, place, level)
            path.parent.mkdir(parents=True, exist_ok=True)
            size = file.width >> level, file.height >> level
            file.resize(size, Image.Resampling.NEAREST).save(path)


def _block_reduced(image: Path, place: Path, extension: str) -> None:
    """Make each level from the one before, truncated."""
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
    if sys.argv[1:2] == ["--old-step"]:
        old_step(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), *sys.argv[5:])
    else:
        run_script("end_to_end", measure)
