"""The comparison of tiles, levels and path builders of a stack by `temwatch verify`."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from handlers.difference import INGEST, Kind
from handlers.path_map import PathMap
from handlers.render.responses import PathBuilder
from handlers.verify import check_levels_named, check_path_builder, check_tiles, check_transform

Spec = dict[str, Any]
SPEC: Spec = {
    "tileId": "a.7.0",
    "z": 7.0,
    "width": 100,
    "height": 80,
    "minIntensity": 0,
    "maxIntensity": 255,
    "layout": {"sectionId": "7.0", "temca": "2", "camera": "c", "imageRow": 3, "imageCol": 4, "rotation": 90.0},
    "mipmapLevels": {"0": {"imageUrl": "file:///data/a.tif", "maskUrl": "file:///data/mask.png"}},
    "transforms": {
        "type": "list",
        "specList": [
            {"type": "ref", "refId": "lens"},
            {
                "type": "leaf",
                "className": "mpicbg.trakem2.transform.AffineModel2D",
                "dataString": "1.0000000000 0.0000000000 0.0000000000 1.0000000000 12.0000000000 -5.0000000000",
            },
        ],
    },
}


def leaf(spec: Spec) -> Spec:
    found: Spec = spec["transforms"]["specList"][1]
    return found


CHANGES: dict[str, tuple[Callable[[Spec], object], Kind]] = {
    "z": (lambda spec: spec.update(z=8.0), Kind.TILE_ELSEWHERE),
    "width": (lambda spec: spec.update(width=101), Kind.TILE_DIFFERS),
    "height": (lambda spec: spec.pop("height"), Kind.TILE_DIFFERS),
    "minIntensity": (lambda spec: spec.update(minIntensity=1), Kind.TILE_DIFFERS),
    "maxIntensity": (lambda spec: spec.update(maxIntensity=65535), Kind.TILE_DIFFERS),
    "layout.sectionId": (lambda spec: spec["layout"].update(sectionId="8.0"), Kind.TILE_DIFFERS),
    "layout.imageCol": (lambda spec: spec["layout"].update(imageCol=5), Kind.TILE_DIFFERS),
    "no layout": (lambda spec: spec.pop("layout"), Kind.TILE_DIFFERS),
    "position": (lambda spec: leaf(spec).update(dataString="1 0 0 1 13 -5"), Kind.TILE_DIFFERS),
    "rotation": (lambda spec: leaf(spec).update(dataString="0 1 -1 0 12 -5"), Kind.TILE_DIFFERS),
    "class of a transform": (lambda spec: leaf(spec).update(className="other"), Kind.TILE_DIFFERS),
    "reference": (lambda spec: spec["transforms"]["specList"][0].update(refId="other"), Kind.TILE_DIFFERS),
    "one transform more": (lambda spec: spec["transforms"]["specList"].append(leaf(spec)), Kind.TILE_DIFFERS),
    "image": (lambda spec: spec["mipmapLevels"]["0"].update(imageUrl="file:///x.tif"), Kind.URL_DIFFERS),
    "mask": (lambda spec: spec["mipmapLevels"]["0"].pop("maskUrl"), Kind.URL_MISSING),
}


def shown(change: Callable[[Spec], object] = lambda spec: None) -> dict[str, Spec]:
    """Return the tile as a stack shows it, with fields that render-ws adds."""
    spec = copy.deepcopy(SPEC) | {"minX": 12.0, "minY": -5.0, "meshCellSize": 64.0}
    change(spec)
    return {"a.7.0": spec}


@pytest.mark.parametrize("name", CHANGES)
def test_each_field_of_a_tile_that_differs_is_reported_once(name):
    change, kind = CHANGES[name]
    (found,) = check_tiles("em/v1/raw", 7.0, [SPEC], shown(change), INGEST)
    assert (found.kind, found.tile_id, found.where, found.start) == (kind, "a.7.0", "em/v1/raw", INGEST)


def test_another_form_of_numbers_and_urls_is_no_difference_of_a_tile():
    def rewrite(spec: Spec) -> None:
        leaf(spec).update(dataString="1.0 0.0 0.0 1.0 12.0 -5.0")
        spec["mipmapLevels"]["0"]["imageUrl"] = "file:/data/a.tif"

    assert list(check_tiles("em/v1/raw", 7.0, [SPEC], shown(), INGEST)) == []
    assert list(check_tiles("em/v1/raw", 7.0, [SPEC], shown(rewrite), INGEST)) == []


def test_an_absent_tile_is_reported_as_missing():
    assert [each.kind for each in check_tiles("em/v1/raw", 7.0, [SPEC], {}, INGEST)] == [Kind.TILE_MISSING]


def test_the_shared_transform_is_compared():
    lens = {"id": "lens", "type": "leaf", "className": "c", "dataString": "1 2"}
    for there in ({}, {"lens": {**lens, "dataString": "1 3"}}):
        (found,) = check_transform("em/v1/raw", lens, there, INGEST)
        assert found.kind is Kind.TRANSFORM_DIFFERS
    assert list(check_transform("em/v1/raw", lens, {"lens": lens}, INGEST)) == []
    assert list(check_transform("em/v1/raw", None, {}, INGEST)) == []


def test_a_tile_at_another_z_is_repaired_as_a_missing_one():
    (missing,) = check_tiles("s_raw", 7.0, [SPEC], {}, INGEST)
    (found,) = check_tiles("s_raw", 7.0, [SPEC], shown(lambda spec: spec.update(z=8.0)), INGEST)
    assert (found.what, found.hint, found.start) == ("has z 8.0, expected 7", missing.hint, INGEST)


LEVELS = {1: ("file:///m/1/a.png", None), 2: ("file:///m/2/a.png", "file:///m/2/mask.png")}
NAMED = {
    "0": {"imageUrl": "file:///data/a.tif"},
    "1": {"imageUrl": "file:///m/1/a.png"},
    "2": {"imageUrl": "file:///m/2/a.png", "maskUrl": "file:///m/2/mask.png"},
}


def levels_found(named: dict[str, Spec], *, derived: bool = False) -> list[tuple[Kind, str, str | None]]:
    tiles = {"a": {"mipmapLevels": named}}
    found = check_levels_named("s_mips", {"a": LEVELS, "absent": LEVELS}, tiles, PathMap(), derived=derived)
    return [(each.kind, each.what, each.start) for each in found]


def test_each_level_that_a_tile_does_not_name_or_names_elsewhere_is_reported():
    assert levels_found(NAMED) == []
    assert levels_found({**NAMED, "1": {}}) == [(Kind.URL_MISSING, "level 1's imageUrl is not named", "apply")]
    moved = "level 2's maskUrl is file:///x.png, expected file:///m/2/mask.png"
    entry = {**NAMED["2"], "maskUrl": "file:///x.png"}
    assert levels_found({**NAMED, "2": entry}) == [(Kind.URL_DIFFERS, moved, "apply")]
    masked = "level 1's maskUrl is file:///x.png, expected none"
    assert levels_found({**NAMED, "1": {**NAMED["1"], "maskUrl": "file:///x.png"}}) == [
        (Kind.URL_DIFFERS, masked, "apply")
    ]


def test_levels_that_the_stack_derives_need_not_be_named_and_are_compared_if_they_are():
    assert levels_found({"0": NAMED["0"]}, derived=True) == []
    found = levels_found({"0": NAMED["0"], "1": {"imageUrl": "file:///x.png"}}, derived=True)
    assert [kind for kind, _, _ in found] == [Kind.URL_DIFFERS]


def test_an_additional_level_without_its_file_is_reported(tmp_path):
    (tmp_path / "there.png").touch()
    further = {"3": {"imageUrl": f"file://{tmp_path}/there.png"}, "4": {"imageUrl": f"file://{tmp_path}/missing.png"}}
    (found,) = check_levels_named("s", {"a": LEVELS}, {"a": {"mipmapLevels": {**NAMED, **further}}}, PathMap())
    assert (found.kind, found.tile_id) == (Kind.URL_DEAD, "a")
    assert found.what == f"level 4's imageUrl names a missing file: file://{tmp_path}/missing.png"


BUILDER = PathBuilder(root_path="/m", number_of_levels=6, extension="png")


@pytest.mark.parametrize(
    ("changed", "is_accepted"),
    [
        ({}, True),
        ({"root_path": "/m/"}, True),
        ({"number_of_levels": 7}, True),
        ({"number_of_levels": 5}, False),
        ({"root_path": "/other"}, False),
        ({"extension": "tif"}, False),
        ({"image_mipmap_pattern_string": "x"}, False),
    ],
)
def test_a_path_builder_that_derives_other_levels_is_reported(changed, is_accepted):
    found = list(check_path_builder("s_mips", BUILDER, BUILDER.model_copy(update=changed)))
    assert [(each.kind, each.start) for each in found] == ([] if is_accepted else [(Kind.PATH_BUILDER, "apply")])


def test_a_missing_path_builder_is_reported():
    (found,) = check_path_builder("s_mips", BUILDER, None)
    assert (found.kind, found.what, found.start) == (Kind.PATH_BUILDER, "has no mipmap path builder", "apply")
