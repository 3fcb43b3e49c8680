"""What of a metafile has arrived, where its image names lead nowhere."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiffs import Kind

from daemon.demo.microscope import plan_section, write_section
from handlers.arrival import check_images
from handlers.errors import MetafileFault
from handlers.metafile import parse_metafile
from handlers.tilespec import TileSpecOptions, tile_ids_for


def parsed_with_first_image(place: Path, img_path: str):
    section = write_section(plan_section(tiles=4, size=(64, 64)), place, pixels="flat")
    content = json.loads(section.metafile.read_bytes())
    content[1]["data"][0]["img_path"] = img_path
    return section.directory, parse_metafile(json.dumps(content).encode(), section.metafile.name)


def test_a_name_longer_than_any_disk_takes_is_not_waited_for(tmp_path):
    directory, metafile = parsed_with_first_image(tmp_path, "x" * 70_000 + ".tif")
    with pytest.raises(MetafileFault, match="is a longer name than the disk takes") as caught:
        check_images(metafile, directory)
    assert caught.value.subject == str(directory)
    assert len(str(caught.value)) < 1000


def test_a_file_where_the_name_wants_a_directory_is_an_image_missing(tmp_path):
    directory, metafile = parsed_with_first_image(tmp_path, "images/tile.tif")
    (directory / "images").write_text("no directory")
    (missing,) = check_images(metafile, directory).missing
    assert missing.path == directory / "images" / "tile.tif"


def test_an_image_that_cannot_be_used_says_what_to_do_about_it(tmp_path):
    directory, metafile = parsed_with_first_image(tmp_path, "a.tif")
    lerc = Kind(tags={259: (3, [34887])})
    (directory / "a.tif").write_bytes(lerc.file(np.zeros((64, 64), np.uint8)))
    (unreadable,) = check_images(metafile, directory).unreadable
    assert unreadable.why == "a.tif is compressed with LERC (34887), which is not read"
    assert unreadable.hint == "save it uncompressed, or with LZW, Deflate or PackBits"


def test_a_name_that_makes_no_tile_id_is_the_metafiles_fault(tmp_path):
    _, metafile = parsed_with_first_image(tmp_path, "\u202egpj.tif")
    with pytest.raises(MetafileFault, match="makes the tile id") as caught:
        tile_ids_for(metafile, 1.0, TileSpecOptions())
    assert caught.value.subject == metafile.header.metafile_name
