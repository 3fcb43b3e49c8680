"""Fuzzer of images: each one must give a report of levels, or of a fault that names it, in a worker's memory."""

import io
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from handlers.errors import WorkerFault
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.make import make_mipmaps
from handlers.mipmaps.report import MipmapReport
from tests.acceptance.faults.mutations import damage_tiff
from tests.fuzz.fuzzer import Check, Fuzzer
from tests.hostile_images import png_chunk

WIDTH, HEIGHT = 64, 48


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


GREY = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH), np.uint8)
FRAMES = (Image.fromarray(GREY), Image.fromarray(GREY.astype(np.uint16) * 257))
TIFFS = [
    encoded(frame, "TIFF", compression=compression)
    for frame in FRAMES
    for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits")
]
"""TIFFs of both depths, uncompressed and compressed, as cameras and other programs write them."""
PNGS = [encoded(frame, "PNG") for frame in FRAMES]
JPEGS = [encoded(FRAMES[0], "JPEG"), encoded(FRAMES[0], "JPEG", progressive=True)]
JPEG_TIFF = encoded(FRAMES[0], "TIFF", compression="jpeg")


def job_for(path: Path) -> MipmapJob:
    """Return a job that makes two levels of an image."""
    outputs = tuple((level, path.parent / "levels" / f"{level}.tif") for level in (1, 2))
    return MipmapJob("tile", path, outputs, WIDTH, HEIGHT)


def check_image(path: Path) -> MipmapReport:
    """Make the levels of a damaged image; return the report. Raises AssertionError if the report is wrong."""
    report = make_mipmaps(job_for(path))
    if report.fault is None:
        assert [made.level for made in report.made] == [1, 2], report
    else:
        assert report.fault.subject == str(path), report
        assert report.fault.problem, report
        assert not isinstance(report.fault.to_fault(), WorkerFault), report
    assert not list(path.parent.rglob("*.tmp"))
    return report


def damage_png(rng: random.Random, raw: bytes) -> bytes:
    """Return a PNG with damaged chunks and correct checksums."""
    chunks = list(_chunks(raw))
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(chunks))
        kind, content = chunks[at]
        match rng.randrange(6):
            case 0:
                chunks[at] = rng.choice((b"tEXt", b"PLTE", b"tRNS", b"acTL", b"IEND", rng.randbytes(4))), content
            case 1:
                chunks.insert(rng.randrange(len(chunks) + 1), chunks[at])
            case 2 if len(chunks) > 1:
                del chunks[at]
            case 3:
                chunks[at] = kind, content[: rng.randrange(len(content) + 1)]
            case 4:
                chunks[at] = kind, content + rng.randbytes(rng.randrange(1, 99))
            case _ if content:
                where = rng.randrange(len(content))
                chunks[at] = kind, content[:where] + rng.randbytes(1) + content[where + 1 :]
    return raw[:8] + b"".join(png_chunk(*chunk) for chunk in chunks)


def _chunks(raw: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at < len(raw):
        length, kind = struct.unpack(">I4s", raw[at : at + 8])
        yield kind, raw[at + 8 : at + 8 + length]
        at += length + 12


def draw_image(rng: random.Random) -> bytes:
    """Return a damaged TIFF, PNG or JPEG."""
    if rng.random() < 0.2:
        return damage_png(rng, rng.choice(PNGS))
    return damage_tiff(rng, rng.choice((*TIFFS, *PNGS, *JPEGS, JPEG_TIFF)))


@contextmanager
def open_check(place: Path) -> Iterator[Check]:
    """Yield the check of an image."""
    path = place / "tile.tif"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        check_image(path)

    yield check


IMAGES = Fuzzer("images", draw_image, open_check)
