"""Target 13: a metafile to a stack with mipmaps, by the three commands, and by the libraries of the old tool.

The old pipeline is rebuilt from its libraries: render-python's objects for tile specs, scikit-image's `block_reduce` in
a pool of processes, render-python's objects again to apply. Its Java clients are left out: tile specs go to the service
in one HTTP request, so the figures favour the old tool by the time of its JVMs. It syncs and verifies nothing.
"""

import ctypes
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
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
from daemon.simulator.section import SectionPlan
from handlers.acquisition.image_names import image_path
from handlers.uris import path_to_uri, uri_to_path

LEVELS, Z, WORKERS = range(1, 7), 1000.0, 2
SET_CHILD_SUBREAPER = 36
"""prctl(2)"""


def measure(options: Options) -> Outcome:
    """Run both pipelines in turn; each has stacks and level files of its own."""
    tiles, side, runs = (8, 256, 1) if options.quick else (200, 3840, 3)
    directory = options.directory
    section = sections.plan(tiles, (side, side), 0)
    sections.link_images(section, directory, sections.write_image(directory / "image.tif", (side, side)))
    metafile = sections.put_metafile(section, directory)
    taken: dict[str, list[Taken]] = {"temwatch": [], "old tool": []}
    with processes.standin(directory) as (_, url):
        for _ in range(runs):
            taken["temwatch"].append(of_whole_tree(lambda: ours(url, metafile, directory / "temwatch")))
            taken["old tool"].append(of_whole_tree(lambda: old(url, metafile, section, directory / "old")))
    return Outcome([row(f"{tiles} tiles of {side}x{side}", taken)])


def row(what: str, taken: dict[str, list[Taken]]) -> Row:
    """Compare CPU, which a busy machine disturbs least."""
    cpu = {name: [each.cpu_s for each in many] for name, many in taken.items()}
    wall = {name: [each.wall_s for each in many] for name, many in taken.items()}
    ratio = median_ratio(cpu["old tool"], cpu["temwatch"])
    return Row(
        13,
        f"metafile to applied mipmaps by three commands, {what}",
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


def ours(url: str, metafile: Path, place: Path) -> None:
    """Run the three commands."""
    address = url.removesuffix("/render-ws/v1").removeprefix("http://")
    host, _, port = address.partition(":")
    render = [f"--render.{key}={value}" for key, value in _render(host, port).items()]

    def run(name: str, *arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "daemon", name, *render, *arguments], check=True, capture_output=True)

    z = f"{Z:g}"
    run("generate_EM_tilespecs_from_metafile", f"--metafile={metafile}", "--stack=raw", f"--z_index={z}")
    mipmaps = (f"--z={z}", "--levels=6", "--method=block_reduce", f"--pool_size={WORKERS}", f"--output_dir={place}")
    run("generate_mipmaps", "--input_stack=raw", *mipmaps)
    run(
        "apply_mipmaps_to_render",
        *("--input_stack=raw", "--output_stack=mips", f"--z={z}", f"--mipmap_dir={place}", "--levels=6"),
    )


def _render(host: str, port: str) -> dict[str, str]:
    return {"host": host, "port": port, "owner": "bench", "project": "ours"}


# --- the old pipeline


def old(url: str, metafile: Path, section: SectionPlan, place: Path) -> None:
    """Run the three steps, each as a process."""
    stack = f"{url}/owner/bench/project/old/stack"
    for step in ("ingest", "mipmaps", "apply"):
        command = [sys.executable, "-m", "benchmarks.end_to_end", "--old-step", step, stack, str(metafile), str(place)]
        subprocess.run(command, check=True)
    made = sum(1 for _ in place.rglob("*.tif"))
    assert made == len(section.tiles) * len(LEVELS), made


def old_step(step: str, stack: str, metafile: Path, place: Path) -> None:
    """Run one step of the old pipeline."""
    if step == "ingest":
        _create(f"{stack}/raw")
        _put(f"{stack}/raw", _specs_of(json.loads(metafile.read_bytes()), metafile.parent))
    elif step == "mipmaps":
        images = [uri_to_path(spec.ip[0].imageUrl) for spec in _specs_in(f"{stack}/raw")]
        with multiprocessing.get_context("fork").Pool(WORKERS) as pool:
            pool.starmap(_block_reduced, [(image, place) for image in images])
    else:
        from renderapi.image_pyramid import MipMap

        specs = _specs_in(f"{stack}/raw")
        for spec in specs:
            image = uri_to_path(spec.ip[0].imageUrl)
            for level in LEVELS:
                spec.ip[level] = MipMap(imageUrl=path_to_uri(_level_path(image, place, level)))
        _create(f"{stack}/mips")
        _put(f"{stack}/mips", specs)


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


def _block_reduced(image: Path, place: Path) -> None:
    """Make each level from the one before, truncated."""
    from skimage.measure import block_reduce

    with Image.open(image) as file:
        pixels = np.array(file)
    for level in LEVELS:
        pixels = block_reduce(pixels, (2, 2), func=np.mean).astype(pixels.dtype)
        path = _level_path(image, place, level)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def _level_path(image: Path, place: Path, level: int) -> Path:
    return place / str(level) / f"{str(image).lstrip('/')}.tif"


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
        old_step(sys.argv[2], sys.argv[3], Path(sys.argv[4]), Path(sys.argv[5]))
    else:
        run_script("end_to_end", measure)
