"""Image files and jobs for the tests of levels."""

import pickle
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from handlers.container import Container
from handlers.errors import Fault
from handlers.images.decode import verify_level
from handlers.images.encode import Encoding
from handlers.images.header import ImageInfo, open_descriptor, read_header
from handlers.images.pixels import Grey
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.make import make_mipmaps
from handlers.mipmaps.report import MipmapReport
from tests.reduction import reduce_levels
from tests.unit.noise import noise

WIDTH, HEIGHT = 21, 13
DEPTHS = (np.uint8, np.uint16)


def texture(depth: Any = np.uint8, width: int = WIDTH, height: int = HEIGHT) -> Any:
    """An image of noise, (H, W)."""
    return noise(depth, height, width, seed=11)


def save(path: Path, pixels: Any, **options: Any) -> Path:
    """Write an image file with Pillow."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def job_for(level0: Path, output_dir: Path, levels: int = 2, extension: str = "tif", **changes: Any) -> MipmapJob:
    """A job as the daemon makes it; `changes` replaces fields."""
    outputs = tuple((level, output_dir / str(level) / f"{level0.name}.{extension}") for level in range(1, levels + 1))
    job = MipmapJob(
        "tile.1",
        level0,
        outputs,
        WIDTH,
        HEIGHT,
        encoding=Encoding(extension),
        root=Container(level0.parent, level0.parent.resolve()),
    )
    return replace(job, **changes)


def job_for_pixels(file: Path, output_dir: Path, pixels: Grey, levels: int = 3, **changes: Any) -> MipmapJob:
    """A job for an image file with these pixels, without a conversion to 8 bits."""
    height, width = pixels.shape
    return job_for(file, output_dir, levels, **{"width": width, "height": height, "convert_to_8bit": False, **changes})


def info_of(file: Path) -> ImageInfo:
    """Header of an image, with the runs of its rows."""
    with open_descriptor(file) as descriptor:
        return read_header(descriptor, file, with_layout=True)


def levels_of(job: MipmapJob) -> dict[int, Grey]:
    """Make all levels of a job; return their pixels."""
    report = make_mipmaps(job)
    assert report.fault is None
    assert [made.level for made in report.made] == [level for level, _ in job.outputs]
    return {made.level: verify_level(made.path, made.width, made.height, made.mode) for made in report.made}


def assert_levels(job: MipmapJob, pixels: Grey) -> None:
    """Assert that the levels of a job have the means of level 0."""
    found = levels_of(job)
    for level, expected in reduce_levels(pixels, found):
        assert np.array_equal(found[level], expected), level


def fault_of(job: MipmapJob) -> Fault:
    """Run a job as in a worker; return its fault. Assert that the job leaves no level and no temporary file."""
    report: MipmapReport = pickle.loads(pickle.dumps(make_mipmaps(pickle.loads(pickle.dumps(job)))))
    assert report.fault is not None
    assert not report.made
    assert not [path for _, path in job.outputs if path.exists()]
    assert not leftovers(*{path.parent for _, path in job.outputs})
    return report.fault.to_fault()


def leftovers(*directories: Path) -> list[str]:
    """Names of the temporary files below the directories."""
    found = [directory.rglob("*.tmp") for directory in directories if directory.is_dir()]
    return [path.name for paths in found for path in paths]


def tiff(pixels: bytes, *tags: tuple[int, int, int], order: str = "<", big: bool = False) -> bytes:
    """A TIFF of one strip; each tag is (number, type, value), with the type 3 (SHORT) or 4 (LONG)."""
    mark = b"II" if order == "<" else b"MM"
    start = struct.pack(f"{order}2sHHHQ", mark, 43, 8, 0, 16) if big else struct.pack(f"{order}2sHI", mark, 42, 8)
    word, count, entry_bytes = ("Q", "Q", 20) if big else ("I", "H", 12)
    entries = {number: (kind, value) for number, kind, value in tags}
    missing = {273, 279} - entries.keys()
    directory_bytes = struct.calcsize(f"<{count}{word}") + (len(entries) + len(missing)) * entry_bytes
    entries.setdefault(273, (4, len(start) + directory_bytes))
    entries.setdefault(279, (4, len(pixels)))
    body = struct.pack(f"{order}{count}", len(entries))
    for number in sorted(entries):
        kind, value = entries[number]
        packed = struct.pack(f"{order}{'H' if kind == 3 else 'I'}", value).ljust(struct.calcsize(f"<{word}"), b"\0")
        body += struct.pack(f"{order}HH{word}", number, kind, 1) + packed
    return start + body + struct.pack(f"{order}{word}", 0) + pixels


def grey_tags(width: int, height: int, bits: int = 8, photometric: int = 1) -> list[tuple[int, int, int]]:
    """The tags that a grey image needs, without those of its strip."""
    tags = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (277, 3, 1)]
    return [*tags, (278, 4, height)]


def strips(pixels: Grey, rows_each: int, gap: int = 0, **options: Any) -> bytes:
    """A TIFF of several strips, each followed by `gap` bytes that are not pixels."""
    height, width = pixels.shape
    parts = [pixels[start : start + rows_each].tobytes() for start in range(0, height, rows_each)]
    tables = 2 * 4 * len(parts)
    tags = [*grey_tags(width, height, pixels.itemsize * 8)[:-1], (278, 4, rows_each), (273, 4, 0), (279, 4, 0)]
    start = len(tiff(b"", *tags, **options))
    offsets = [start + tables + sum(len(part) + gap for part in parts[:index]) for index in range(len(parts))]
    table = np.array([*offsets, *map(len, parts)], "<u4").tobytes()
    content = bytearray(tiff(b"", *tags, **options))
    for tag, where in ((273, start), (279, start + 4 * len(parts))):
        entry = content.index(tag.to_bytes(2, "little") + b"\4\0")
        content[entry + 4 : entry + 12] = len(parts).to_bytes(4, "little") + where.to_bytes(4, "little")
    return bytes(content) + table + b"".join(part + b"\xee" * gap for part in parts)
