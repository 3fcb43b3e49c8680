"""Target 9: CPU of the quality numbers of a tile, together and each, and the journal bytes of a section's numbers."""

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xxhash
from PIL import Image

from benchmarks.common import Options, Outcome, Row, Timing, interleaved, median_ratio, run_script
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.make import make_mipmaps
from handlers.mipmaps.measure import sharpness_of
from handlers.mipmaps.overlap import Neighbour, Side, compare_with
from handlers.mipmaps.reductions.mean_kernel import BYTES_AT_ONCE, GreyRange
from handlers.quality.numbers import SectionNumbers, TileNumbers
from handlers.quality.packing import Quality, pack

THREADS = "OPENBLAS_NUM_THREADS"
TILES = 2772
LEVELS = tuple(range(1, 7))
OVERLAP = 0.11
LIMIT, LIMIT_KB = 1.1, 150
"""Limits of the CPU of a tile with the default numbers, divided by that without numbers; and of the numbers' bytes."""
Variant = Callable[[], object]


def measure(options: Options) -> Outcome:
    """Measure tiles with and without numbers in turn, then each number alone, then the journal's block."""
    side, runs = (1024, 5) if options.quick else (5504, 31)
    rows = []
    for bits in (8, 16):
        write_tiles(options.directory, side, bits)
        variants = tile_variants(options.directory, side)
        for name, limit in (("on", LIMIT), ("stage error", None)):
            pair = interleaved({each: variants[each] for each in ("off", name)}, runs)
            rows.append(tile_row(pair, name, bits, side, limit))
    alone = interleaved(number_variants(options.directory, side), runs)
    rows += [number_row(name, many) for name, many in alone.items()]
    return Outcome([*rows, bytes_row()], [], {})


def write_tiles(directory: Path, side: int, bits: int) -> None:
    """Write a tile, and its left and upper neighbours, which show the same where they overlap."""
    step = round(side * (1 - OVERLAP))
    grains = np.random.default_rng(1).integers(20, 230, ((side + step) // 6, (side + step) // 6), np.uint8)
    field = np.asarray(Image.fromarray(grains).resize((side + step, side + step), Image.Resampling.BICUBIC))
    for name, x, y in (("tile", step, step), ("left", 0, step), ("above", step, 0)):
        frame = field[y : y + side, x : x + side]
        Image.fromarray(frame.copy() if bits == 8 else frame.astype(np.uint16) * 257).save(directory / f"{name}.tif")
        if name != "tile":
            make_mipmaps(job(directory, side, name, measure=False))


def job(
    directory: Path, side: int, name: str = "tile", *, measure: bool, neighbours: tuple[Neighbour, ...] = ()
) -> MipmapJob:
    outputs = tuple((level, directory / str(level) / f"{name}.tif") for level in LEVELS)
    image = directory / f"{name}.tif"
    return MipmapJob(name, image, outputs, side, side, measure=measure, neighbours=neighbours, convert_to_8bit=False)


def around(directory: Path, side: int) -> tuple[Neighbour, ...]:
    """Return two neighbours. A tile of a large section has four, and each pair is compared once."""
    step = round(side * (1 - OVERLAP))
    third = directory / "3"
    return (
        Neighbour(Side.LEFT, third / "left.tif", side, side, -step, 0),
        Neighbour(Side.TOP, third / "above.tif", side, side, 0, -step),
    )


def tile_variants(directory: Path, side: int) -> dict[str, Variant]:
    def work(**options: object) -> Variant:
        made = job(directory, side, **options)  # type: ignore[arg-type]

        def make() -> None:
            for level in LEVELS:
                (directory / str(level) / "tile.tif").unlink(missing_ok=True)
            if (report := make_mipmaps(made)).fault is not None:
                raise RuntimeError(str(report.fault))

        return make

    return {
        "off": work(measure=False),
        "on": work(measure=True),
        "stage error": work(measure=True, neighbours=around(directory, side)),
    }


def tile_row(timings: dict[str, list[Timing]], name: str, bits: int, side: int, limit: float | None) -> Row:
    cpus = {each: [one.cpu_s for one in many] for each, many in timings.items()}
    ratio = median_ratio(cpus[name], cpus["off"])
    what = "quality numbers" if name == "on" else "quality numbers and the stage error (off by default)"
    return Row(
        9,
        f"CPU of a tile of {side}x{side}, {bits} bit, with {what}",
        float(np.median(cpus[name])) * 1e3,
        "ms",
        limit,
        peer=float(np.median(cpus["off"])) * 1e3,
        peer_is="without",
        ratio=ratio,
        ratio_is="measured / peer",
        judged=ratio if limit else None,
    )


def number_variants(directory: Path, side: int) -> dict[str, Variant]:
    strip = np.random.default_rng(0).integers(0, 255, BYTES_AT_ONCE, np.uint8)
    level3 = np.asarray(Image.open(directory / "3" / "tile.tif")).astype(np.uint8)
    contents = [bytes(side * side // 4**level) for level in LEVELS]
    piece = 64 * 1024

    def extremes() -> None:
        found = GreyRange.of_bits(8)
        for _ in range(side * side // BYTES_AT_ONCE):
            found.add(strip)

    def digests() -> None:
        for content in contents:
            hashed, whole = xxhash.xxh3_128(), memoryview(content)
            for at in range(0, len(content), piece):
                hashed.update(whole[at : at + piece])

    def overlaps() -> None:
        for neighbour in around(directory, side):
            compare_with(neighbour, level3)

    return {
        "extremes and shares of level 0, 8 bit": extremes,
        "sharpness": lambda: sharpness_of(level3),
        "digests of six level files": digests,
        "stage error, two overlaps (off by default)": overlaps,
    }


def number_row(name: str, many: list[Timing]) -> Row:
    return Row(9, f"CPU of one number of a tile: {name}", float(np.median([one.cpu_s for one in many])) * 1e3, "ms")


def bytes_row() -> Row:
    """Measure the block of a full section of which all numbers are known and vary as in a real section."""
    some, chance = np.random.default_rng(1), random.Random(1)
    ids = tuple(
        f"201708291301{100_000 + 370 * n}_295434_5LC_0064_01_redo_001050_0_{n % 54}_{n // 54}.1050.0"
        for n in range(TILES)
    )
    spread = {
        "focus_score": 1,
        "mean": 800,
        "std_dev": 1,
        "interval": 0.02,
        "darkest": 8,
        "sharpness": 8,
        "minimum": 500,
    }
    spread |= dict.fromkeys(("raster_offset_x", "raster_offset_y"), 0.5) | dict.fromkeys(("stage_x", "stage_y"), 6)
    spread |= {"dark_share": 1e-5, "saturated_share": 3e-4}
    for edge in ("left", "top"):
        spread |= {f"{edge}_{name}": 8 for name in ("dx", "dy", "distance", "stage_x", "stage_y")}
        spread |= {f"{edge}_quality": 1, f"{edge}_rotation": 0.002, f"{edge}_stage_error": 0.1}
    columns = {name: some.normal(0, width, TILES) for name, width in spread.items()}
    digests = {tile_id: chance.randbytes(16) for tile_id in ids}
    block = pack(Quality(TileNumbers.of(ids, columns), SectionNumbers(), 6, digests))
    return Row(9, f"bytes in the journal of all numbers of {TILES:,} tiles", len(block) / 1e3, "kB", LIMIT_KB)


if __name__ == "__main__":
    if os.environ.get(THREADS) != "1":  # as in a worker; numpy reads it on import
        os.execve(
            sys.executable, [sys.executable, "-m", "benchmarks.quality", *sys.argv[1:]], {**os.environ, THREADS: "1"}
        )
    run_script("quality", measure)
