"""Images of a directory, inspected in turn: each has its own result, also after one with the same header."""

import os
import stat
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from daemon.simulator.frames import tiff_bytes
from handlers.errors import ImageFault
from handlers.identity import FileIdentity
from handlers.images.header import ImageDirectory, inspect_image

FRAME = np.full((40, 60), 7, np.uint8)


def tiff_with_its_directory_at_the_end(frame: np.ndarray) -> bytes:
    """A TIFF as libtiff writes it: pixels first, directory last."""
    height, width = frame.shape
    pixels = frame.tobytes()
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in [*tags, (279, len(pixels))]]
    head = struct.pack("<4sI", b"II*\0", 8 + len(pixels))
    return head + pixels + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


@pytest.mark.parametrize("encode", [tiff_bytes, tiff_with_its_directory_at_the_end])
def test_images_of_a_directory_have_the_same_result_as_inspected_alone(tmp_path, encode) -> None:
    shapes = [(40, 60), (40, 60), (60, 40), (40, 60), (24, 100)]  # 2,400 pixels each: files of the same length
    for number, shape in enumerate(shapes):
        (tmp_path / f"{number}.tif").write_bytes(encode(np.zeros(shape, np.uint8)))
    Image.fromarray(FRAME).save(tmp_path / "5.tif", format="PNG")
    (tmp_path / "6.tif").write_bytes(encode(FRAME.astype(np.uint16)) if encode is tiff_bytes else encode(FRAME))
    with ImageDirectory(tmp_path) as images:
        for number in range(7):
            path = tmp_path / f"{number}.tif"
            identity = FileIdentity.of(path.stat())
            assert images.inspect(path.name) == (inspect_image(path), identity)


@pytest.mark.parametrize("encode", [tiff_bytes, tiff_with_its_directory_at_the_end])
@pytest.mark.parametrize("kept", [0, 3, 100, 2_000, -1])
def test_a_truncated_image_after_a_complete_one_with_the_same_header_is_refused(tmp_path, encode, kept: int) -> None:
    (tmp_path / "whole.tif").write_bytes(encode(FRAME))
    (tmp_path / "short.tif").write_bytes(encode(FRAME)[:kept])
    with ImageDirectory(tmp_path) as images:
        images.inspect("whole.tif")
        with pytest.raises(ImageFault, match=r"short\.tif"):
            images.inspect("short.tif")
        assert images.inspect("whole.tif")[0] == inspect_image(tmp_path / "whole.tif")


def test_an_image_of_the_same_length_with_a_header_of_zeros_is_refused(tmp_path) -> None:
    whole = tiff_bytes(FRAME)
    (tmp_path / "whole.tif").write_bytes(whole)
    for first, last in ((0, 8), (8, 60), (60, 122)):
        (tmp_path / "hole.tif").write_bytes(whole[:first] + bytes(last - first) + whole[last:])
        with ImageDirectory(tmp_path) as images:
            images.inspect("whole.tif")
            with pytest.raises(ImageFault):
                images.inspect("hole.tif")


def test_links_are_followed_inside_the_directory_and_refused_outside(tmp_path) -> None:
    inside, outside = tmp_path / "section", tmp_path / "elsewhere.tif"
    (inside / "raw").mkdir(parents=True)
    outside.write_bytes(tiff_bytes(FRAME))
    (inside / "raw" / "a.tif").write_bytes(tiff_bytes(FRAME))
    (inside / "inside.tif").symlink_to("raw/a.tif")
    (inside / "out.tif").symlink_to(outside)
    (inside / "loop.tif").symlink_to("loop.tif")
    (tmp_path / "by-link").symlink_to(inside)
    for directory in (inside, tmp_path / "by-link"):
        with ImageDirectory(directory) as images:
            there = inspect_image(inside / "raw" / "a.tif")
            assert images.inspect("inside.tif")[0] == images.inspect("raw/a.tif")[0] == there
            with pytest.raises(ImageFault, match="lies outside"):
                images.inspect("out.tif")
            with pytest.raises(ImageFault, match="is not a regular file"):
                images.inspect("loop.tif")


def test_pipes_and_directories_are_refused_without_blocking(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.tif")
    (tmp_path / "directory.tif").mkdir()
    os.mknod(tmp_path / "socket.tif", stat.S_IFSOCK | 0o600)  # a server's address has at most 107 bytes
    with ImageDirectory(tmp_path) as images:
        for name in ("pipe.tif", "directory.tif", "socket.tif"):
            with pytest.raises(ImageFault, match="is not a regular file"):
                images.inspect(name)


@pytest.mark.parametrize("make", [Path.touch, lambda path: None])
def test_images_of_a_missing_directory_are_missing(tmp_path, make) -> None:
    make(tmp_path / "section")
    with ImageDirectory(tmp_path / "section") as images, pytest.raises((FileNotFoundError, NotADirectoryError)):
        images.inspect("a.tif")


def test_inspection_leaves_no_file_open(tmp_path) -> None:
    (tmp_path / "whole.tif").write_bytes(tiff_bytes(FRAME))
    (tmp_path / "short.tif").write_bytes(b"II*\0")
    Image.fromarray(FRAME).save(tmp_path / "a.png")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with ImageDirectory(tmp_path) as images:
        for _ in range(3):
            images.inspect("whole.tif")
            images.inspect("a.png")
            with pytest.raises(ImageFault):
                images.inspect("short.tif")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
