"""MRC stacks: pixels as mrcfile reads them, invalid headers, and the level 0 of a section."""

import contextlib
import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from handlers.container import Container
from handlers.difference import Kind
from handlers.errors import ImageChanging, ImageFault, InvalidImage
from handlers.images import mrc_section
from handlers.images.decode import read_image
from handlers.images.mrc_header import HEADER_BYTES, StackSection, inspect_section, read_stack_header
from handlers.images.mrc_section import read_section
from handlers.mipmaps.make import make_mipmaps
from handlers.mipmaps.plan import Level0, MipmapPlan, absent_levels
from handlers.mipmaps.tile_jobs import tile_job
from handlers.uris import extracted_path
from handlers.verify import check_files
from tests.serialem_stack import append_section, stack_header

WIDTH, HEIGHT = 40, 30


def frame(seed: int = 0, dtype: Any = np.uint8) -> Any:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (HEIGHT, WIDTH), dtype, endpoint=True)


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    path = tmp_path / "run.mrc"
    for seed in range(3):
        append_section(path, frame(seed))
    return path


# ------------------------------------------------------------------------------------------------------- pixels


def test_the_simulated_stack_is_valid_for_mrcfile(stack: Path) -> None:
    with mrcfile.open(stack) as found:
        assert found.data.shape == (3, HEIGHT, WIDTH)


@pytest.mark.parametrize("seed", range(3))
def test_rows_are_read_from_the_top_and_signed_bytes_are_shifted_by_128(stack: Path, seed: int) -> None:
    page, _ = read_section(StackSection(stack, seed))
    assert np.array_equal(page.pixels, frame(seed))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint16])
def test_each_section_has_the_pixels_that_mrcfile_reads(tmp_path: Path, dtype: Any, order: str) -> None:
    path, limits = tmp_path / "a.st", np.iinfo(dtype)
    shape = (2, HEIGHT, WIDTH)
    data = np.random.default_rng(1).integers(limits.min, limits.max, shape, dtype, endpoint=True)
    with mrcfile.new(path) as made:
        made.set_data(data.astype(np.dtype(dtype).newbyteorder(order)))
    with mrcfile.open(path) as opened:
        stored = np.array(opened.data)
    for number in range(2):
        found = read_section(StackSection(path, number))[0].pixels
        expected = stored[number][::-1].astype(np.int32) + (128 if dtype == np.int8 else 0)
        assert found.dtype == (np.uint8 if dtype == np.int8 else np.uint16)
        assert np.array_equal(found, np.maximum(expected, 0))


def test_bytes_are_unsigned_if_the_flags_of_imod_say_so(stack: Path) -> None:
    with stack.open("r+b") as file:
        file.seek(152)
        file.write(struct.pack("<ii", 1146047817, 0))  # the stamp of IMOD, then its flags
    stored = (frame().astype(np.int16) - 128).astype(np.int8).view(np.uint8)
    assert np.array_equal(read_section(StackSection(stack, 0))[0].pixels, stored)


def test_the_last_section_of_a_stack_of_40_gb_needs_the_memory_of_one_section(tmp_path: Path) -> None:
    path, sections = tmp_path / "large.mrc", 40_000_000_000 // (1 << 20)
    big = np.zeros((1024, 1024), np.uint8)
    with path.open("wb") as file:
        file.write(stack_header(big, sections))
        file.truncate(HEADER_BYTES + sections * big.nbytes)
    read_section(StackSection(path, 0))
    tracemalloc.start()
    page, _ = read_section(StackSection(path, sections - 1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert page.pixels.shape == (1024, 1024)
    assert peak < 8 * big.nbytes


# ---------------------------------------------------------------------------------------------- invalid headers


def header_with(**fields: Any) -> bytes:
    header = np.frombuffer(stack_header(frame(), 3), mrcfile.dtypes.HEADER_DTYPE).copy()
    for name, value in fields.items():
        header[name] = value
    return header.tobytes()


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (b"", "has 0 bytes, an MRC file has a header of 1024"),
        (header_with()[:1000], "has 1000 bytes, an MRC file has a header of 1024"),
        (bytes(1024), "is not an MRC file: bytes 209 to 211 should be MAP"),
        (header_with(map=b"PAM "), "is not an MRC file"),
        (header_with(machst=(9, 9, 0, 0)), "has the machine stamp 09090000, which is unknown"),
        (header_with(nx=0), "should have 1 to 65536 columns by its header, has 0"),
        (header_with(nx=-5), "should have 1 to 65536 columns by its header, has -5"),
        (header_with(ny=2**31 - 1), "should have 1 to 65536 rows by its header, has 2147483647"),
        (header_with(nz=-1), "should have up to 16777216 sections by its header, has -1"),
        (header_with(nz=2**31 - 1), "should have up to 16777216 sections by its header, has 2147483647"),
        (header_with(nsymbt=-1), "should have an extended header of up to 67108864 bytes, has -1"),
        (header_with(nsymbt=2**31 - 1), "should have an extended header of up to 67108864 bytes, has 2147483647"),
        (header_with(nsymbt=1 << 20), "is truncated"),
        (header_with(mode=2), "has pixels of MRC mode 2; 0, 1 and 6 are read"),
        (header_with(mode=4), "has pixels of MRC mode 4"),
        (header_with(mode=101), "has pixels of MRC mode 101"),
        (header_with(mode=-7), "has pixels of MRC mode -7"),
        (header_with(mapc=2, mapr=1), "should have the axes 1, 2, 3 by its header, has 2, 1, 3"),
        (header_with(nx=65536, ny=65536), "is truncated: has 4624 bytes, section 2 ends at 12884902912"),
        (header_with(nz=2), "has 2 sections by its header: section 2 is not there yet"),
    ],
)
def test_an_invalid_header_is_refused_before_a_pixel_is_read(
    stack: Path, header: bytes, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = header + stack.read_bytes()[1024:] if len(header) == HEADER_BYTES else header
    stack.write_bytes(content)
    lengths: list[int] = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda *arguments: lengths.append(arguments[1]) or pread(*arguments))
    for read in (inspect_section, read_section):
        with pytest.raises(ImageFault) as caught:
            read(StackSection(stack, 2))
        assert problem in caught.value.problem
    assert lengths == [HEADER_BYTES] * 2


VALUES = st.integers(-1, 7) | st.integers(-(2**31), 2**31 - 1)
FIELDS = st.dictionaries(
    st.sampled_from(["nx", "ny", "nz", "mode", "mapc", "mapr", "maps", "nsymbt"]), VALUES, max_size=2
)
STAMPED = st.binary(min_size=1024, max_size=1024).map(lambda header: header[:208] + b"MAP DD" + header[214:])


@given(header=FIELDS.map(lambda fields: header_with(**fields)) | STAMPED)
def test_any_header_is_read_or_refused(header: bytes) -> None:
    descriptor = os.memfd_create("stack")
    try:
        os.write(descriptor, header)
        with contextlib.suppress(InvalidImage):
            assert read_stack_header(descriptor).section_bytes > 0
    finally:
        os.close(descriptor)


def test_a_stack_outside_the_watched_directory_is_refused(stack: Path, tmp_path: Path) -> None:
    watched = tmp_path / "watched"
    watched.mkdir()
    (watched / "run.mrc").symlink_to(stack)
    for read in (inspect_section, read_section):
        with pytest.raises(ImageFault, match="lies outside"):
            read(StackSection(watched / "run.mrc", 0), root=Container(watched, watched.resolve()))


def test_a_section_that_changes_while_it_is_read_is_a_fault_and_a_new_section_is_not(
    stack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, writes = mrc_section._raw, iter([lambda: append_section(stack, frame(7)), lambda: None])

    def read(*arguments: Any) -> bytes:
        found = raw(*arguments)
        next(writes, lambda: None)()
        return found

    monkeypatch.setattr(mrc_section, "_raw", read)
    assert np.array_equal(read_section(StackSection(stack, 1))[0].pixels, frame(1))

    def overwrite() -> None:
        with stack.open("r+b") as file:
            file.seek(HEADER_BYTES + WIDTH * HEIGHT)
            file.write(b"\1" * WIDTH)

    writes = iter([overwrite])
    with pytest.raises(ImageChanging, match="section 1 changed while it was read"):
        read_section(StackSection(stack, 1))


# ------------------------------------------------------------------------------------------ level 0 of a section


def make_levels(tile: Level0, plan: MipmapPlan) -> Any:
    """Make the levels of a tile of a stack; return the report."""
    assert tile.stack is not None
    directory = tile.stack.path.parent
    return make_mipmaps(tile_job(tile, plan, Container(directory, directory.resolve())))


@pytest.fixture
def made(stack: Path, tmp_path: Path) -> tuple[Level0, MipmapPlan, Any]:
    """A tile of the stack whose levels are made, its plan, and the report."""
    output = tmp_path / "mips"
    output.mkdir()
    plan = MipmapPlan(output, levels=2, container=Container(output, output.resolve()))
    tile = Level0("a", extracted_path(output, stack, 1), None, WIDTH, HEIGHT, stack=StackSection(stack, 1))
    assert tile.image in absent_levels([tile], plan)
    report = make_levels(tile, plan)
    assert report.fault is None
    return tile, plan, report


def test_level_0_is_a_tiff_of_the_section_and_its_digest_is_that_of_the_file(made: Any) -> None:
    tile, plan, report = made
    assert np.array_equal(read_image(tile.image, WIDTH, HEIGHT)[0], frame(1))
    assert report.level0.digest == xxhash.xxh3_128_digest(tile.image.read_bytes())
    assert report.level0.identity.inode == tile.stack.path.stat().st_ino
    assert absent_levels([tile], plan) == []
    assert check_files(tile, plan, report.level0, deep=True) == []


def test_level_0_is_not_written_again_if_it_exists(made: Any) -> None:
    tile, plan, report = made
    inode = tile.image.stat().st_ino
    assert make_levels(tile, plan).level0 == report.level0
    assert tile.image.stat().st_ino == inode


def test_verify_finds_a_lost_level_0_a_changed_section_and_a_lost_stack(made: Any) -> None:
    tile, plan, report = made
    append_section(tile.stack.path, frame(9))
    assert check_files(tile, plan, report.level0) == []
    content = tile.image.read_bytes()
    tile.image.unlink()
    (lost,) = check_files(tile, plan, report.level0)
    assert (lost.kind, lost.start, lost.what) == (Kind.LEVEL_MISSING, "mipmaps", "level 0 is missing")
    tile.image.write_bytes(content)
    with tile.stack.path.open("r+b") as file:
        file.seek(HEADER_BYTES + WIDTH * HEIGHT)
        file.write(bytes(WIDTH))
    (changed,) = check_files(tile, plan, report.level0)
    assert (changed.kind, changed.start) == (Kind.SOURCE_CHANGED, "mipmaps")
    assert changed.what == "section 1 holds other pixels than its level 0 was made of"
    tile.stack.path.unlink()
    (missing,) = check_files(tile, plan, report.level0)
    assert (missing.kind, missing.start) == (Kind.SOURCE_GONE, None)


def test_a_fault_of_a_stack_names_the_stack(made: Any) -> None:
    tile, plan, _ = made
    os.truncate(tile.stack.path, HEADER_BYTES + WIDTH * HEIGHT + 5)
    report = make_levels(tile, plan)
    assert report.fault is not None
    fault = report.fault.to_fault()
    assert fault.subject == str(tile.stack.path)
    assert "is truncated" in fault.problem
