"""`temwatch picture` draws a section of a stack from the files in its tile specs."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.acceptance.rig import Rig, temwatch


def test_the_picture_of_a_section_shows_all_its_tiles(running_rig: Rig, write, tmp_path: Path) -> None:
    section = write(specimen_id="s")
    running_rig.wait_until("complete", section.metafile)
    picture = tmp_path / "section.png"
    done = temwatch("picture", "s_mips", "1050", "-o", str(picture), "--config", str(running_rig.config()))
    assert done.returncode == 0, done.stderr
    with Image.open(picture) as image:
        width, height = image.size
        assert np.asarray(image).std() > 5
    with Image.open(section.images[0]) as image:
        assert width > image.width
        assert height > image.height
    stack = f"{running_rig.stack_url('s_mips').split('/owner/')[1].replace('/project/', '/').replace('/stack/', '/')}"
    assert done.stdout == f"{picture}: {width}x{height} pixels, 4 tiles of {stack} at z 1050\n"


@pytest.mark.parametrize(
    ("stack", "z", "code", "said"),
    [
        ("absent", "1050", 1, "/absent: does not exist"),
        ("s_mips", "7", 1, "picture: the stack has no tiles at this z"),
        ("a/b", "7", 2, "expected a name of the form owner/project/stack"),
        ("s_mips", "x", 2, "'x' is not a valid float"),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_refused_in_one_line(
    running_rig: Rig, write, tmp_path: Path, stack: str, z: str, code: int, said: str
) -> None:
    running_rig.wait_until("complete", write(specimen_id="s").metafile)
    done = temwatch("picture", stack, z, "-o", str(tmp_path / "a.png"), "--config", str(running_rig.config()))
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "a.png").exists()


def test_a_picture_is_not_written_to_standard_output_or_a_file_of_that_name(running_rig: Rig) -> None:
    done = temwatch("picture", "s_mips", "1050", "-o", "-", "--config", str(running_rig.config()))
    assert done.returncode == 2
    assert "--output: a picture cannot be written to standard output (name a file)" in done.stderr
    assert not Path("-").exists()
