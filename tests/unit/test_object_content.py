"""Images in an object store: read in ranges of one version, streamed, and never completely in memory."""

import io
import struct
import weakref
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from PIL import Image

from handlers.errors import ImageChanging, ImageFault, ImagesMissing, StoreFault
from handlers.images.digest import RunningDigest
from handlers.images.formats import png_rows, tiff_bands
from handlers.images.formats.png_filters import compiled_filters
from handlers.images.level0 import FileLevel0, Level0File
from handlers.images.opened import opened, pread, size_of
from handlers.images.reduction import MEAN, Reduction
from handlers.mipmaps.buffers import reduced
from handlers.mipmaps.reductions import mean_kernel
from handlers.mipmaps.reductions.strips import Strip
from handlers.objects import files
from handlers.objects.files import open_object, reading_once
from handlers.objects.requests import ObjectStat, OtherObject
from handlers.place import parse_object
from tests.unit.tiffs import Kind

PLACE = parse_object("s3://em/raw/a.tif")
RANGE = 4096
WIDTH, HEIGHT = 203, 301


class Range(bytearray):
    """A range in memory. A weak reference to it is possible, unlike to bytes."""


@dataclass
class Objects:
    """A bucket with one object. It counts the bytes of all ranges that are in memory."""

    content: bytes
    version: int = 0
    before_range: Callable[[int], object] = lambda number: None
    ranges: list[tuple[int, int]] = field(default_factory=list)
    in_memory: int = 0
    max_in_memory: int = 0

    def stat(self, place: Any) -> ObjectStat | None:
        return ObjectStat(len(self.content), str(self.version)) if place == PLACE else None

    def range(self, place: Any, start: int, end: int, version: ObjectStat) -> Range:
        self.before_range(len(self.ranges))
        if version.etag != str(self.version):
            raise OtherObject(str(place), "was replaced while it was read", "retries continue")
        self.ranges.append((start, end))
        found = Range(self.content[start:end])
        self.in_memory += len(found)
        self.max_in_memory = max(self.max_in_memory, self.in_memory)
        weakref.finalize(found, self._dropped, len(found))
        return found

    def _dropped(self, length: int) -> None:
        self.in_memory -= length


Put = Callable[[bytes], Objects]


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> Iterator[Put]:
    """Function that puts an object, with small ranges and bands."""
    monkeypatch.setattr(files, "RANGE_BYTES", RANGE)
    monkeypatch.setattr(files, "KEPT_BYTES", 4 * RANGE)
    monkeypatch.setattr(tiff_bands, "BAND_BYTES", 5000)
    monkeypatch.setattr(png_rows, "BAND_BYTES", 5000)
    monkeypatch.setattr(png_rows, "PIECE_BYTES", RANGE)

    with ExitStack() as opening:

        def put(content: bytes) -> Objects:
            objects = Objects(content)
            monkeypatch.setattr(files, "Objects", lambda bucket: objects)
            opening.close()
            opening.enter_context(reading_once())
            return objects

        yield put


def pixels(depth: Any = np.uint8) -> np.ndarray:
    return np.random.default_rng(1).integers(0, np.iinfo(depth).max, (HEIGHT, WIDTH), depth)


def encoded(kind: str, image: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def top_down(bmp: bytes) -> bytes:
    """Return the BMP file with a negative height."""
    return bmp[:22] + struct.pack("<i", -struct.unpack_from("<i", bmp, 22)[0]) + bmp[26:]


def levels_of(level0: FileLevel0, reduction: Reduction = MEAN) -> dict[int, np.ndarray]:
    with reduced(level0, WIDTH, HEIGHT, (1, 2, 4), None, reduction) as pages:
        return {level: page.pixels.copy() for level, page in pages.items()}


KINDS: dict[str, Callable[[], bytes]] = {
    "tif": lambda: encoded("tiff", pixels()),
    "tif of 16 bits": lambda: encoded("tiff", pixels(np.uint16)),
    "tif of many strips": lambda: Kind(rows=7).file(pixels()),
    "tif of the other byte order": lambda: Kind(order=">", rows=7).file(pixels(np.uint16)),
    "tif of reversed bits": lambda: Kind(reversed_bits=True, rows=50).file(pixels()),
    "tif of tiles": lambda: Kind(piece=(32, 16)).file(pixels()),
    "lzw": lambda: Kind(compression=5, rows=9).file(pixels()),
    "lzw in one strip": lambda: Kind(compression=5).file(pixels()),
    "lzw tiles of 16 bits": lambda: Kind(compression=5, piece=(48, 32)).file(pixels(np.uint16)),
    "deflate of differences": lambda: encoded(
        "tiff", pixels(), compression="tiff_adobe_deflate", tiffinfo={317: 2, 278: 16}
    ),
    "jpeg strips": lambda: encoded("tiff", pixels(), compression="jpeg", tiffinfo={278: 16}),
    "png": lambda: encoded("png", pixels()),
    "jpg": lambda: encoded("jpeg", pixels(), quality=90),
    "png of 16 bits": lambda: encoded("png", pixels(np.uint16)),
    "bmp": lambda: encoded("bmp", pixels()),
    "bmp from the top down": lambda: top_down(encoded("bmp", pixels())),
}
WHOLE = {"lzw in one strip", "jpeg strips", "jpg", "bmp"} | (
    {"png", "png of 16 bits"} if not compiled_filters() else set()
)
STREAMED = [name for name in KINDS if name not in WHOLE]
"""Kinds that are read in several bands from the first row to the last. The headers of all JPEG strips are read before
the first is decoded. The first row of a BMP is at the end of the file."""


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("reduction", [MEAN, Reduction("PIL", "LANCZOS"), Reduction("block_reduce", "median")])
def test_levels_and_digest_are_those_of_the_same_file_on_a_disk(
    stored: Put, tmp_path: Path, name: str, reduction: Reduction
) -> None:
    content = KINDS[name]()
    objects, file = stored(content), tmp_path / "a.tif"
    file.write_bytes(content)
    here, there = (FileLevel0(Level0File(place, WIDTH, HEIGHT)) for place in (file, PLACE))
    expected, found = levels_of(here, reduction), levels_of(there, reduction)
    assert all(np.array_equal(found[level], expected[level]) for level in expected)
    assert there.digest == there.known_digest() == here.digest == xxhash.xxh3_128_digest(content)
    assert there.content is None  # an object has no times and no inode
    assert objects.max_in_memory <= files.KEPT_BYTES


@pytest.mark.parametrize("name", STREAMED)
def test_an_image_is_reduced_while_it_is_read_and_at_most_two_ranges_are_requested_again(
    stored: Put, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    content = KINDS[name]()
    objects, reduced_before_end, ranges = stored(content), [], -(-len(content) // RANGE)
    monkeypatch.setattr(mean_kernel, "BYTES_AT_ONCE", RANGE)
    level0 = FileLevel0(Level0File(PLACE, WIDTH, HEIGHT))
    monkeypatch.setattr(FileLevel0, "pixels", None)  # the whole image must not be decoded at once
    read = Strip.read

    def watched(self: Strip, *arguments: Any) -> Iterator[tuple[int, Any]]:
        for top, rows in read(self, *arguments):
            reduced_before_end.append(len(objects.ranges) < ranges)
            yield top, rows

    monkeypatch.setattr(Strip, "read", watched)
    levels_of(level0)
    assert reduced_before_end[0]
    assert ranges <= len(objects.ranges) <= ranges + 2  # those of a directory at the end may have left the memory


def test_at_most_two_ranges_of_a_png_are_requested_again(stored: Put) -> None:
    content = KINDS["png"]()
    objects = stored(content)
    levels_of(FileLevel0(Level0File(PLACE, WIDTH, HEIGHT)))
    assert len(content) > 10 * RANGE
    assert len(objects.ranges) <= -(-len(content) // RANGE) + 2  # those of its end may have left the memory


def test_a_png_with_too_many_chunks_is_refused(stored: Put) -> None:
    content = KINDS["png"]()
    at = content.index(b"IEND") - 4
    empty = b"\0\0\0\0IDAT" + zlib.crc32(b"IDAT").to_bytes(4, "big")
    stored(content[:at] + empty * 5000 + content[at:])
    with pytest.raises(ImageFault, match="PNG chunks for its length, has more"):
        levels_of(FileLevel0(Level0File(PLACE, WIDTH, HEIGHT)))


def test_a_small_object_is_requested_once_although_it_is_opened_again(stored: Put) -> None:
    content = encoded("png", pixels()[:20])
    objects = stored(content[:RANGE])
    for _ in range(3):
        with open_object(PLACE) as file:
            assert file.read() == content[:RANGE]
            assert (file.seek(-4, 2), file.read()) == (len(objects.content) - 4, content[:RANGE][-4:])
            assert (file.seek(10), file.read(3), file.tell()) == (10, content[10:13], 13)
    assert len(objects.ranges) == 1


@pytest.mark.parametrize("name", ["tif", "lzw", "png", "jpg"])
@pytest.mark.parametrize("number", [1, 3])
def test_an_object_that_is_replaced_or_deleted_while_it_is_read_gives_no_levels(
    stored: Put, name: str, number: int
) -> None:
    objects = stored(KINDS[name]())

    def replaced(count: int) -> None:
        objects.version += count == number

    objects.before_range = replaced
    with pytest.raises(ImageChanging, match="was replaced while it was read"):
        levels_of(FileLevel0(Level0File(PLACE, WIDTH, HEIGHT)))

    def deleted(count: int) -> None:
        if count >= number:
            raise FileNotFoundError(2, "No such object")

    objects = stored(KINDS[name]())
    objects.before_range = deleted
    with pytest.raises(ImagesMissing):
        levels_of(FileLevel0(Level0File(PLACE, WIDTH, HEIGHT)))


def test_an_answer_with_fewer_bytes_than_requested_is_a_fault(stored: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = stored(KINDS["tif"]())
    whole = Objects.range
    monkeypatch.setattr(Objects, "range", lambda self, *arguments: whole(self, *arguments)[:-1])
    with pytest.raises(StoreFault, match="expected 4096 bytes from 0 on, got 4095"):
        FileLevel0(Level0File(PLACE, WIDTH, HEIGHT))
    assert len(objects.ranges) == 1


def test_a_digest_covers_all_bytes_although_ranges_are_read_out_of_order(stored: Put) -> None:
    content = np.random.default_rng(2).bytes(9 * RANGE + 5)
    stored(content)
    with open_object(PLACE) as file:
        image = opened(file)
        assert size_of(image) == len(content)
        for offset in (8 * RANGE, 3 * RANGE, 100, 9 * RANGE):
            assert pread(image, 7, offset) == content[offset : offset + 7]
        assert RunningDigest(image).digest() == xxhash.xxh3_128_digest(content)
        assert pread(image, 10, len(content) + 1) == b""


@pytest.mark.parametrize("name", ["tif", "lzw", "jpg"])
def test_a_truncated_object_is_an_invalid_image(stored: Put, name: str) -> None:
    stored(KINDS[name]()[:-700])
    with pytest.raises(ImageFault):
        levels_of(FileLevel0(Level0File(PLACE, WIDTH, HEIGHT)))
