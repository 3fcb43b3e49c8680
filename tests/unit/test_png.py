"""PNG files: rows that are decoded while the file is read, and damaged files."""

import io
import itertools
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from handlers.errors import ImageFault
from handlers.images.decode import read_hashed, read_image
from handlers.images.formats import png_rows
from handlers.images.formats.png_filters import compiled_filters
from handlers.images.formats.png_rows import PngRows
from handlers.images.header import open_descriptor
from handlers.images.level0 import FileLevel0, Level0File
from handlers.mipmaps.buffers import reduced
from tests.hostile_images import png_chunk

SIGNATURE = b"\x89PNG\r\n\x1a\n"
END = png_chunk(b"IEND")
GREY = np.random.default_rng(0).integers(0, 256, (7, 5), np.uint8)

needs_compiler = pytest.mark.skipif(compiled_filters() is None, reason="there was no C compiler")


def nearest(left: int, above: int, corner: int) -> int:
    """Return the predictor of the filter Paeth, as the specification defines it."""
    estimate = left + above - corner
    return min((left, above, corner), key=lambda neighbour: abs(estimate - neighbour))


def filtered(image: np.ndarray, filters: Sequence[int]) -> bytes:
    """Return the rows of an image, each after the number of its filter."""
    step = image.itemsize
    big = image.astype(">u2" if step == 2 else np.uint8)
    lines, above = [], bytes(image.shape[1] * step)
    for row, kind in zip(big, filters, strict=True):
        now = row.tobytes()
        line = bytearray([kind])
        for x, value in enumerate(now):
            left, corner = (now[x - step], above[x - step]) if x >= step else (0, 0)
            predicted = (0, left, above[x], (left + above[x]) // 2, nearest(left, above[x], corner))[kind]
            line.append((value - predicted) % 256)
        lines.append(bytes(line))
        above = now
    return b"".join(lines)


def header(width: int, height: int, bits: int = 8, interlace: int = 0) -> bytes:
    return png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, interlace))


def png_of(image: np.ndarray, filters: Sequence[int] | None = None, pieces: int = 1, between: bytes = b"") -> bytes:
    """Return a PNG with its pixels in several chunks, and with other chunks between them."""
    height, width = image.shape
    packed = zlib.compress(filtered(image, filters or [0] * height))
    size = -(-len(packed) // pieces)
    chunks = [png_chunk(b"IDAT", packed[at : at + size]) for at in range(0, len(packed), size)]
    return SIGNATURE + header(width, height, 8 * image.itemsize) + between.join(chunks) + END


def with_rows(packed: bytes) -> bytes:
    """Return a PNG of 5 x 7 pixels with these compressed rows."""
    return SIGNATURE + header(5, 7) + png_chunk(b"IDAT", packed) + END


def saved(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.fixture
def small_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png_rows, "BAND_BYTES", 40)
    monkeypatch.setattr(png_rows, "PIECE_BYTES", 16)


def require_filters_undone(depth: type, size: tuple[int, int]) -> None:
    """Decode an image in which each filter follows every other, and compare with Pillow."""
    height, width = size
    image = np.random.default_rng(3).integers(0, np.iinfo(depth).max, size, depth, endpoint=True)
    orders = itertools.chain.from_iterable(itertools.product(range(5), repeat=2))
    filters = list(itertools.islice(itertools.cycle(orders), height))
    content = png_of(image, filters, pieces=3)
    found = png_rows.png_rows(
        Bytes(content), png_rows.PngHeader(width, height, 8 * image.itemsize, has_whole_rows=True)
    )
    assert np.array_equal(found, image)
    with Image.open(io.BytesIO(content)) as pillow:
        assert np.array_equal(np.asarray(pillow), image)


@needs_compiler
@pytest.mark.usefixtures("small_bands")
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (25, 13)])
def test_each_filter_is_undone_after_every_other(depth: type, size: tuple[int, int]) -> None:
    require_filters_undone(depth, size)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_files_that_pillow_writes_have_the_pixels_that_were_written(tmp_path: Path, depth: type, level: int) -> None:
    smooth = np.add.outer(np.arange(401) ** 2, np.arange(303) * 57).astype(depth)
    Image.fromarray(smooth).save(tmp_path / "a.png", compress_level=level)
    assert np.array_equal(read_image(tmp_path / "a.png", 303, 401)[0], smooth)


@pytest.fixture
def without_compiled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png_rows, "compiled_filters", lambda: None)


def test_without_compiled_code_pillow_decodes_the_same(tmp_path: Path, without_compiled_code: None) -> None:
    path = saved(tmp_path / "a.png", png_of(GREY, [0, 1, 2, 3, 4, 3, 2]))
    assert np.array_equal(read_image(path, 5, 7)[0], GREY)
    assert not FileLevel0(Level0File(path, 5, 7)).runs


def interlaced() -> bytes:
    """Return GREY as a PNG in the seven passes of Adam7."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    parts = [GREY[top::down, left::right] for left, top, right, down in passes]
    lines = b"".join(b"\0" + row.tobytes() for part in parts if part.shape[1] for row in part)
    return SIGNATURE + header(5, 7, interlace=1) + png_chunk(b"IDAT", zlib.compress(lines)) + END


def four_bits() -> bytes:
    """Return the upper four bits of GREY as a PNG."""
    lines = b"".join(bytes([0, *(row[::2] >> 4 << 4)]) for row in GREY)
    return SIGNATURE + header(5, 7, bits=4) + png_chunk(b"IDAT", zlib.compress(lines)) + END


@pytest.mark.parametrize("made", [interlaced, four_bits])
def test_interlaced_images_and_small_depths_are_decoded_as_a_whole(tmp_path: Path, made: Callable[[], bytes]) -> None:
    path = saved(tmp_path / "a.png", made())
    with Image.open(path) as pillow:
        expected = np.asarray(pillow)
    assert np.array_equal(read_image(path, 5, 7)[0], expected)
    assert not FileLevel0(Level0File(path, 5, 7)).runs


@needs_compiler
@pytest.mark.usefixtures("small_bands")
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_levels_are_made_while_the_file_is_read_and_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, depth: type
) -> None:
    image = np.random.default_rng(4).integers(0, np.iinfo(depth).max, (301, 203), depth)
    content = png_of(image, [4, *range(5)] * 50 + [1], pieces=40)
    path, png = tmp_path / "a.tif", tmp_path / "a.png"
    Image.fromarray(image).save(path)
    saved(png, content)
    levels = []
    for file in (path, png):
        level0 = FileLevel0(Level0File(file, 203, 301))
        with monkeypatch.context() as patch:
            patch.setattr(FileLevel0, "pixels", None)  # the whole image must not be decoded at once
            with reduced(level0, 203, 301, (1, 2, 4), None) as pages:
                levels.append([page.pixels.copy() for page in pages.values()])
    assert all(np.array_equal(mine, other) for mine, other in zip(*levels, strict=True))
    assert level0.digest == xxhash.xxh3_128_digest(content)


@needs_compiler
@given(cuts=st.lists(st.integers(1, 90), max_size=8), band=st.integers(1, 9), seed=st.integers(0, 9))
def test_rows_do_not_depend_on_the_lengths_of_chunks_and_bands(cuts: list[int], band: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 3, (9, 11), np.uint8)  # compresses well
    packed, at, chunks = zlib.compress(filtered(image, [4, 3, 2, 1, 0, 4, 3, 2, 1])), 0, []
    for length in (*cuts, 1000):
        chunks.append(png_chunk(b"IDAT", packed[at : at + length]))
        at += length
    content = Bytes(SIGNATURE + header(11, 9) + b"".join(chunks) + END)
    found = PngRows(content, header_of(content))
    pieces = [found.pread(11 * band, offset) for offset in range(0, 99, 11 * band)]
    assert b"".join(pieces) == image.tobytes()
    assert found.pread(11, 99) == b""


class Bytes:
    """A file in memory. Each read returns at most seven bytes."""

    def __init__(self, content: bytes) -> None:
        self.content, self.size = content, len(content)

    def pread(self, length: int, offset: int) -> bytes:
        return self.content[offset : offset + min(length, 7)]

    def pread_into(self, place: memoryview, offset: int) -> int:
        piece = self.pread(len(place), offset)
        place[: len(piece)] = piece
        return len(piece)

    def digest(self) -> bytes:
        return xxhash.xxh3_128_digest(self.content)


def header_of(content: Bytes) -> png_rows.PngHeader:
    return png_rows.PngHeader(11, 9, 8, has_whole_rows=True)


@needs_compiler
@pytest.mark.parametrize(("offset", "length"), [(11, 11), (0, 12), (0, 5)])
def test_rows_must_be_read_in_order_and_completely(offset: int, length: int) -> None:
    content = Bytes(png_of(np.zeros((9, 11), np.uint8)))
    with pytest.raises(ValueError, match="expected whole rows from byte 0 on"):
        PngRows(content, header_of(content)).pread_into(memoryview(bytearray(length)), offset)


ROWS = filtered(GREY, [0] * 7)
PACKED = zlib.compress(ROWS)
DAMAGED = {
    "a row has an unknown filter": with_rows(zlib.compress(b"\5" + ROWS[1:])),
    "PNG data end before its last row": with_rows(zlib.compress(ROWS[:-1])),
    "PNG data end before its last row ": with_rows(PACKED[:-1]),
    "has broken PNG data: .*checksum": with_rows(PACKED[:-1] + bytes([PACKED[-1] ^ 1])),
    "has broken PNG data": with_rows(b"\x78\x9c\xff\xff" + PACKED),
    "the checksum of a PNG chunk differs": png_of(GREY).replace(png_chunk(b"IDAT", PACKED)[-4:], b"\0\0\0\0"),
    "another chunk is between those with pixels": png_of(GREY, pieces=2, between=png_chunk(b"tEXt")),
    "should have at most 3.. PNG chunks for its length": png_of(GREY, pieces=2, between=png_chunk(b"IDAT") * 5000),
}


@needs_compiler
@pytest.mark.parametrize("problem", DAMAGED)
def test_a_damaged_file_is_refused_with_its_problem(tmp_path: Path, problem: str) -> None:
    path = saved(tmp_path / "a.png", DAMAGED[problem])
    with pytest.raises(ImageFault, match=problem.strip()):
        read_image(path, 5, 7)
    with open_descriptor(path) as descriptor, pytest.raises(ImageFault, match=problem.strip()):
        read_hashed(descriptor, path, 5, 7)


def test_bytes_after_the_last_row_are_ignored(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", with_rows(zlib.compress(ROWS + bytes(10_000))))
    assert np.array_equal(read_image(path, 5, 7)[0], GREY)


def broken() -> Iterator[bytes]:
    """Yield a PNG truncated at each byte, and with one changed bit in each byte."""
    whole = png_of(GREY, [0, 1, 2, 3, 4, 3, 2], pieces=2)
    yield from (whole[:length] for length in range(len(whole) - 4))
    for at in (*range(len(whole) - 12), *range(len(whole) - 8, len(whole))):  # the length of the last chunk is not used
        yield whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :]


@needs_compiler
def test_a_file_with_a_wrong_or_missing_byte_is_refused(tmp_path: Path) -> None:
    for content in broken():
        path = saved(tmp_path / "a.png", content)
        with pytest.raises(ImageFault):
            read_image(path, 5, 7)
