"""Target 13: one tile, six levels, by each filter of Pillow, beside what the old tool does with Pillow alone.

The old tool reads the whole file into memory, calls `Image.resize` for each level and writes the files unverified.
Compared too: the same from a path, which Pillow maps into memory; a file that is cut short then ends the process.
"""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

from PIL import Image

from benchmarks.common import Options, Outcome, Row, Taken, median_cpu_s, median_ratio, number, run_script
from benchmarks.mipmap_kernel import COPIES, LEVELS, PLACES, SIDES, TILE, texture, times
from handlers.images.reduction import METHODS, Reduction
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.make import make_mipmaps

RUNS, LIMIT = {"NEAREST": 15}, 1.5
OTHER_RUNS = 7
"""A tile by LANCZOS takes Pillow thirty times as long as one by NEAREST."""


def measure(options: Options) -> Outcome:
    """Measure CPU in turn: a busy machine disturbs it less than the wall clock."""
    side, runs = (512, {}) if options.quick else (SIDES[0], RUNS)
    rows, facts = [], {}
    for bits in (8, 16):
        for number_of_copy in range(COPIES):
            Image.fromarray(texture(side, bits)).save(options.directory / f"copy-{number_of_copy}.tif")
        (options.directory / TILE).touch()
        for place in PLACES:
            (options.directory / place).mkdir(exist_ok=True)
        for name in METHODS["PIL"]:
            taken = times(works(options.directory, side, name), options.directory, runs.get(name, OTHER_RUNS))
            rows.append(row(f"{name}, {side}x{side}, {bits} bit", taken))
            facts[f"{name}, {bits} bit"] = {way: median_cpu_s(each) for way, each in taken.items()}
    return Outcome(rows, facts=facts)


def works(directory: Path, side: int, name: str) -> dict[str, Callable[[], object]]:
    """Return each way from the tile's file to its level files."""
    level0, place = directory / TILE, directory / "peer"
    outputs = tuple((level, directory / "temwatch" / f"{level}.tif") for level in LEVELS)
    job = MipmapJob("tile", level0, outputs, side, side, reduction=Reduction("PIL", name), convert_to_8bit=False)

    def ours() -> None:
        fault = make_mipmaps(job).fault
        assert fault is None, fault

    old_tool = partial(resize, lambda: Image.open(io.BytesIO(level0.read_bytes())), place, Image.Resampling[name])
    mapped = partial(resize, lambda: Image.open(level0), place, Image.Resampling[name])
    return {"temwatch": ours, "old tool": old_tool, "mapped": mapped}


def resize(open_level0: Callable[[], Image.Image], place: Path, resample: Image.Resampling) -> None:
    """Make the levels with Pillow alone."""
    with open_level0() as image:
        for level in LEVELS:
            content = io.BytesIO()
            image.resize((image.width >> level, image.height >> level), resample).save(content, "TIFF")
            (place / f"{level}.tif").write_bytes(content.getvalue())


def row(what: str, taken: dict[str, list[Taken]]) -> Row:
    """Compare with the old tool; its command makes NEAREST only, whatever filter is requested."""
    cpu = {way: [each.cpu_s for each in many] for way, many in taken.items()}
    ratio = median_ratio(cpu["old tool"], cpu["temwatch"])
    return Row(
        13,
        f"PIL {what}, six levels, tif",
        median_cpu_s(taken["temwatch"]) * 1e3,
        "ms of CPU",
        LIMIT,
        at_most=False,
        peer=median_cpu_s(taken["old tool"]) * 1e3,
        peer_is="the old tool's calls of Pillow, unverified",
        ratio=ratio,
        ratio_is="peer / measured",
        judged=ratio,
        note=f"of Pillow from a mapped file {number(median_ratio(cpu['mapped'], cpu['temwatch']))}",
    )


if __name__ == "__main__":
    run_script("filters", measure)
