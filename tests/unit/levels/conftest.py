"""A level 0 and a directory for its levels."""

from pathlib import Path

import pytest

from tests.unit.levels.files import save, texture


@pytest.fixture
def level0(tmp_path: Path) -> Path:
    """An 8-bit image in a directory of its own."""
    directory = tmp_path / "acquisition"
    directory.mkdir()
    return save(directory / "image.tif", texture())


@pytest.fixture
def output_dir(tmp_path: Path) -> Path:
    return tmp_path / "mipmaps"
