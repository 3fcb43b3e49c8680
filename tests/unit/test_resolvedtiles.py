"""References of tile specs, bodies of uploads, and the comparison of a stack with what was sent."""

import itertools
import json
from typing import Any

import pytest

from handlers.errors import RenderRefused
from handlers.render.tiles import canonical_url, differences, referenced, shared_transforms
from tests.uploads import upload_bodies


def tile(tile_id: str, *refs: str, **more: Any) -> dict[str, Any]:
    transforms = {"type": "list", "specList": [{"type": "ref", "refId": ref} for ref in refs]}
    return {"tileId": tile_id, "z": 1.0, "transforms": transforms} | more


def lens(name: str, *refs: str) -> dict[str, Any]:
    return {"id": name, "type": "list", "specList": [{"type": "ref", "refId": ref} for ref in refs]}


def test_a_duplicate_reference_does_not_hide_later_ones() -> None:
    transforms = {name: lens(name) for name in ("a", "b", "c")} | {"d": lens("d", "a", "c")}
    assert referenced("t", tile("t", "a", "a", "b"), transforms) == ("a", "b")
    assert referenced("t", tile("t", "d", "a", "b"), transforms) == ("d", "a", "b", "c")
    assert set(shared_transforms([tile("t", "a", "a", "b")], transforms)) == {"a", "b"}


def test_the_tile_whose_transform_is_missing_is_named() -> None:
    with pytest.raises(RenderRefused, match=r"tile 't2'.*'x'"):
        shared_transforms([tile("t1"), tile("t2", "x")], {})


@pytest.mark.parametrize("max_bytes", range(300, 1200, 7))
def test_uploads_are_filled_up_to_the_limit_of_bytes_and_do_not_exceed_it(max_bytes: int) -> None:
    transforms = {name: lens(name) | {"note": "n" * 60} for name in ("a", "b")}
    specs = [tile(f"t{number}", "ab"[number // 5], note="n" * (10 * number)) for number in range(10)]
    bodies = upload_bodies(specs, transforms, max_bytes=max_bytes)
    parts = [json.loads(body) for body in bodies]
    assert [name for part in parts for name in part["tileIdToSpecMap"]] == [spec["tileId"] for spec in specs]
    for body, part in zip(bodies, parts, strict=True):
        tiles = part["tileIdToSpecMap"]
        assert set(part["transformIdToSpecMap"]) == {ref for spec in tiles.values() for ref in refs_of(spec)}
        frame = len(b'{"transformIdToSpecMap":{},"tileIdToSpecMap":{}}') - 2  # a comma is counted after each member
        assert len(body) <= max_bytes + frame or len(tiles) == 1
    for part, following in itertools.pairwise(parts):
        next_tile = next(iter(following["tileIdToSpecMap"].values()))
        (longer,) = upload_bodies([*part["tileIdToSpecMap"].values(), next_tile], transforms)
        assert len(longer) > max_bytes


def refs_of(spec: dict[str, Any]) -> set[str]:
    return {ref["refId"] for ref in spec["transforms"]["specList"]}


def affine(data: str) -> dict[str, Any]:
    return {"type": "leaf", "className": "Affine", "dataString": data}


def transformed(*data: str) -> dict[str, Any]:
    return {"transforms": {"type": "list", "specList": [affine(each) for each in data]}}


def test_parameters_of_a_transform_are_equal_if_their_numbers_are() -> None:
    assert list(differences(transformed("1 0", "0 1.50"), transformed("1.0 0", "0.0 1.5"))) == []
    (line,) = differences(transformed("1 0", "0 1.5"), transformed("1 0", "0 1.6"))
    assert line == "transforms.specList[1].dataString: sent '0 1.5', shown '0 1.6'"


def test_texts_are_compared_literally_except_image_urls() -> None:
    assert list(differences({"groupId": "1 0"}, {"groupId": "1.0 0"})) != []
    assert list(differences({"label": "file:/a"}, {"label": "file:///a"})) != []
    assert list(differences({"imageUrl": "file:/a"}, {"imageUrl": "file:///a"})) == []
    assert list(differences({"imageUrl": "file:/a"}, {"imageUrl": 1})) != []
    assert list(differences({"dataString": "1"}, {"dataString": 1})) != []
    assert list(differences({"x": 1}, {"x": "1"})) != []


def test_a_url_that_names_this_machine_is_the_same_file() -> None:
    assert canonical_url("file://localhost/d/a.tif") == canonical_url("file:///d/a.tif") == "file:/d/a.tif"
    assert canonical_url("file://other/d/a.tif") != canonical_url("file:///d/a.tif")
