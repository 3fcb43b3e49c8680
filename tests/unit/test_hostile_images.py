"""Images that are made to cost time and memory are refused by their headers, within a limited number of reads."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from daemon.pipeline.changes import compare_images
from handlers.errors import ImageFault
from handlers.images import decode
from handlers.images.decode import read_hashed, read_image
from handlers.images.digest import content_of
from handlers.images.header import ImageInfo, inspect_image, open_descriptor
from handlers.images.level0 import Level0File
from handlers.images.render_source import RenderSource
from handlers.images.served_level0 import ServedLevel0
from tests.hostile_images import FRAME, HEIGHT, HOSTILE_IMAGES, WIDTH, encoded, png, png_chunk

MAX_BYTES, MAX_READS = 2 * 2**20, 4_000


def reads() -> tuple[int, int]:
    """Bytes that this process has read, and number of its read calls."""
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["rchar"]), int(counters["syscr"])


@pytest.mark.parametrize("make", HOSTILE_IMAGES, ids=lambda make: make.__name__)
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
    assert bytes_after - bytes_before < MAX_BYTES
    assert calls_after - calls_before < MAX_READS


@pytest.mark.parametrize("make", HOSTILE_IMAGES, ids=lambda make: make.__name__)
def test_a_worker_refuses_a_hostile_image_before_it_copies_the_file(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "a"
    make(path)
    bytes_before, _ = reads()
    with open_descriptor(path) as descriptor, pytest.raises(ImageFault, match="should have"):
        read_hashed(descriptor, path, WIDTH, HEIGHT)
    assert reads()[0] - bytes_before < MAX_BYTES


def test_an_image_that_gets_another_size_after_its_header_was_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jpg"
    Image.new("L", (WIDTH, HEIGHT)).save(path)
    read = decode.read_header

    def read_and_replace(*given: Any, **options: Any) -> ImageInfo:
        info = read(*given, **options)
        with Image.new("L", (WIDTH // 2, HEIGHT // 2)) as smaller, path.open("r+b") as file:
            smaller.save(file, "JPEG")
        return info

    monkeypatch.setattr(decode, "read_header", read_and_replace)
    with open_descriptor(path) as descriptor, pytest.raises(ImageFault, match="changed its size"):
        read_hashed(descriptor, path, WIDTH, HEIGHT)


def test_too_many_png_chunks_after_the_pixels_are_refused_while_decoding(tmp_path: Path) -> None:
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
def test_a_corrupted_png_header_is_refused(tmp_path: Path, change: tuple[int, int]) -> None:
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


def test_an_image_with_another_length_counts_as_changed_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(encoded("TIFF"))
    with path.open("rb") as file:
        before = content_of(file.fileno())
    os.truncate(path, 2**30)
    bytes_before, _ = reads()
    now = compare_images._content_unless_same(path, before)
    assert now is not None
    assert now.digest != before.digest
    assert reads()[0] - bytes_before < MAX_BYTES


def test_a_file_too_long_for_its_pixels_is_not_hashed_if_render_ws_serves_it(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    path.write_bytes(b"GIF89a")
    source = RenderSource("http://127.0.0.1:1/owner/em/project/v1/stack/raw/tile/a/source/png-image")
    assert ServedLevel0(Level0File(path, WIDTH, HEIGHT), source, (0, 255)).digest
    os.truncate(path, 2**40)
    bytes_before, _ = reads()
    assert ServedLevel0(Level0File(path, WIDTH, HEIGHT), source, (0, 255)).digest is None
    assert reads()[0] - bytes_before < MAX_BYTES
