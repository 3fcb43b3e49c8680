"""Target 13: one tile, six levels, with each filter of Pillow, compared with the old tool's calls of Pillow.

The old tool reads the whole file into memory, calls `Image.resize` for each level and writes the files without
verifying them. "mapped" is the same with a path, which Pillow maps into memory: a truncated file then kills the
process. Each variant runs in its own process, as in a pool: in memory that another variant has freed, Pillow would take
half the time.
"""

import io
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from PIL import Image

from benchmarks.common import Options, Outcome, Row, Timing, median_cpu_s, median_ratio, number, run_script, time_of
from benchmarks.mipmap_kernel import COPIES, LEVELS, PLACES, SIDES, TILE, arrivals, texture
from handlers.images.reduction import METHODS, Reduction
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.make import make_mipmaps

LIMIT = 1.5
RUNS, OTHER_RUNS = {"NEAREST": 11}, 3
"""Filter -> runs. With LANCZOS Pillow takes thirty times as long as with NEAREST."""
VARIANTS = ("temwatch", "old tool", "mapped")


def measure(options: Options) -> Outcome:
    """Measure the CPU of each filter and depth; other load has less effect on it than on the time."""
    side, runs = (512, {}) if options.quick else (SIDES[0], RUNS)
    rows, facts = [], {}
    with ExitStack() as stack:
        processes = {each: stack.enter_context(ProcessPoolExecutor(1, get_context("spawn"))) for each in VARIANTS}
        for bits in (8, 16):
            for copy in range(COPIES):
                Image.fromarray(texture(side, bits)).save(options.directory / f"copy-{copy}.tif")
            (options.directory / TILE).touch()
            for place in PLACES:
                (options.directory / place).mkdir(exist_ok=True)
            for name in METHODS["PIL"]:
                timings = in_turn(processes, options.directory, side, name, runs.get(name, OTHER_RUNS))
                rows.append(row(f"{name}, {side}x{side}, {bits} bit", timings))
                facts[f"{name}, {bits} bit"] = {variant: median_cpu_s(each) for variant, each in timings.items()}
    return Outcome(rows, facts=facts)


def in_turn(
    processes: Mapping[str, ProcessPoolExecutor], directory: Path, side: int, name: str, runs: int
) -> dict[str, list[Timing]]:
    """Run each variant in its process, in turn. The first run of each is not counted."""
    prepare = arrivals(directory)
    timings: dict[str, list[Timing]] = {variant: [] for variant in processes}
    for _ in range(runs + 1):
        for variant, process in processes.items():
            prepare()
            timings[variant].append(process.submit(time_of_variant, directory, side, name, variant).result())
    return {variant: each[1:] for variant, each in timings.items()}


def time_of_variant(directory: Path, side: int, name: str, variant: str) -> Timing:
    """Measure one variant from the tile's file to its level files, in this process."""
    return time_of(variants(directory, side, name)[variant])


def variants(directory: Path, side: int, name: str) -> dict[str, Callable[[], object]]:
    """Return the function of each variant."""
    level0, place = directory / TILE, directory / "peer"
    outputs = tuple((level, directory / "temwatch" / f"{level}.tif") for level in LEVELS)
    job = MipmapJob("tile", level0, outputs, side, side, reduction=Reduction("PIL", name), convert_to_8bit=False)

    def ours() -> None:
        fault = make_mipmaps(job).fault
        assert fault is None, fault

    old_tool = partial(resize, lambda: Image.open(io.BytesIO(level0.read_bytes())), place, Image.Resampling[name])
    mapped = partial(resize, lambda: Image.open(level0), place, Image.Resampling[name])
    return dict(zip(VARIANTS, (ours, old_tool, mapped), strict=True))


def resize(open_level0: Callable[[], Image.Image], place: Path, resample: Image.Resampling) -> None:
    """Make the levels with Pillow only."""
    with open_level0() as image:
        for level in LEVELS:
            content = io.BytesIO()
            image.resize((image.width >> level, image.height >> level), resample).save(content, "TIFF")
            (place / f"{level}.tif").write_bytes(content.getvalue())


def row(what: str, timings: dict[str, list[Timing]]) -> Row:
    """Compare with Pillow's calls by the old tool, whose command makes NEAREST whatever filter is requested."""
    cpu = {variant: [each.cpu_s for each in many] for variant, many in timings.items()}
    ratio = median_ratio(cpu["old tool"], cpu["temwatch"])
    return Row(
        13,
        f"PIL {what}, six levels, tif",
        median_cpu_s(timings["temwatch"]) * 1e3,
        "ms of CPU",
        LIMIT,
        at_most=False,
        peer=median_cpu_s(timings["old tool"]) * 1e3,
        peer_is="the old tool's calls of Pillow, unverified",
        ratio=ratio,
        ratio_is="peer / measured",
        judged=ratio,
        note=f"ratio with a mapped file {number(median_ratio(cpu['mapped'], cpu['temwatch']))}",
    )


if __name__ == "__main__":
    run_script("filters", measure)
