"""Images made to cost time and memory: the header refuses them within a bounded number of reads and bytes."""

import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handlers.errors import ImageFault
from handlers.images.decode import read_hashed, read_image
from handlers.images.header import inspect_image

WIDTH, HEIGHT = 64, 48
FRAME = np.arange(WIDTH * HEIGHT, dtype=np.uint32).reshape(HEIGHT, WIDTH).astype(np.uint8)
MOST_BYTES, MOST_READS = 2 * 2**20, 4_000
GIB = 2**30


def encoded(form: str, **options: object) -> bytes:
    made = io.BytesIO()
    Image.fromarray(FRAME).save(made, form, **options)
    return made.getvalue()


def png_chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(before: bytes = b"", after: bytes = b"") -> bytes:
    """A PNG file with bytes before and after the chunk with its pixels."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 0, 0, 0, 0))
    rows = b"".join(b"\0" + row.tobytes() for row in FRAME)
    return b"\x89PNG\r\n\x1a\n" + header + before + png_chunk(b"IDAT", zlib.compress(rows)) + after + png_chunk(b"IEND")


def sparse(path: Path, pieces: dict[int, bytes]) -> None:
    """Write pieces at offsets; the rest of the file takes no space."""
    with path.open("wb") as file:
        for offset, piece in pieces.items():
            file.seek(offset)
            file.write(piece)


def png_with_a_text_of_a_gigabyte(path: Path) -> None:
    whole = png()
    sparse(path, {0: whole[:33] + struct.pack(">I4s", GIB, b"tEXt"), 33 + 12 + GIB: whole[33:]})


def png_with_empty_chunks_before_its_pixels(path: Path) -> None:
    path.write_bytes(png(before=png_chunk(b"tEXt") * 500_000))


def png_of_a_gigabyte(path: Path) -> None:
    whole = png()
    sparse(path, {0: whole, GIB: whole[-12:]})


def jpeg_with(path: Path, inserted: bytes) -> None:
    whole = encoded("JPEG")
    path.write_bytes(whole[:2] + inserted + whole[2:])


def jpeg_with_fill_bytes(path: Path) -> None:
    jpeg_with(path, b"\xff" * 4_000_000)


def jpeg_with_comments(path: Path) -> None:
    jpeg_with(path, b"\xff\xfe\0\2" * 1_000_000)


def jpeg_of_a_gigabyte(path: Path) -> None:
    sparse(path, {0: encoded("JPEG"), GIB: b"\xff\xd9"})


def tiff_of_a_gigabyte(path: Path) -> None:
    sparse(path, {0: encoded("TIFF"), GIB: b"\0"})


def tiff_with_too_many_jpeg_tiles(path: Path) -> None:
    count, stream = 320 * 320, encoded("JPEG")
    tags = [
        (256, 4, 5000),
        (257, 4, 5120),
        (258, 3, 8),
        (259, 3, 7),
        (262, 3, 1),
        (277, 3, 1),
        (322, 3, 16),
        (323, 3, 16),
    ]
    offsets = struct.pack("<I", 8) * count
    lengths = struct.pack("<I", len(stream)) * count
    directory = 8 + len(stream) + len(offsets) + len(lengths)
    entries = [struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags]
    entries.append(struct.pack("<HHII", 324, 4, count, 8 + len(stream)))
    entries.append(struct.pack("<HHII", 325, 4, count, 8 + len(stream) + len(offsets)))
    head = struct.pack("<4sI", b"II*\0", directory) + stream + offsets + lengths
    body = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    path.write_bytes(head + body + bytes(count * len(stream)))


HOSTILE = [
    png_with_a_text_of_a_gigabyte,
    png_with_empty_chunks_before_its_pixels,
    png_of_a_gigabyte,
    jpeg_with_fill_bytes,
    jpeg_with_comments,
    jpeg_of_a_gigabyte,
    tiff_of_a_gigabyte,
    tiff_with_too_many_jpeg_tiles,
]


def reads() -> tuple[int, int]:
    """Bytes and calls of this process' reads so far."""
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["rchar"]), int(counters["syscr"])


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
@pytest.mark.parametrize("mask", [False, True])
def test_a_hostile_image_is_refused_within_bounded_reads(
    tmp_path: Path, make: Callable[[Path], None], mask: bool
) -> None:
    path = tmp_path / "a"
    make(path)
    bytes_before, calls_before = reads()
    with pytest.raises(ImageFault, match="should have"):
        inspect_image(path, mask=mask)
    bytes_after, calls_after = reads()
    assert bytes_after - bytes_before < MOST_BYTES
    assert calls_after - calls_before < MOST_READS


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
def test_a_worker_refuses_it_before_it_copies_the_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "a"
    make(path)
    bytes_before, _ = reads()
    with pytest.raises(ImageFault, match="should have"):
        read_hashed(path, WIDTH, HEIGHT)
    assert reads()[0] - bytes_before < MOST_BYTES


def test_png_chunks_after_the_pixels_are_limited_when_they_are_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(after=png_chunk(b"tEXt", b"a\0b") * 100))
    assert np.array_equal(read_image(path, WIDTH, HEIGHT)[0], FRAME)
    path.write_bytes(png(after=png_chunk(b"tEXt") * 200_000))
    with pytest.raises(ImageFault, match="PNG chunks"):
        read_image(path, WIDTH, HEIGHT)


def test_a_jpeg_that_repeats_its_scans_is_refused(tmp_path: Path) -> None:
    whole = encoded("JPEG", progressive=True)
    path = tmp_path / "a.jpg"
    path.write_bytes(whole)
    read_image(path, WIDTH, HEIGHT)
    last = whole.rindex(b"\xff\xda")
    path.write_bytes(whole[:-2] + whole[last:-2] * 100 + b"\xff\xd9")
    with pytest.raises(ImageFault, match="at most 32 JPEG scans"):
        read_image(path, WIDTH, HEIGHT)


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {"icc_profile": os.urandom(300_000)}),
        ("JPEG", {"icc_profile": os.urandom(300_000), "comment": b"x" * 60_000}),
        ("TIFF", {"description": "x" * 300_000}),
    ],
)
def test_metadata_of_usual_size_is_allowed(tmp_path: Path, form: str, options: dict[str, object]) -> None:
    path = tmp_path / "a"
    path.write_bytes(encoded(form, **options))
    assert inspect_image(path).width == WIDTH
    read_image(path, WIDTH, HEIGHT)


@pytest.mark.parametrize("change", [(16, 1), (20, 1), (24, 3), (26, 1), (27, 1), (28, 2), (29, 1)])
def test_a_damaged_png_header_is_not_taken_for_another_size(tmp_path: Path, change: tuple[int, int]) -> None:
    content = bytearray(png())
    content[change[0]] ^= change[1]
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ImageFault, match="broken PNG header"):
        inspect_image(path)


def test_headers_are_read_without_a_decoder() -> None:
    code = "import sys, handlers.acquisition.arrival; sys.exit(any(name.startswith('PIL.') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_large_plain_image_needs_no_more_reads_than_a_small_one(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.zeros((4096, 4096), np.uint8)).save(path)
    bytes_before, calls_before = reads()
    inspect_image(path)
    assert reads()[0] - bytes_before < 64 * 1024
    assert reads()[1] - calls_before < 20
