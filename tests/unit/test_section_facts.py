"""Values of a section that its metafile does not contain: from images, from settings and from stacks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from daemon.config.settings import Settings
from daemon.pipeline.steps.section import Section, SectionReader, section_from_content
from handlers.container import Containers
from handlers.errors import Evidence, ImagesMissing
from handlers.images.mrc_header import StackSection
from tests.unit.sections import section as metafile_of_a_section
from tests.unit.test_section import montage_of, section_in, watch_settings

IMAGES = [f"000001\\001_000001_00{beam}_2022-04-27T2317111235567.png" for beam in (1, 2)]
TABLE = "".join(f"{name}\t{100.0 * beam}\t0.0\t0\r\n" for beam, name in enumerate(IMAGES)).encode()


def multisem(root: Path) -> Any:
    watch = {
        "name": "w",
        "format": "multisem",
        "directory": str(root),
        "z": {"rule": "header"},
        "pixel_size_nm": 4.0,
        "stacks": {"raw": "r", "mipmapped": "m"},
        "mipmaps": {"output_dir": str(root.parent / f"{root.name}_mipmaps")},
    }
    render = {"url": "http://render:8080/render-ws/v1", "owner": "em", "project": "v1"}
    return Settings.model_validate({"render": render, "watch": [watch]}).watch[0]


def region_in(root: Path) -> Any:
    montage = montage_of(root)
    directory = root / "wafer_53_scan_003_20220501_08-46-34/012_"
    (directory / "000001").mkdir(parents=True)
    montage.metafile = directory / "full_image_coordinates.txt"
    return montage


def test_sizes_and_the_pixel_size_come_from_an_image_and_the_settings(tmp_path: Path) -> None:
    montage = region_in(tmp_path)
    image = montage.metafile.parent / IMAGES[1].replace("\\", "/")
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(image)
    found = section_from_content(montage, multisem(tmp_path), TABLE)
    assert [(spec["width"], spec["height"]) for spec in found.specs] == [(40, 30)] * 2
    assert found.resolution_nm[:2] == (4.0, 4.0)


def test_a_section_whose_image_size_is_unknown_waits_for_its_first_image(tmp_path: Path) -> None:
    montage = region_in(tmp_path)
    with pytest.raises(ImagesMissing, match="only images contain the size of the tiles") as missing:
        section_from_content(montage, multisem(tmp_path), TABLE)
    first = montage.metafile.parent / IMAGES[0].replace("\\", "/")
    assert missing.value.subject == str(first)
    assert missing.value.evidence == Evidence(first, None)


async def test_a_forgotten_section_is_parsed_again(tmp_path: Path) -> None:
    content = json.dumps(metafile_of_a_section()).encode()
    montage, watch, reader = montage_of(tmp_path, content), watch_settings(tmp_path), SectionReader()
    montage.metafile.write_bytes(content)
    first = await reader.read(montage, watch)
    assert (await reader.read(montage, watch)).acquisition is first.acquisition
    reader.forget(first)
    assert (await reader.read(montage, watch)).acquisition is not first.acquisition


def test_the_distances_of_neighbours_are_those_of_the_tile_specs(tmp_path: Path) -> None:
    watch = watch_settings(tmp_path)
    found = section_in(tmp_path)
    plan = watch.mipmap_plan()
    assert found.neighbours(plan) == {}  # level 3 is not made
    values = {**watch.model_dump(), "mipmaps": {**watch.model_dump()["mipmaps"], "levels": 3}}
    render = {"url": "http://render:8080/render-ws/v1", "owner": "em", "project": "v1"}
    deep = Settings.model_validate({"render": render, "watch": [values]}).watch[0]
    around = found.neighbours(deep.mipmap_plan().contained(Containers()))
    places = {spec["tileId"]: place(spec) for spec in found.specs}
    steps = {(tile, each.side): (each.x, each.y) for tile, all_ in around.items() for each in all_}
    assert steps
    distances = {(b[0] - a[0], b[1] - a[1]) for a in places.values() for b in places.values()}
    assert set(steps.values()) <= distances - {(0.0, 0.0)}


def place(spec: Any) -> tuple[float, float]:
    numbers = spec["transforms"]["specList"][-1]["dataString"].split()
    return float(numbers[4]), float(numbers[5])


def test_level_0_of_an_image_inside_a_stack_is_the_file_that_temwatch_makes_from_it(tmp_path: Path) -> None:
    found = section_in(tmp_path)
    tile = found.level0()[0]
    placed = Section._placed(found, tile, 3)
    stack = str(tile.image).lstrip("/")
    assert placed.image == Path(f"{found.watch.mipmaps.output_dir}/0/{stack}/section_00003.tif")
    assert placed.stack == StackSection(tile.image, 3)
    assert Section._placed(found, tile, None) is tile
