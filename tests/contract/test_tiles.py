"""Tiles of a stack: accepted and refused tiles, bounds, replacement, reading, deletion."""

import json
from typing import Any

import pytest

from tests.contract.conftest import StackUnderTest, affine, ref, tile, upload

LENS = affine(1, 0, 0, 1, 0, 0, id="lens", metaData={"labels": ["lens"]})
BOUNDS = ("minX", "minY", "maxX", "maxY")


def bounds_of(spec: dict[str, Any]) -> tuple[float, ...]:
    return tuple(spec[key] for key in BOUNDS)


async def stored(stack: StackUnderTest, tile_id: str) -> dict[str, Any]:
    spec: dict[str, Any] = (await stack.send("GET", f"/tile/{tile_id}")).json
    return spec


# -- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/resolvedTiles", "/z/1.0/resolvedTiles"])
async def test_an_upload_is_answered_with_201_and_its_own_address_without_a_body(
    stack: StackUnderTest, path: str
) -> None:
    answer = await stack.send("PUT", f"{path}?deriveData=true", upload(tile("a")))
    assert (answer.status, answer.text) == (201, "")
    assert answer.headers["Location"].endswith(f"{stack.path}{path}?deriveData=true")
    assert await stack.tile_ids() == ["a"]


async def test_an_upload_without_a_body_is_refused_with_a_reason(stack: StackUnderTest) -> None:
    for path in ("/resolvedTiles", "/z/1.0/resolvedTiles"):
        answer = await stack.send("PUT", path)
        assert (*answer.outcome, answer.text) == (400, "text/plain", "no resolved tiles provided")


@pytest.mark.parametrize(
    "body",
    [
        b'{"tileIdToSpecMap": {',
        b"nonsense",
        b"[]",
        b'{"tileIdToSpecMap": []}',
        b'{"tileIdToSpecMap": {"a": {"tileId": "a", "z": NaN}}}',
        b'{"tileIdToSpecMap": {"a": {"tileId": "a", "width": -Infinity}}}',
        b'{"tileIdToSpecMap": {"a": {"tileId": "a", "z": "deep"}}}',
        b'{"tileIdToSpecMap": {"a": {"tileId": "a", "layout": 3}}}',
        b'{"tileIdToSpecMap": {"a": {"tileId": "a", "transforms": []}}}',
        b'{"tileIdToSpecMap": {"a": {"tileId": "a", "transforms": {"specList": []}}}}',
        b'{"tileIdToSpecMap": {"a": {"tileId": "a", "mipmapLevels": {"zero": {}}}}}',
    ],
)
async def test_an_invalid_upload_is_refused_in_html_before_the_stack_is_checked(
    stack: StackUnderTest, other: StackUnderTest, body: bytes
) -> None:
    for either in (stack, other):
        answer = await either.send("PUT", "/z/1.0/resolvedTiles?deriveData=true", body)
        assert answer.outcome == (400, "text/html"), answer


async def test_an_upload_to_a_closed_stack_is_refused_with_500(stack: StackUnderTest) -> None:
    await stack.put(tile("a"))
    for state in ("COMPLETE", "READ_ONLY"):
        await stack.state(state)
        for path in ("/resolvedTiles", "/z/1.0/resolvedTiles"):
            answer = await stack.send("PUT", path, upload(tile("b")))
            assert answer.outcome == (500, "text/plain")
            assert answer.text == (
                f"Resolved tiles can only be saved to stacks in the LOADING state, but this stack's state is {state}."
            )


async def test_an_upload_without_tiles_is_refused(stack: StackUnderTest) -> None:
    for body in ({}, upload(), upload(transforms=(LENS,))):
        answer = await stack.send("PUT", "/resolvedTiles", body)
        assert answer.outcome == (400, "text/plain")
        assert answer.text.startswith("collection does not have any tiles")


async def test_a_tile_without_bounds_is_refused_unless_bounds_are_derived(stack: StackUnderTest) -> None:
    for query in ("", "?deriveData=false", "?deriveData=1", "?deriveData=yes"):
        answer = await stack.send("PUT", f"/resolvedTiles{query}", upload(tile("a")))
        assert answer.outcome == (400, "text/plain")
        assert "is missing bounding box attributes" in answer.text
        assert "a" in answer.text
    for query in ("?deriveData=true", "?deriveData=TRUE"):
        assert (await stack.send("PUT", f"/resolvedTiles{query}", upload(tile("a")))).status == 201


async def test_uploaded_bounds_are_kept_unless_bounds_are_derived(stack: StackUnderTest) -> None:
    own = tile("a", minX=0.25, minY=-3.5, maxX=7.0, maxY=8.0)
    assert (await stack.send("PUT", "/resolvedTiles", upload(own))).status == 201
    assert bounds_of(await stored(stack, "a")) == (0.25, -3.5, 7.0, 8.0)
    await stack.put(own)
    assert bounds_of(await stored(stack, "a")) == (0.0, 0.0, 100.0, 80.0)


async def test_an_upload_to_a_layer_is_refused_if_a_tile_has_another_z_or_none(stack: StackUnderTest) -> None:
    path = "/z/1050.0/resolvedTiles?deriveData=true"
    answer = await stack.send("PUT", path, upload(tile("T", z=1051.0)))
    assert answer.outcome == (400, "text/plain")
    assert answer.text.startswith(
        "all tiles must have a z value of 1050.0 but tile with id 'T' has a z value of 1051.0"
    )
    assert (await stack.send("PUT", path, upload(tile("a", z=1050.0), tile("b", z=None)))).status == 400
    assert (await stack.send("GET", "/tileIds")).json == []


async def test_a_tile_without_z_is_in_the_stack_and_in_no_layer(stack: StackUnderTest) -> None:
    await stack.put(tile("a", z=None), tile("b"))
    assert (await stack.send("GET", "/zValues")).json == [1.0]
    assert (await stored(stack, "a"))["tileId"] == "a"
    assert await stack.tile_ids() == ["b"]


async def test_an_upload_without_the_transforms_that_its_tiles_refer_to_is_refused(stack: StackUnderTest) -> None:
    await stack.put(tile("a", ref("lens")), transforms=(LENS,))
    for query in ("", "?deriveData=true"):
        spec = tile("T", ref("lens"), ref("other"), minX=0, minY=0, maxX=1, maxY=1)
        answer = await stack.send("PUT", f"/resolvedTiles{query}", upload(spec, transforms=(LENS,)))
        assert answer.outcome == (400, "text/plain")
        assert "tile T requires the following transform ids [other]" in answer.text
        answer = await stack.send("PUT", f"/resolvedTiles{query}", upload(spec))
        assert answer.status == 400
    assert await stack.tile_ids() == ["a"]


async def test_an_upload_replaces_all_fields_of_a_tile_and_changes_no_other_tile(stack: StackUnderTest) -> None:
    await stack.put(tile("a", groupId="g", labels=["patched"]), tile("b"))
    before = await stored(stack, "b")
    await stack.put(tile("a"))
    spec = await stored(stack, "a")
    assert "groupId" not in spec
    assert "labels" not in spec
    assert await stored(stack, "b") == before


async def test_a_tile_that_is_uploaded_with_another_z_moves_to_it(stack: StackUnderTest) -> None:
    await stack.put(tile("a"))
    await stack.put(tile("a", z=2.5))
    assert (await stack.tile_ids(1.0), await stack.tile_ids(2.5)) == ([], ["a"])
    assert (await stack.send("GET", "/zValues")).json == [2.5]


async def test_the_tile_id_is_read_from_the_tile_spec_and_not_from_the_key(stack: StackUnderTest) -> None:
    body = {"tileIdToSpecMap": {"key": tile("inner")}}
    assert (await stack.send("PUT", "/resolvedTiles?deriveData=true", body)).status == 201
    assert await stack.tile_ids() == ["inner"]


async def test_shared_transforms_are_replaced_by_id_and_stay_when_their_tiles_are_deleted(
    stack: StackUnderTest,
) -> None:
    await stack.put(tile("a", ref("lens")), transforms=(LENS,))
    changed = affine(1, 0, 0, 1, 5, 0, id="lens")
    await stack.put(tile("b", ref("lens")), transforms=(changed,))
    assert (await stack.send("GET", "/transform/lens")).json["dataString"] == "1 0 0 1 5 0"
    assert bounds_of(await stored(stack, "a"))[0] == 0.0
    await stack.send("DELETE", "/z/1")
    assert (await stack.send("GET", "/transform/lens")).status == 200


async def test_null_is_not_accepted_in_place_of_an_omitted_field(stack: StackUnderTest) -> None:
    body = upload({**tile("a"), "transforms": None})
    assert (await stack.send("PUT", "/resolvedTiles?deriveData=true", body)).status == 500


# -- stored fields --------------------------------------------------------------------------------------------------


async def test_a_tile_is_returned_as_it_was_uploaded_with_bounds_and_mesh_cell_size(stack: StackUnderTest) -> None:
    layout = {
        "sectionId": "1050.0",
        "temca": "5",
        "camera": "c1",
        "imageRow": 3,
        "imageCol": 4,
        "stageX": 1.5,
        "stageY": 2.5,
        "rotation": 0.5,
        "pixelsize": 4.0,
        "distanceZ": 45.0,
    }
    levels = {
        "0": {"imageUrl": "file:///d/a.tif", "maskUrl": "file:///d/m.png", "imageLoaderType": "IMAGEJ_DEFAULT"},
        "1": {"imageUrl": "file:///m/1/a.tif"},
    }
    sent = tile(
        "a_0001.1050.0",
        ref("lens"),
        affine(1, 0, 0, 1, 123, 456),
        z=1050.0,
        minIntensity=0,
        maxIntensity=255,
        groupId="g",
        labels=["patched"],
        layout=layout,
        mipmapLevels=levels,
    )
    await stack.put(sent, transforms=(LENS,))
    assert await stored(stack, "a_0001.1050.0") == {
        **sent,
        "minX": 123.0,
        "minY": 456.0,
        "maxX": 223.0,
        "maxY": 536.0,
        "meshCellSize": 64.0,
    }
    assert (await stack.send("GET", "/transform/lens")).json == LENS


async def test_unknown_fields_of_tiles_are_dropped(stack: StackUnderTest) -> None:
    await stack.put(tile("a", ourOwn=1, layout={"sectionId": "1.0", "focus": 2}, meshCellSize=32.0))
    spec = await stored(stack, "a")
    assert "ourOwn" not in spec
    assert spec["layout"] == {"sectionId": "1.0"}
    assert spec["meshCellSize"] == 32.0


async def test_numbers_and_strings_are_converted_to_the_type_of_the_field(stack: StackUnderTest) -> None:
    await stack.put(tile("a", width="100", layout={"sectionId": 1050, "imageRow": 3.7, "temca": 5}))
    spec = await stored(stack, "a")
    assert spec["width"] == 100
    assert spec["layout"] == {"sectionId": "1050", "imageRow": 3, "temca": "5"}


async def test_a_transform_without_a_type_is_a_leaf(stack: StackUnderTest) -> None:
    untyped = {key: value for key, value in affine(1, 0, 0, 1, 7, 0).items() if key != "type"}
    await stack.put(tile("a", untyped))
    spec = await stored(stack, "a")
    assert spec["minX"] == 7.0
    assert spec["transforms"]["specList"][0]["dataString"] == "1 0 0 1 7 0"


# -- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transforms", "expected"),
    [
        ((), (0, 0, 100, 80)),
        ((affine(1, 0, 0, 1, 123, -456),), (123, -456, 223, -376)),
        ((affine(1, 0, 0, 1, 3.7, -3.7),), (3, -3, 103, 77)),
        ((affine(1.25, 0, 0, 0.5, 0, 0),), (0, 0, 125, 40)),
        ((affine(0, 1, -1, 0, 0, 0),), (-80, 0, 0, 100)),
        ((affine(1, 0, 0, 1, 10, 0), affine(2, 0, 0, 2, 0, 0)), (20, 0, 220, 160)),
        ((ref("shift"), affine(1, 0, 0, 1, 1, 0)), (11, 20, 111, 100)),
        (({"type": "list", "specList": [ref("shift"), affine(1, 0, 0, 1, 0, 5)]},), (10, 25, 110, 105)),
    ],
)
async def test_bounds_are_truncated_toward_zero_and_their_extent_rounded_up(
    stack: StackUnderTest, transforms: tuple[dict[str, Any], ...], expected: tuple[float, ...]
) -> None:
    await stack.put(tile("a", *transforms), transforms=(affine(1, 0, 0, 1, 10, 20, id="shift"),))
    assert bounds_of(await stored(stack, "a")) == expected


async def test_bounds_of_a_tile_without_a_width_cannot_be_derived(stack: StackUnderTest) -> None:
    answer = await stack.send("PUT", "/resolvedTiles?deriveData=true", upload(tile("a", width=None)))
    assert answer.outcome == (500, "text/plain")
    assert "width and height must be set" in answer.text


async def test_transforms_are_interpreted_only_to_derive_bounds(stack: StackUnderTest) -> None:
    strange = tile("a", {"type": "leaf", "className": "no.such.Model", "dataString": "1"})
    assert (await stack.send("PUT", "/resolvedTiles?deriveData=true", upload(strange))).outcome == (400, "text/plain")
    bounded = {**strange, "minX": 0, "minY": 0, "maxX": 1, "maxY": 1}
    assert (await stack.send("PUT", "/resolvedTiles", upload(bounded))).status == 201


# -- reading ---------------------------------------------------------------------------------------------------------


async def test_an_empty_layer_has_empty_lists_and_requests_for_its_tiles_and_bounds_are_refused(
    stack: StackUnderTest,
) -> None:
    for path in ("/zValues", "/z/7.5/tileBounds", "/z/7.5/sectionData", "/section/s/tileBounds", "/tileIds"):
        answer = await stack.send("GET", path)
        assert (answer.status, answer.json) == (200, []), path
    for path, status in (
        ("/z/7.5/resolvedTiles", 404),
        ("/resolvedTiles", 404),
        ("/section/s/z", 404),
        ("/tile/a", 404),
        ("/transform/t", 404),
        ("/z/7.5/bounds", 400),
        ("/z/7.5/tile-specs", 400),
    ):
        assert (await stack.send("GET", path)).outcome == (status, "text/plain"), path
    answer = await stack.send("GET", "/z/7.5/bounds")
    assert answer.text == f"stack {stack.name} does not contain any tiles with a z value of 7.5"


@pytest.mark.parametrize("z", ["1050", "1050.0", "1050.000000", "1.05e3", "1050.0d"])
async def test_z_is_parsed_as_java_parses_a_double(stack: StackUnderTest, z: str) -> None:
    await stack.put(tile("a", z=1050.0))
    assert [row["tileId"] for row in (await stack.send("GET", f"/z/{z}/tileBounds")).json] == ["a"]


@pytest.mark.parametrize("z", ["deep", "1,5", "1_0", "inf"])
async def test_a_z_that_is_not_a_number_is_answered_with_404_without_a_body_whether_the_stack_exists_or_not(
    stack: StackUnderTest, other: StackUnderTest, z: str
) -> None:
    for either in (stack, other):
        for method, path in (("GET", f"/z/{z}/tileBounds"), ("DELETE", f"/z/{z}"), ("GET", f"/zValues?minZ={z}")):
            answer = await either.send(method, path)
            assert (*answer.outcome, answer.text) == (404, "", ""), path
        assert (await either.send("PUT", f"/z/{z}/resolvedTiles", upload(tile("a")))).outcome == (404, "")


async def test_layers_are_read_by_tile_by_section_and_as_a_whole(stack: StackUnderTest) -> None:
    await stack.put(
        tile("a", ref("lens"), layout={"sectionId": "s"}),
        tile("b", affine(1, 0, 0, 1, 200, 10), layout={"sectionId": "s"}),
        tile("c", layout={"sectionId": "r"}),
        tile("d", z=2.0, layout={"sectionId": "s"}),
        transforms=(LENS, affine(1, 0, 0, 1, 0, 0, id="unused")),
    )
    row = {"tileId": "b", "sectionId": "s", "z": 1.0, "minX": 200.0, "minY": 10.0, "maxX": 300.0, "maxY": 90.0}
    bounds = (await stack.send("GET", "/z/1/tileBounds")).json
    assert [found for found in bounds if found["tileId"] == "b"] == [row]
    assert sorted(found["tileId"] for found in bounds) == ["a", "b", "c"]
    by_section = (await stack.send("GET", "/section/s/tileBounds")).json
    assert sorted(found["tileId"] for found in by_section) == ["a", "b", "d"]
    assert (await stack.send("GET", "/section/r/z")).json == 1.0
    assert (await stack.send("GET", "/z/1/bounds")).json == {
        "minX": 0.0,
        "minY": 0.0,
        "minZ": 1.0,
        "maxX": 300.0,
        "maxY": 90.0,
        "maxZ": 1.0,
    }
    sections = (await stack.send("GET", "/z/1/sectionData")).json
    assert sorted((found["sectionId"], found["tileCount"]) for found in sections) == [("r", 1), ("s", 2)]
    assert sorted((await stack.send("GET", "/zValues")).json) == [1.0, 2.0]
    assert (await stack.send("GET", "/zValues?minZ=1.5")).json == [2.0]
    layer = (await stack.send("GET", "/z/1/resolvedTiles")).json
    assert sorted(layer["tileIdToSpecMap"]) == ["a", "b", "c"]
    assert layer["transformIdToSpecMap"] == {"lens": LENS}
    assert layer["tileIdToSpecMap"]["a"]["transforms"]["specList"] == [ref("lens")]


async def test_the_whole_stack_is_read_by_z_group_and_box(stack: StackUnderTest) -> None:
    await stack.put(
        tile("a", groupId="g"),
        tile("b", affine(1, 0, 0, 1, 200, 0)),
        tile("c", z=2.0),
    )

    async def ids(query: str) -> list[str]:
        return sorted((await stack.send("GET", f"/resolvedTiles?{query}")).json["tileIdToSpecMap"])

    assert await ids("") == ["a", "b", "c"]
    assert await ids("minZ=1.5") == ["c"]
    assert await ids("maxZ=1.5") == ["a", "b"]
    assert await ids("groupId=g") == ["a"]
    assert await ids("minX=150&maxX=250&minY=0&maxY=10") == ["b"]
    assert (await stack.send("GET", "/z/1/box/0,0,150,10,1/tile-count")).status == 404
    assert (await stack.send("GET", "/z/1/box/0,0,150,10/tile-count")).json == 1
    assert (await stack.send("GET", "/tileIds?matchPattern=%5B%5Ea%5D&maxZ=1")).json == ["b"]


async def test_flattened_tile_specs_contain_their_transforms_instead_of_references(stack: StackUnderTest) -> None:
    await stack.put(tile("a", ref("lens"), affine(1, 0, 0, 1, 5, 6)), transforms=(LENS,))
    specs = (await stack.send("GET", "/z/1/tile-specs")).json
    assert [spec["tileId"] for spec in specs] == ["a"]
    assert [leaf["dataString"] for leaf in specs[0]["transforms"]["specList"]] == ["1 0 0 1 0 0", "1 0 0 1 5 6"]
    assert (await stack.send("PUT", "/tile-specs-with-ids", ["a", "b"])).json == specs


async def test_the_answer_for_a_missing_tile_names_the_tile_and_its_collection(stack: StackUnderTest) -> None:
    answer = await stack.send("GET", "/tile/T")
    assert answer.outcome == (404, "text/plain")
    assert answer.text.startswith("tile spec with id 'T' does not exist in the render.")
    assert answer.text.endswith(f"__{stack.name}__tile collection")


async def test_a_tile_id_may_contain_any_character_except_a_slash(stack: StackUnderTest) -> None:
    await stack.put(tile("a;b c%20ü#?+&=.1050.0"))
    answer = await stack.send("GET", "/tile/a%3Bb%20c%2520%C3%BC%23%3F%2B%26%3D.1050.0")
    assert answer.json["tileId"] == "a;b c%20ü#?+&=.1050.0"


async def test_a_missing_stack_has_no_tile_ids(absent: StackUnderTest) -> None:
    answer = await absent.send("GET", "/tileIds")
    assert (answer.status, answer.json) == (200, [])


async def test_lists_are_compact_and_single_objects_are_indented(stack: StackUnderTest) -> None:
    await stack.put(tile("a"))
    for path in ("/z/1/tileBounds", "/z/1/resolvedTiles"):
        answer = await stack.send("GET", path)
        assert answer.media_type == "application/json"
        assert answer.text == json.dumps(answer.json, separators=(",", ":"))
    assert "\n" in (await stack.send("GET", "/tile/a")).text
    assert "\n" in (await stack.send("GET")).text


# -- moving and deleting ---------------------------------------------------------------------------------------------


async def test_putting_tile_ids_to_a_layer_moves_them_there(stack: StackUnderTest) -> None:
    await stack.put(tile("a"), tile("b"))
    assert (await stack.send("PUT", "/z/9/tileIds", ["a"])).status == 201
    assert (await stack.tile_ids(9.0), await stack.tile_ids(1.0)) == (["a"], ["b"])
    assert (await stored(stack, "a"))["layout"]["sectionId"] == "1.0"
    assert (await stack.send("PUT", "/section/1.0/z", 3.5)).status == 201
    assert await stack.tile_ids(3.5) == ["a", "b"]
    await stack.state("COMPLETE")
    assert (await stack.send("PUT", "/z/9/tileIds", ["a"])).outcome == (500, "text/plain")
    assert (await stack.send("PUT", "/section/1.0/z", 3.5)).outcome == (500, "text/plain")


async def test_tiles_are_deleted_by_layer_by_section_and_by_id(stack: StackUnderTest) -> None:
    await stack.put(tile("a"), tile("b"), tile("c", z=2.0), tile("d", z=3.0, layout={"sectionId": "s"}))
    for path in ("/z/2", "/z/2", "/section/s", "/section/s", "/tile/a", "/tile/a"):
        answer = await stack.send("DELETE", path)
        assert (answer.status, answer.text) == (200, ""), path
    assert (await stack.send("GET", "/tileIds")).json == ["b"]


async def test_deleting_from_a_closed_stack_is_refused(stack: StackUnderTest) -> None:
    await stack.put(tile("a"))
    await stack.state("COMPLETE")
    for path in ("/z/1", "/section/1.0", "/tile/a"):
        answer = await stack.send("DELETE", path)
        assert answer.outcome == (400, "text/plain"), path
        assert "COMPLETE" in answer.text
        assert "LOADING" in answer.text
    assert await stack.tile_ids() == ["a"]
