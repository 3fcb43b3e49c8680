"""Checks of a metafile and its images: invalid names, missing and unusable images, sizes and depths."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from tiffs import Kind

from daemon.simulator.section import plan_section
from daemon.simulator.temca import write_section
from handlers.acquisition import arrival
from handlers.acquisition.arrival import check_images, depth_warnings, metafile_content, read_metafile
from handlers.acquisition.formats.pytemca import PyTemca
from handlers.acquisition.tilespec import TileSpecOptions, tile_ids_for
from handlers.errors import Evidence, ImageFault, MetafileFault, StorageFault
from handlers.images.header import ImageDirectory


def parsed_with_first_image(place: Path, img_path: str):
    section = write_section(plan_section(tiles=4, size=(64, 64)), place, pixels="flat")
    content = json.loads(section.metafile.read_bytes())
    content[1]["data"][0]["img_path"] = img_path
    return section.directory, PyTemca().parse(json.dumps(content).encode(), section.metafile)


def test_a_name_that_is_longer_than_the_disk_allows_is_a_fault_of_the_metafile(tmp_path):
    directory, acquisition = parsed_with_first_image(tmp_path, "x" * 70_000 + ".tif")
    with pytest.raises(MetafileFault, match="is longer than the disk's limit for names") as caught:
        check_images(acquisition, directory)
    assert caught.value.subject == str(directory)
    assert len(str(caught.value)) < 1000


def test_an_image_below_a_file_instead_of_a_directory_is_missing(tmp_path):
    directory, acquisition = parsed_with_first_image(tmp_path, "images/tile.tif")
    (directory / "images").write_text("no directory")
    (missing,) = check_images(acquisition, directory).missing
    assert missing.path == directory / "images" / "tile.tif"


def test_an_unusable_image_has_a_hint(tmp_path):
    directory, acquisition = parsed_with_first_image(tmp_path, "a.tif")
    lerc = Kind(tags={259: (3, [34887])})
    (directory / "a.tif").write_bytes(lerc.file(np.zeros((64, 64), np.uint8)))
    (unreadable,) = check_images(acquisition, directory).unreadable
    assert unreadable.why == "a.tif is compressed with LERC (34887), which is not supported"
    assert unreadable.hint == "save it uncompressed, or with LZW, Deflate or PackBits"


def test_a_name_that_gives_an_invalid_tile_id_is_a_fault_of_the_metafile(tmp_path):
    _, acquisition = parsed_with_first_image(tmp_path, "\u202egpj.tif")
    with pytest.raises(MetafileFault, match="gives the invalid tile id") as caught:
        tile_ids_for(acquisition, 1.0, TileSpecOptions())
    assert caught.value.subject == acquisition.name


def test_an_image_of_the_wrong_size_fails_the_montage_until_the_file_changes(tmp_path):
    directory, acquisition = parsed_with_first_image(tmp_path, "a.tif")
    image = directory / "a.tif"
    image.write_bytes(Kind().file(np.zeros((32, 48), np.uint8)))
    with pytest.raises(ImageFault, match="should have 64x64 pixels by the metafile, has 48x32") as caught:
        check_images(acquisition, directory)
    assert caught.value.subject == str(image)
    assert caught.value.evidence == Evidence.of(image)


def test_an_image_of_the_wrong_size_with_a_placeholder_time_is_still_arriving(tmp_path):
    directory, acquisition = parsed_with_first_image(tmp_path, "a.tif")
    image = directory / "a.tif"
    image.write_bytes(Kind().file(np.zeros((32, 48), np.uint8)))
    os.utime(image, (0, 0))
    found = check_images(acquisition, directory)
    identity = Evidence.of(image).identity
    assert [(each.path, each.identity) for each in found.unreadable] == [(image, identity)]
    assert [(each.path, each.identity) for each in found.placeholders] == [(image, identity)]


def test_a_disk_failure_during_inspection_names_the_image(tmp_path, monkeypatch):
    directory, acquisition = parsed_with_first_image(tmp_path, "a.tif")

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(ImageDirectory, "inspect", fail)
    with pytest.raises(StorageFault, match="Input/output error") as caught:
        check_images(acquisition, directory)
    assert caught.value.subject == str(directory / "a.tif")


def test_depths_that_contradict_the_maximum_intensity_give_warnings():
    assert depth_warnings(frozenset({16}), 65535) == []
    assert depth_warnings(frozenset({8}), 255) == []
    assert depth_warnings(frozenset(), 256) == []
    (line,) = depth_warnings(frozenset({8, 16}), 255)
    assert "8 and 16 bits" in line
    (line,) = depth_warnings(frozenset({16}), 255)
    assert "all values above 255 white" in line
    (line,) = depth_warnings(frozenset({8}), 256)
    assert "displays only 256 white" in line


def test_a_metafile_may_reach_the_size_limit_but_not_exceed_it(tmp_path, monkeypatch):
    monkeypatch.setattr(arrival, "MAX_METAFILE_BYTES", 10)
    path = tmp_path / "m.json"
    path.write_bytes(b"0123456789")
    assert metafile_content(path) == b"0123456789"
    path.write_bytes(b"0123456789a")
    with pytest.raises(MetafileFault, match="should have at most 96 MiB, has more") as caught:
        metafile_content(path)
    assert caught.value.subject == str(path)


async def test_a_link_in_place_of_a_metafile_is_followed_only_on_request(tmp_path):
    (tmp_path / "m.json").write_bytes(b"content")
    link = tmp_path / "link.json"
    link.symlink_to("m.json")
    assert await read_metafile(link, follow_links=True) == b"content"
    with pytest.raises(MetafileFault, match="is not a regular file"):
        await read_metafile(link)
    with pytest.raises(StorageFault) as caught:
        await read_metafile(tmp_path / "gone.json")
    assert caught.value.subject == str(tmp_path / "gone.json")
    assert isinstance(caught.value.__cause__, FileNotFoundError)
