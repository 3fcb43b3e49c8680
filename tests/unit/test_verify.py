"""The comparison of a tile in a stack by `temwatch verify`: each field, with a planted difference."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from handlers.verify import INGEST, Kind, check_tiles, check_transform

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
    """The tile as a stack shows it: with fields that render-ws adds."""
    spec = copy.deepcopy(SPEC) | {"minX": 12.0, "minY": -5.0, "meshCellSize": 64.0}
    change(spec)
    return {"a.7.0": spec}


@pytest.mark.parametrize("name", CHANGES)
def test_each_field_of_a_tile_that_differs_is_reported_once(name):
    change, kind = CHANGES[name]
    (found,) = check_tiles("em/v1/raw", 7.0, [SPEC], shown(change), INGEST)
    assert (found.kind, found.tile_id, found.where, found.start) == (kind, "a.7.0", "em/v1/raw", INGEST)


def test_a_tile_as_it_was_put_has_no_difference_however_render_writes_its_numbers_and_urls():
    def rewrite(spec: Spec) -> None:
        leaf(spec).update(dataString="1.0 0.0 0.0 1.0 12.0 -5.0")
        spec["mipmapLevels"]["0"]["imageUrl"] = "file:/data/a.tif"

    assert list(check_tiles("em/v1/raw", 7.0, [SPEC], shown(), INGEST)) == []
    assert list(check_tiles("em/v1/raw", 7.0, [SPEC], shown(rewrite), INGEST)) == []


def test_an_absent_tile_is_reported_as_missing():
    assert [each.kind for each in check_tiles("em/v1/raw", 7.0, [SPEC], {}, INGEST)] == [Kind.TILE_MISSING]


def test_the_shared_transform_is_compared_too():
    lens = {"id": "lens", "type": "leaf", "className": "c", "dataString": "1 2"}
    for there in ({}, {"lens": {**lens, "dataString": "1 3"}}):
        (found,) = check_transform("em/v1/raw", lens, there, INGEST)
        assert found.kind is Kind.TRANSFORM_DIFFERS
    assert list(check_transform("em/v1/raw", lens, {"lens": lens}, INGEST)) == []
    assert list(check_transform("em/v1/raw", None, {}, INGEST)) == []
