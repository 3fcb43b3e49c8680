"""Target 1: one tile, six levels, in one process, compared with the floor and with other libraries."""

import functools
import io
import itertools
import mmap
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.common import (
    Options,
    Outcome,
    Plot,
    Row,
    Timing,
    file_system,
    interleaved,
    median_ratio,
    median_wall_s,
    run_script,
)
from handlers.images.encode import Encoding
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.make import make_mipmaps
from handlers.mipmaps.reductions.area_mean import MeansByNumpy, means
from handlers.mipmaps.reductions.mean_kernel import compiled_code

LEVELS = tuple(range(1, 7))
SIDES = (3840, 5504)
TILE = "tile.tif"
COPIES = 9
"""Copies of the tile, which together are larger than the caches of the processor."""
OWN = ("temwatch", "floor", "synced floor")
PLACES = (*OWN, "peer")
PEER_RUNS = 3
"""The old tool takes a hundred times as long as the floor."""
Pixels = npt.NDArray[Any]
Variant = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Case:
    """A tile and its settings."""

    side: int
    bits: int
    to_8bit: bool

    @property
    def name(self) -> str:
        return f"{self.side}x{self.side}, {self.depth}"

    @property
    def depth(self) -> str:
        return "16 to 8 bit" if self.to_8bit else f"{self.bits} bit"


def measure(options: Options) -> Outcome:
    """Measure whole tiles, the arithmetic alone, the encoders, and a worker's memory."""
    sides, runs = ((512, 1024), 5) if options.quick else (SIDES, 31)
    rows: list[Row] = []
    facts: dict[str, Any] = {"compiled": compiled_code() is not None}
    speeds: dict[str, list[tuple[float, float]]] = {}
    for side in sides:
        for bits, to_8bit in ((8, False), (16, False), (16, True)):
            case = Case(side, bits, to_8bit)
            variants = tile_variants(case, options.directory)
            own = times({name: variants[name] for name in OWN}, options.directory, runs)
            beside = times(variants, options.directory, PEER_RUNS)
            rows += [floor_row(case, own, beside), old_tool_row(case, beside)]
            rows += [synced_row(case, own)] if file_system(options.directory) != "tmpfs" else []
            timings = beside | own
            facts[case.name] = {name: seconds_of(each) for name, each in timings.items()}
            for name, each in timings.items():
                speeds.setdefault(f"{name}, {case.depth}", []).append((side**2 / 1e6, median_wall_s(each) * 1e3))
    if file_system(options.directory) == "tmpfs":  # independent of the disk: measured once
        kernel_rows, facts["kernel"] = kernels(sides[0])
        encoder_rows, facts["encoders"] = encoders(sides[0] // 2, runs // 3)
        rows += [*kernel_rows, *encoder_rows, memory(options.directory, sides[-1])]
    plot = Plot(
        "mipmap_kernel",
        "One tile, six levels, uncompressed TIFF",
        "megapixels",
        "milliseconds",
        {name: points for name, points in speeds.items() if name.startswith(("temwatch", "floor", "OpenCV, 8"))},
        log_y=True,
    )
    return Outcome(rows, [plot], facts)


def seconds_of(timings: Sequence[Timing]) -> dict[str, float]:
    """Return minimum and median of the wall-clock time, and the median of the CPU time."""
    return {
        "min_s": min(each.wall_s for each in timings),
        "median_s": median_wall_s(timings),
        "cpu_s": statistics.median(each.cpu_s for each in timings),
    }


# --- a whole tile


def tile_variants(case: Case, directory: Path) -> dict[str, Variant]:
    """Return the variants that make the level files of a tile: temwatch, the floors, other libraries."""
    pixels = texture(case.side, case.bits)
    level0 = directory / TILE
    for number in range(COPIES):
        Image.fromarray(pixels).save(directory / f"copy-{number}.tif")
    level0.unlink(missing_ok=True)
    level0.symlink_to("copy-0.tif")
    made = directory / "temwatch"
    outputs = tuple((level, made / f"{level}.tif") for level in LEVELS)
    job = MipmapJob("tile", level0, outputs, case.side, case.side, convert_to_8bit=case.to_8bit)
    if (report := make_mipmaps(job)).fault is not None:
        raise RuntimeError(str(report.fault))
    contents = [path.read_bytes() for _, path in outputs]
    variants: dict[str, Variant] = {
        "temwatch": functools.partial(make_mipmaps, job),
        "floor": floor(level0, contents, directory / "floor"),
        "synced floor": floor(level0, contents, directory / "synced floor", synced=True),
    }
    for name, work in peers(case).items():
        variants[name] = functools.partial(work, level0, directory / "peer")
    for place in PLACES:
        (directory / place).mkdir(exist_ok=True)
    return variants


def times(variants: Mapping[str, Variant], directory: Path, runs: int) -> dict[str, list[Timing]]:
    """Run the variants in turn, each with a tile that is in no CPU cache and with empty directories."""
    prepare = arrivals(directory)
    steps = {step: do for name, work in variants.items() for step, do in ((f"before {name}", prepare), (name, work))}
    timings = interleaved(steps, runs)
    return {name: timings[name] for name in variants}


def arrivals(directory: Path) -> Callable[[], None]:
    """Return a function that puts the next copy of the tile in place and empties the directories of levels.

    In operation a new tile is in no CPU cache, and its levels replace no files, which would take time.
    """
    copies = itertools.cycle(sorted(directory.glob("copy-*.tif")))

    def prepare() -> None:
        (directory / TILE).unlink()
        (directory / TILE).symlink_to(next(copies).name)  # a hard link would set the ctime: the job would wait a tick
        for place in PLACES:
            for path in (directory / place).glob("*.tif"):
                path.unlink()

    return prepare


def floor(level0: Path, contents: list[bytes], directory: Path, *, synced: bool = False) -> Variant:
    """Read the bytes of level 0 into a reused buffer and write, and perhaps sync, those of the levels; nothing else.

    The buffer is page-aligned. Some processors copy four times as slowly if the target address is a little above the
    source address modulo the page size, which happens by chance with other memory.
    """
    memory = mmap.mmap(-1, level0.stat().st_size)

    def work() -> None:
        with level0.open("rb", buffering=0) as file:
            file.readinto(memory)
        for level, content in zip(LEVELS, contents, strict=True):
            with (directory / f"{level}.tif").open("wb", buffering=0) as file:
                file.write(content)
                if synced:
                    os.fsync(file.fileno())

    return work


def peers(case: Case) -> dict[str, Callable[[Path, Path], None]]:
    """Return the variants of other libraries, which neither verify nor sync their files."""
    import cv2
    import pyvips
    import tinybrain
    from skimage.measure import block_reduce

    def converted(image: Pixels) -> Pixels:
        return (image // 257).astype(np.uint8) if case.to_8bit else image

    def old_tool(level0: Path, place: Path) -> None:
        """Make the levels as asap-modules does: each from the previous one, truncated to integers."""
        with Image.open(level0) as file:
            image = converted(np.asarray(file))
        for level in LEVELS:
            image = block_reduce(image, (2, 2), np.mean).astype(image.dtype)
            Image.fromarray(image).save(place / f"{level}.tif")

    def pillow_reduce(level0: Path, place: Path) -> None:
        with Image.open(level0) as file:
            for level in LEVELS:
                file.reduce(2**level).save(place / f"{level}.tif")

    def pillow_resize(level0: Path, place: Path) -> None:
        with Image.open(level0) as file:
            for level in LEVELS:
                size = (file.width >> level, file.height >> level)
                file.resize(size, Image.Resampling.BOX).save(place / f"{level}.tif")

    def opencv(level0: Path, place: Path) -> None:
        image = cv2.imread(str(level0), cv2.IMREAD_UNCHANGED)
        for level in LEVELS:
            image = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
            shown = cv2.convertScaleAbs(image, alpha=1 / 257) if case.to_8bit else image
            cv2.imwrite(str(place / f"{level}.tif"), shown, [cv2.IMWRITE_TIFF_COMPRESSION, 1])

    def by_tinybrain(level0: Path, place: Path) -> None:
        with Image.open(level0) as file:
            image = converted(np.asarray(file))
        made = tinybrain.downsample_with_averaging(image[:, :, np.newaxis], (2, 2, 1), num_mips=len(LEVELS))
        for level, reduced in zip(LEVELS, made, strict=True):
            Image.fromarray(np.ascontiguousarray(reduced[:, :, 0])).save(place / f"{level}.tif")

    def vips(level0: Path, place: Path) -> None:
        image = pyvips.Image.new_from_file(str(level0)).copy_memory()
        for level in LEVELS:
            image = image.shrink(2, 2)
            shown = (image / 257).cast("uchar") if case.to_8bit else image
            shown.tiffsave(str(place / f"{level}.tif"))

    ways: dict[str, Callable[[Path, Path], None]]
    ways = {"block_reduce + Pillow": old_tool, "OpenCV": opencv, "tinybrain": by_tinybrain, "pyvips": vips}
    if case.bits == 8:  # Pillow reduces no 16-bit images
        ways |= {"Pillow reduce": pillow_reduce, "Pillow resize": pillow_resize}
    return ways


def floor_row(case: Case, own: Mapping[str, Sequence[Timing]], beside: Mapping[str, Sequence[Timing]]) -> Row:
    """Compare with the floor, and with the fastest of the other libraries."""
    walls = {name: [each.wall_s for each in many] for name, many in own.items()}
    cpus = {name: [each.cpu_s for each in many] for name, many in own.items()}
    over_floor = median_ratio(walls["temwatch"], walls["floor"])
    cpu_over_floor = median_ratio(cpus["temwatch"], cpus["floor"])
    best = min(walls["temwatch"]) / min(walls["floor"])
    others = {name: median_wall_s(many) for name, many in beside.items() if name not in own}
    fastest = min(others, key=others.__getitem__)
    return Row(
        1,
        f"tile of {case.name}, six levels, tif",
        median_wall_s(own["temwatch"]) * 1e3,
        "ms",
        1.5,
        floor=median_wall_s(own["floor"]) * 1e3,
        floor_is="the same bytes read and written",
        peer=others[fastest] * 1e3,
        peer_is=f"{fastest}, unverified",
        ratio=over_floor,
        ratio_is="measured / floor",
        judged=over_floor,
        note=f"ratio of the CPU {cpu_over_floor:.2f}, of the fastest runs {best:.2f}",
    )


def synced_row(case: Case, own: Mapping[str, Sequence[Timing]]) -> Row:
    """Compare with the floor that syncs each level, on a disk."""
    walls = {name: [each.wall_s for each in many] for name, many in own.items()}
    ratio = median_ratio(walls["temwatch"], walls["synced floor"])
    return Row(
        1,
        f"tile of {case.name}, compared with the synced floor",
        median_wall_s(own["temwatch"]) * 1e3,
        "ms",
        1.3,
        floor=median_wall_s(own["synced floor"]) * 1e3,
        floor_is="the same bytes read, written and synced",
        ratio=ratio,
        ratio_is="measured / floor",
        judged=ratio,
        note=f"ratio of the fastest runs {min(walls['temwatch']) / min(walls['synced floor']):.2f}",
    )


def old_tool_row(case: Case, beside: Mapping[str, Sequence[Timing]]) -> Row:
    """Compare with the old tool."""
    old, own = beside["block_reduce + Pillow"], beside["temwatch"]
    ratio = median_ratio([each.wall_s for each in old], [each.wall_s for each in own])
    return Row(
        1,
        f"tile of {case.name}, compared with the old tool",
        median_wall_s(own) * 1e3,
        "ms",
        12,
        at_most=False,
        peer=median_wall_s(old) * 1e3,
        peer_is="block_reduce + Pillow, unverified",
        ratio=ratio,
        ratio_is="peer / measured",
        judged=ratio,
    )


# --- the arithmetic alone


def kernels(side: int) -> tuple[list[Row], dict[str, Any]]:
    """Measure the levels of an array in memory: their time, and their errors."""
    rows: list[Row] = []
    facts: dict[str, Any] = {}
    for bits in (8, 16):
        image = texture(side, bits)
        variants = kernel_variants(image)
        errors = {name: worst_errors(image, work()) for name, work in variants.items()}
        timings = interleaved(variants, 5)
        facts[f"{bits} bit"] = {name: {**seconds_of(timings[name]), **errors[name]} for name in variants}
        for name, many in timings.items():
            error = errors[name]
            rows.append(
                Row(
                    1,
                    f"six levels in memory, without files, {side}x{side}, {bits} bit: {name}",
                    median_wall_s(many) * 1e3,
                    "ms",
                    note=f"error of a pixel at most {error['largest']:.2f}, mean error of the worst level"
                    f" {error['mean']:+.3f} grey values",
                )
            )
    return rows, facts


def kernel_variants(image: Pixels) -> dict[str, Callable[[], list[Pixels]]]:
    import cv2
    import tinybrain
    from skimage.measure import block_reduce

    height, width = image.shape
    depth = image.itemsize * 8

    def temwatch(kind: Callable[..., Any]) -> Callable[[], list[Pixels]]:
        outputs = {level: np.empty((height >> level, width >> level), image.dtype) for level in LEVELS}
        reducer = kind(width, height, depth, outputs, None)

        def work() -> list[Pixels]:
            reducer.add_image(image)
            reducer.biased()
            return list(outputs.values())

        return work

    def chained(step: Callable[[Pixels], Pixels]) -> Callable[[], list[Pixels]]:
        def work() -> list[Pixels]:
            made = [image]
            for _ in LEVELS:
                made.append(step(made[-1]))
            return made[1:]

        return work

    def by_tinybrain() -> list[Pixels]:
        made = tinybrain.downsample_with_averaging(image[:, :, np.newaxis], (2, 2, 1), num_mips=len(LEVELS))
        return [level[:, :, 0] for level in made]

    variants = {
        "temwatch": temwatch(means),
        "temwatch by numpy": temwatch(MeansByNumpy),
        "OpenCV": chained(lambda one: cv2.resize(one, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)),
        "tinybrain": by_tinybrain,
        "block_reduce": chained(lambda one: block_reduce(one, (2, 2), np.mean).astype(one.dtype)),
    }
    if depth == 8:
        whole = Image.fromarray(image)
        variants["Pillow reduce"] = lambda: [np.asarray(whole.reduce(2**level)) for level in LEVELS]
    return variants


def worst_errors(image: Pixels, levels: Sequence[Pixels]) -> dict[str, float]:
    """Return the largest error of a pixel, and the mean error of the level where it is largest: grey values."""
    largest, mean = 0.0, 0.0
    for level, reduced in zip(LEVELS, levels, strict=True):
        side = 2**level
        blocks = image.reshape(image.shape[0] // side, side, image.shape[1] // side, side)
        error = reduced - blocks.mean(axis=(1, 3), dtype=np.float64)
        largest = max(largest, float(np.abs(error).max()))
        mean = max(mean, float(error.mean()), key=abs)
    return {"largest": largest, "mean": mean}


# --- encoders


def encoders(side: int, runs: int) -> tuple[list[Row], dict[str, Any]]:
    """Measure the encoding of a level 1 as png and jpg, in memory."""
    import cv2
    import pyvips

    pixels = texture(side, 8)

    def pillow(kind: str, **how: Any) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind, **how)
        return buffer.getvalue()

    picture = pyvips.Image.new_from_array(pixels)
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
    ways: dict[str, dict[str, Callable[[], Any]]] = {
        "png": {
            "temwatch": lambda: Encoding("png").encoded(pixels),
            "Pillow": lambda: pillow("PNG"),
            "OpenCV": lambda: cv2.imencode(".png", pixels)[1],
        },
        "jpg": {
            "temwatch": lambda: Encoding("jpg").encoded(pixels),
            "OpenCV": lambda: cv2.imencode(".jpg", pixels, quality)[1],
            "pyvips": lambda: picture.jpegsave_buffer(Q=95),
        },
    }
    rows, facts = [], {}
    for kind, variants in ways.items():
        sizes = {name: len(work()) for name, work in variants.items()}
        timings = interleaved(variants, max(3, runs))
        middle = {name: statistics.median(each.cpu_s for each in many) * 1e3 for name, many in timings.items()}
        best = min((name for name in variants if name != "temwatch"), key=middle.__getitem__)
        ratio = median_ratio([each.cpu_s for each in timings["temwatch"]], [each.cpu_s for each in timings[best]])
        facts[kind] = {name: {"cpu_ms": middle[name], "bytes": sizes[name]} for name in variants}
        sizes_text = ", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in sizes.items())
        rows.append(
            Row(
                1,
                f"{kind} of {side}x{side}, encoded in memory",
                middle["temwatch"],
                "ms of CPU",
                1.1,  # both use the same library: the rest is noise
                peer=middle[best],
                peer_is=best,
                ratio=ratio,
                ratio_is="measured / peer",
                judged=ratio,
                note=sizes_text,
            )
        )
    return rows, facts


# --- memory

WORKER = """
import sys
from pathlib import Path
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.make import make_mipmaps
def peak_bytes(name, side):
    outputs = tuple((n, Path(sys.argv[1]) / f"{n}.tif") for n in range(1, 7))
    report = make_mipmaps(MipmapJob("t", Path(sys.argv[1]) / name, outputs, side, side))
    assert report.fault is None, report
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
print(peak_bytes("small.tif", 64), peak_bytes("large.tif", int(sys.argv[2])))
"""


def memory(directory: Path, side: int) -> Row:
    """Measure the peak of a process that makes a tile whose means need unbiased rounding, which takes most memory."""
    flat = 100 + (np.random.default_rng(0).integers(0, 4, (side, side), np.uint8) == 0).astype(np.uint8)
    Image.fromarray(flat).save(directory / "large.tif")
    Image.fromarray(flat[:64, :64]).save(directory / "small.tif")
    command = [sys.executable, "-c", WORKER, os.fspath(directory), str(side)]
    before, peak = map(int, subprocess.check_output(command, text=True).split())
    ratio = (peak - before) / flat.nbytes
    return Row(
        1,
        f"peak memory of a worker, tile of {side}x{side}, 8 bit, with unbiased rounding",
        peak / 2**20,
        "MiB",
        3.0,
        floor=flat.nbytes / 2**20,
        floor_is="level 0",
        ratio=ratio,
        ratio_is="(peak - interpreter) / level 0",
        judged=ratio,
        note=f"interpreter and imports {before / 2**20:.0f} MiB",
    )


@functools.cache
def texture(side: int, bits: int) -> Pixels:
    """Return an image (side, side) that is similar to that of a microscope: soft shapes and noise."""
    random = np.random.default_rng(0)
    coarse = random.normal(size=(side // 32 + 1, side // 32 + 1)).astype(np.float32)
    soft = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))
    grey: npt.NDArray[np.float32] = 128 + 30 * soft + random.normal(scale=8, size=(side, side)).astype(np.float32)
    if bits == 8:
        return np.clip(grey, 0, 255).astype(np.uint8)
    return np.clip(grey * 257, 0, 65535).astype(np.uint16)


if __name__ == "__main__":
    run_script("mipmap_kernel", measure)
