"""A level is verified by reading it back; a level 0 is inspected by its header."""

from pathlib import Path

import numpy as np
import pytest

from handlers.container import Container
from handlers.errors import ImageFault, ImagesMissing
from handlers.images.decode import verify_level
from handlers.images.header import inspect_image
from tests.unit.levels.files import HEIGHT, WIDTH, save, texture


class TestVerifying:
    def test_the_pixels_of_a_valid_level_are_returned(self, level0: Path) -> None:
        np.testing.assert_array_equal(verify_level(level0, WIDTH, HEIGHT, "L"), texture())

    @pytest.mark.parametrize(("width", "mode"), [(WIDTH - 1, "L"), (WIDTH, "I;16")])
    def test_another_size_or_mode_is_a_fault(self, level0: Path, width: int, mode: str) -> None:
        with pytest.raises(ImageFault):
            verify_level(level0, width, HEIGHT, mode)

    def test_a_missing_level_is_reported_as_missing(self, level0: Path) -> None:
        with pytest.raises(ImagesMissing):
            verify_level(level0.with_name("gone"), WIDTH, HEIGHT, "L")


def test_an_inspection_reads_little_and_reports_the_header(tmp_path: Path) -> None:
    file = save(tmp_path / "a.tif", texture(np.uint16, 3000, 2000))
    inspect_image(file, Container.of(tmp_path))  # the first inspection imports modules, which are not counted
    before = _bytes_read()
    info = inspect_image(file, Container.of(tmp_path))
    assert _bytes_read() - before < 100_000
    assert (info.width, info.height, info.bits, info.mode) == (3000, 2000, 16, "I;16")
    assert (info.format, info.file_bytes, info.has_more_pages) == ("tif", file.stat().st_size, False)


def _bytes_read() -> int:
    """Number of bytes that this process has read by system calls, also from the page cache."""
    return int(Path("/proc/self/io").read_text().split()[1])
