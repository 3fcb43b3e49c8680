"""Stacks: names, versions, states, derived data, lists."""

import asyncio
import re
from typing import Any

import pytest

from tests.contract.conftest import OWNER, PROJECT, Service, StackUnderTest, affine, ref, tile, upload

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
BUILDER = {"rootPath": "/m", "numberOfLevels": 6, "extension": "tif"}

# -- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a__b", "_a", "a_", "a-b", "a.b", "a%20b", "%C3%A4"])
async def test_a_name_that_is_not_letters_and_digits_joined_by_single_underscores_is_refused(
    service: Service, name: str
) -> None:
    for path in (
        f"/owner/{OWNER}/project/{PROJECT}/stack/{name}",
        f"/owner/{OWNER}/project/{name}/stack/s",
        f"/owner/{name}/project/{PROJECT}/stack/s",
    ):
        for method, body in (("POST", {}), ("GET", None), ("DELETE", None)):
            answer = await service.send(method, path, body)
            assert answer.outcome == (400, "text/plain"), (method, path)
            assert "names may only contain alphanumeric or underscore" in answer.text


async def test_names_of_owner_project_and_stack_with_more_than_96_characters_together_are_refused(
    service: Service,
) -> None:
    longest = "n" * (96 - len(OWNER) - len(PROJECT))
    path = f"/owner/{OWNER}/project/{PROJECT}/stack/{longest}"
    assert (await service.send("GET", path)).outcome == (404, "text/plain")
    answer = await service.send("POST", f"{path}n", {})
    assert answer.outcome == (400, "text/plain")
    assert "must be less than 111 characters" in answer.text


# -- creation and versions -------------------------------------------------------------------------------------------


async def test_a_created_stack_is_loading_and_the_answer_is_201_without_a_body(absent: StackUnderTest) -> None:
    answer = await absent.send(
        "POST", "", {"createTimestamp": "2024-05-06T07:08:09.123Z", "versionNotes": "n", "stackResolutionX": 4}
    )
    assert answer.status == 201
    assert answer.text == ""
    assert answer.headers["Location"].endswith(absent.path)
    meta = await absent.meta()
    assert meta["stackId"] == {"owner": OWNER, "project": PROJECT, "stack": absent.name}
    assert (meta["state"], meta["currentVersionNumber"]) == ("LOADING", 0)
    assert meta["currentVersion"] == {
        "createTimestamp": "2024-05-06T07:08:09.123Z",
        "versionNotes": "n",
        "stackResolutionX": 4.0,
    }
    assert TIMESTAMP.fullmatch(meta["lastModifiedTimestamp"])
    assert "stats" not in meta


async def test_an_empty_json_object_creates_a_stack_and_an_empty_body_does_not(
    absent: StackUnderTest,
) -> None:
    answer = await absent.send("POST")
    assert answer.outcome == (400, "text/plain")
    assert answer.text == "no stack version provided"
    assert (await absent.send("POST", "", {})).status == 201
    assert (await absent.meta())["currentVersion"] == {}


async def test_unknown_fields_of_a_version_are_dropped(absent: StackUnderTest) -> None:
    await absent.create(somethingElse=1, cycleNumber="3")
    version = (await absent.meta())["currentVersion"]
    assert "somethingElse" not in version
    assert version["cycleNumber"] == 3


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("2024-05-06T07:08:09.123Z", "2024-05-06T07:08:09.123Z"),
        ("2024-05-06T07:08:09.123456Z", "2024-05-06T07:10:12.456Z"),
        (1714979289123, "2024-05-06T07:08:09.123Z"),
    ],
)
async def test_all_digits_after_the_seconds_count_as_milliseconds(
    absent: StackUnderTest, sent: Any, stored: str
) -> None:
    assert (await absent.send("POST", "", {"createTimestamp": sent})).status == 201
    assert (await absent.meta())["currentVersion"]["createTimestamp"] == stored


@pytest.mark.parametrize("sent", ["2024-05-06T07:08:09Z", "2024-05-06T07:08:09.123+00:00", "2024-05-06", "soon"])
async def test_a_creation_time_in_another_form_is_refused(absent: StackUnderTest, sent: str) -> None:
    assert (await absent.send("POST", "", {"createTimestamp": sent})).outcome == (400, "text/html")
    assert (await absent.send("GET")).status == 404


async def test_posting_again_keeps_the_tiles_and_replaces_all_values(stack: StackUnderTest) -> None:
    await stack.send("PUT", "/resolutionValues", [4, 4, 45])
    await stack.put(tile("a"))
    assert (await stack.state("COMPLETE")).status == 201
    await stack.create(versionNotes="again")
    meta = await stack.meta()
    assert (meta["state"], meta["currentVersionNumber"]) == ("LOADING", 1)
    assert set(meta["currentVersion"]) == {"createTimestamp", "versionNotes"}
    assert "stats" not in meta
    assert await stack.tile_ids() == ["a"]


async def test_a_request_to_a_missing_stack_is_answered_with_404_in_plain_text(absent: StackUnderTest) -> None:
    problem = f"stack with owner '{OWNER}', project '{PROJECT}', and name '{absent.name}' does not exist"
    for method, path, body in (
        ("GET", "", None),
        ("PUT", "/state/COMPLETE", None),
        ("PUT", "/resolvedTiles", upload(tile("a"))),
        ("GET", "/z/1/resolvedTiles", None),
        ("GET", "/z/1/tileBounds", None),
        ("GET", "/zValues", None),
        ("GET", "/sectionData", None),
        ("GET", "/bounds", None),
        ("GET", "/mipmapPathBuilder", None),
        ("PUT", "/resolutionValues", [1, 2, 3]),
        ("DELETE", "/z/1", None),
        ("DELETE", "/tile/a", None),
    ):
        answer = await absent.send(method, path, body)
        assert answer.outcome == (404, "text/plain"), (method, path)
        assert problem in answer.text, (method, path)


async def test_deleting_a_stack_deletes_its_tiles_and_can_be_repeated(stack: StackUnderTest) -> None:
    await stack.put(tile("a"))
    for _ in range(2):
        answer = await stack.send("DELETE")
        assert (answer.status, answer.text) == (200, "")
    await stack.create()
    assert await stack.tile_ids() == []
    assert (await stack.meta())["currentVersionNumber"] == 0


# -- states ----------------------------------------------------------------------------------------------------------

STATES_TO_SET = {
    "LOADING": (),
    "COMPLETE": ("COMPLETE",),
    "READ_ONLY": ("COMPLETE", "READ_ONLY"),
    "OFFLINE": ("COMPLETE", "OFFLINE"),
}


async def bring_to(stack: StackUnderTest, state: str) -> None:
    await stack.put(tile("a"))
    for step in STATES_TO_SET[state]:
        assert (await stack.state(step)).status == 201
    assert (await stack.meta())["state"] == state


@pytest.mark.parametrize(
    ("start", "wanted"),
    [
        ("LOADING", "LOADING"),
        ("LOADING", "COMPLETE"),
        ("COMPLETE", "LOADING"),
        ("COMPLETE", "COMPLETE"),
        ("COMPLETE", "READ_ONLY"),
        ("COMPLETE", "OFFLINE"),
        ("READ_ONLY", "COMPLETE"),
        ("READ_ONLY", "READ_ONLY"),
        ("READ_ONLY", "OFFLINE"),
        ("OFFLINE", "OFFLINE"),
    ],
)
async def test_a_legal_change_of_state_answers_201_without_a_body(
    stack: StackUnderTest, start: str, wanted: str
) -> None:
    await bring_to(stack, start)
    answer = await stack.state(wanted)
    assert (answer.status, answer.text) == (201, "")
    assert (await stack.meta())["state"] == wanted


@pytest.mark.parametrize(
    ("start", "wanted"),
    [
        ("LOADING", "READ_ONLY"),
        ("LOADING", "OFFLINE"),
        ("READ_ONLY", "LOADING"),
        ("OFFLINE", "LOADING"),
        ("OFFLINE", "READ_ONLY"),
    ],
)
async def test_an_illegal_change_of_state_is_refused_with_a_reason(
    stack: StackUnderTest, start: str, wanted: str
) -> None:
    await bring_to(stack, start)
    answer = await stack.state(wanted)
    assert answer.outcome == (400, "text/plain")
    assert answer.text == (
        f"The {stack.name} stack's state is currently {start} and must first be transitioned to COMPLETE "
        f"before transitioning it to {wanted}."
    )
    assert (await stack.meta())["state"] == start


async def test_an_offline_stack_has_lost_its_tiles_and_cannot_be_completed(stack: StackUnderTest) -> None:
    await bring_to(stack, "OFFLINE")
    answer = await stack.send("GET", "/z/1.0/tileBounds")
    assert answer.outcome == (404, "text/plain")
    assert "does not exist" in answer.text
    assert (await stack.send("GET", "/zValues")).json == []
    assert (await stack.state("COMPLETE")).status in (400, 500)
    assert (await stack.meta())["state"] == "OFFLINE"
    await stack.create()
    assert (await stack.meta())["state"] == "LOADING"


@pytest.mark.parametrize("state", ["complete", "DONE"])
async def test_an_unknown_state_is_answered_with_404_without_a_body_whether_the_stack_exists_or_not(
    stack: StackUnderTest, other: StackUnderTest, state: str
) -> None:
    for either in (stack, other):
        answer = await either.state(state)
        assert (*answer.outcome, answer.text) == (404, "", "")


async def test_reopening_drops_the_statistics_and_increments_the_version(stack: StackUnderTest) -> None:
    await bring_to(stack, "COMPLETE")
    before = await stack.meta()
    await asyncio.sleep(0.002)  # times are rounded to milliseconds
    await stack.state("LOADING")
    after = await stack.meta()
    assert "stats" not in after
    assert after["currentVersionNumber"] == before["currentVersionNumber"] + 1
    assert after["lastModifiedTimestamp"] > before["lastModifiedTimestamp"]
    await stack.state("LOADING")
    assert await stack.meta() == after


async def test_making_a_stack_read_only_and_complete_again_changes_only_its_state(stack: StackUnderTest) -> None:
    await bring_to(stack, "COMPLETE")
    before = await stack.meta()
    await stack.state("READ_ONLY")
    assert await stack.meta() == {**before, "state": "READ_ONLY"}
    await stack.state("COMPLETE")
    assert await stack.meta() == before


async def test_completing_again_keeps_the_version_and_the_time(stack: StackUnderTest) -> None:
    await bring_to(stack, "COMPLETE")
    before = await stack.meta()
    await stack.state("COMPLETE")
    assert await stack.meta() == before


async def test_writing_tiles_changes_no_time(stack: StackUnderTest) -> None:
    before = await stack.meta()
    await stack.put(tile("a"))
    await stack.send("DELETE", "/z/1")
    assert await stack.meta() == before


async def test_a_stack_without_tiles_cannot_be_completed(stack: StackUnderTest) -> None:
    answer = await stack.state("COMPLETE")
    assert answer.outcome == (500, "text/plain")
    assert "Stack data aggregation returned no results because the stack has no tiles." in answer.text
    assert (await stack.meta())["state"] == "LOADING"


async def test_a_change_of_a_read_only_stack_is_refused_with_500(stack: StackUnderTest) -> None:
    await bring_to(stack, "READ_ONLY")
    for method, path, body in (
        ("POST", "", {}),
        ("DELETE", "", None),
        ("PUT", "/resolutionValues", [1, 2, 3]),
        ("PUT", "/mipmapPathBuilder", BUILDER),
    ):
        answer = await stack.send(method, path, body)
        assert answer.outcome == (500, "text/plain"), (method, path)
        assert answer.text == f"Data for stack {stack.name} cannot be modified because it is READ_ONLY."
    assert await stack.tile_ids() == ["a"]


# -- derived data ---------------------------------------------------------------------------------------------------


async def test_completing_derives_counts_and_bounds(stack: StackUnderTest) -> None:
    lens = affine(1, 0, 0, 1, 0, 0, id="lens")
    await stack.put(
        tile("a", ref("lens"), affine(1, 0, 0, 1, 10, 20)),
        tile("b", affine(1, 0, 0, 1, 200, 20), width=120, height=90),
        tile("c", z=2.5),
        tile("d", z=2.5, layout={"sectionId": "other"}),
        transforms=(lens,),
    )
    assert (await stack.state("COMPLETE")).status == 201
    assert (await stack.meta())["stats"] == {
        "stackBounds": {"minX": 0.0, "minY": 0.0, "minZ": 1.0, "maxX": 320.0, "maxY": 110.0, "maxZ": 2.5},
        "sectionCount": 2,
        "nonIntegralSectionCount": 1,
        "tileCount": 4,
        "transformCount": 1,
        "minTileWidth": 100,
        "maxTileWidth": 120,
        "minTileHeight": 80,
        "maxTileHeight": 90,
        "channelNames": [],
    }
    assert (await stack.send("GET", "/bounds")).json == (await stack.meta())["stats"]["stackBounds"]
    rows = sorted((await stack.send("GET", "/sectionData")).json, key=lambda row: (row["z"], row["sectionId"]))
    assert [(row["sectionId"], row["z"], row["tileCount"]) for row in rows] == [
        ("1.0", 1.0, 2),
        ("2.5", 2.5, 1),
        ("other", 2.5, 1),
    ]
    assert (rows[0]["minX"], rows[0]["maxX"], rows[0]["minY"], rows[0]["maxY"]) == (10.0, 320.0, 20.0, 110.0)


async def test_tiles_without_a_section_id_are_in_no_section_data(stack: StackUnderTest) -> None:
    """The stack's statistics and tileBounds include them."""
    await stack.put(tile("a"), tile("b", layout={}), tile("c", layout=None), tile("d", z=2.0, layout=None))
    await stack.state("COMPLETE")
    for path in ("/sectionData", "/z/1.0/sectionData"):
        rows = (await stack.send("GET", path)).json
        assert [(row["sectionId"], row["z"], row["tileCount"]) for row in rows] == [("1.0", 1.0, 1)], path
    assert (await stack.send("GET", "/z/2.0/sectionData")).json == []
    assert (await stack.meta())["stats"]["tileCount"] == 4
    assert await stack.tile_ids() == ["a", "b", "c"]


async def test_a_z_of_several_sections_is_listed_as_merged(stack: StackUnderTest) -> None:
    await stack.put(tile("a"), tile("b", layout={"sectionId": "1.1"}), tile("c", z=2.0))
    assert (await stack.send("GET", "/mergedZValues")).outcome == (400, "text/plain")
    await stack.state("COMPLETE")
    assert (await stack.send("GET", "/mergedZValues")).json == [1.0]


async def test_a_loading_stack_has_no_bounds_and_the_section_data_of_its_last_completion(stack: StackUnderTest) -> None:
    await stack.put(tile("a"))
    for path in ("/bounds", "/sectionData"):
        assert (await stack.send("GET", path)).outcome == (400, "text/plain"), path
    await stack.state("COMPLETE")
    await stack.state("LOADING")
    await stack.put(tile("b"))
    assert (await stack.send("GET", "/bounds")).outcome == (400, "text/plain")
    assert [row["tileCount"] for row in (await stack.send("GET", "/sectionData")).json] == [1]
    assert [row["tileCount"] for row in (await stack.send("GET", "/z/1.0/sectionData")).json] == [2]


# -- values of a stack -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["LOADING", "COMPLETE", "OFFLINE"])
async def test_resolution_and_path_builder_can_be_set_in_any_state_except_read_only(
    stack: StackUnderTest, state: str
) -> None:
    await bring_to(stack, state)
    before = await stack.meta()
    assert (await stack.send("PUT", "/resolutionValues", [4, 4.5, 45])).status == 200
    assert (await stack.send("PUT", "/mipmapPathBuilder", BUILDER)).status == 200
    assert (await stack.send("GET", "/resolutionValues")).json == [4.0, 4.5, 45.0]
    after = await stack.meta()
    assert (after["currentVersion"]["stackResolutionY"], after["currentVersion"]["mipmapPathBuilder"]["rootPath"]) == (
        4.5,
        "/m/",
    )
    assert {k: v for k, v in after.items() if k != "currentVersion"} == {
        k: v for k, v in before.items() if k != "currentVersion"
    }


async def test_the_root_path_of_a_path_builder_gets_a_slash_by_put_and_not_by_post(
    stack: StackUnderTest, other: StackUnderTest
) -> None:
    assert (await stack.send("GET", "/mipmapPathBuilder")).status == 204
    await stack.send("PUT", "/mipmapPathBuilder", BUILDER)
    assert (await stack.send("GET", "/mipmapPathBuilder")).json == {**BUILDER, "rootPath": "/m/"}
    await other.create(mipmapPathBuilder=BUILDER)
    assert (await other.send("GET", "/mipmapPathBuilder")).json == BUILDER
    assert (await other.send("DELETE", "/mipmapPathBuilder")).status == 200
    assert (await other.send("GET", "/mipmapPathBuilder")).status == 204


@pytest.mark.parametrize("missing", ["rootPath", "numberOfLevels", "extension"])
async def test_a_path_builder_needs_all_three_parts(stack: StackUnderTest, missing: str) -> None:
    builder = {key: value for key, value in BUILDER.items() if key != missing}
    assert (await stack.send("PUT", "/mipmapPathBuilder", builder)).status == 400
    assert (await stack.send("GET", "/mipmapPathBuilder")).status == 204


async def test_omitted_resolution_values_stay_the_same(stack: StackUnderTest) -> None:
    await stack.send("PUT", "/resolutionValues", [4, 5, 45])
    assert (await stack.send("PUT", "/resolutionValues", [6])).status == 200
    assert (await stack.send("GET", "/resolutionValues")).json == [6.0, 5.0, 45.0]


async def test_other_values_are_set_shown_and_removed(stack: StackUnderTest) -> None:
    assert (await stack.send("GET", "/cycle")).status in (200, 204)
    assert (await stack.send("PUT", "/cycle", {"number": 2, "stepNumber": 3})).status == 200
    version = (await stack.meta())["currentVersion"]
    assert (version["cycleNumber"], version["cycleStepNumber"]) == (2, 3)
    assert (await stack.send("DELETE", "/resolutionValues")).status == 200
    assert "stackResolutionX" not in (await stack.meta())["currentVersion"]
    root = await stack.send("PUT", "/materializedBoxRootPath", b"/boxes", headers={"Content-Type": "text/plain"})
    assert root.status == 200
    assert (await stack.meta())["currentVersion"]["materializedBoxRootPath"] == "/boxes"


# -- lists and copies ------------------------------------------------------------------------------------------------


async def test_lists_name_the_stack_and_unknown_owners_have_none(service: Service, stack: StackUnderTest) -> None:
    identity = {"owner": OWNER, "project": PROJECT, "stack": stack.name}
    assert OWNER in (await service.send("GET", "/owners")).json
    assert PROJECT in (await service.send("GET", f"/owner/{OWNER}/projects")).json
    assert identity in (await service.send("GET", f"/owner/{OWNER}/stackIds")).json
    assert identity in (await service.send("GET", f"/owner/{OWNER}/project/{PROJECT}/stackIds")).json
    for path in (f"/owner/{OWNER}/stacks", f"/owner/{OWNER}/project/{PROJECT}/stacks"):
        listed = [meta for meta in (await service.send("GET", path)).json if meta["stackId"] == identity]
        assert listed == [await stack.meta()]
    nobody = f"nobody{stack.name}"
    assert (await service.send("GET", f"/owner/{nobody}/stacks")).json == []
    assert (await service.send("GET", f"/owner/{OWNER}/project/{nobody}/stacks")).json == []


async def test_a_clone_has_the_tiles_and_transforms_and_none_of_the_values(
    stack: StackUnderTest, other: StackUnderTest
) -> None:
    await stack.send("PUT", "/resolutionValues", [4, 4, 45])
    lens = affine(1, 0, 0, 1, 0, 0, id="lens")
    await stack.put(tile("a", ref("lens")), tile("b", z=2.0), transforms=(lens,))
    assert (await stack.send("PUT", f"/cloneTo/{other.name}?z=1.0", {})).status == 201
    assert (await other.tile_ids(1.0), await other.tile_ids(2.0)) == (["a"], [])
    assert (await other.send("GET", "/transform/lens")).status == 200
    meta = await other.meta()
    assert (meta["state"], meta["currentVersionNumber"], meta["currentVersion"]) == ("LOADING", 0, {})
    again = await stack.send("PUT", f"/cloneTo/{other.name}", {})
    assert again.status == 500
    assert (await stack.send("PUT", f"/cloneTo/{other.name}")).status == 400


async def test_a_renamed_stack_keeps_its_tiles_under_the_new_name(stack: StackUnderTest, other: StackUnderTest) -> None:
    await stack.put(tile("a"))
    target = {"owner": OWNER, "project": PROJECT, "stack": other.name}
    assert (await stack.send("PUT", "/stackId", target)).status == 200
    assert await other.tile_ids() == ["a"]
    assert (await stack.send("GET")).status == 404
    await stack.create()
    assert (await stack.send("PUT", "/stackId", target)).status == 400


async def test_version_properties_and_unique_ids_are_served(service: Service) -> None:
    assert (await service.send("GET", "/versionInfo")).status in (200, 204)
    assert (await service.send("GET", "/serverProperties")).status == 200
    unique = await service.send("GET", "/likelyUniqueId")
    assert unique.media_type == "text/plain"
    assert re.fullmatch(r"[0-9a-f]{24}", unique.text)
    assert (await service.send("GET", "/likelyUniqueId")).text != unique.text


# -- transport -------------------------------------------------------------------------------------------------------


async def test_a_trailing_slash_is_accepted(service: Service, stack: StackUnderTest) -> None:
    await stack.put(tile("a"))
    for path in ("/zValues/", "/z/1/tileBounds/", "/"):
        assert (await stack.send("GET", path)).status == 200, path
    assert (await service.send("GET", "/owners/")).status == 200
    assert (await service.send("GET", f"/owner/{OWNER}/stacks/")).status == 200


async def test_unknown_paths_are_answered_with_404_and_wrong_methods_with_405_without_a_body(
    service: Service, stack: StackUnderTest
) -> None:
    for answer, status in (
        (await stack.send("GET", "/z/1/mipmap-path"), 404),
        (await service.send("GET", "/nowhere"), 404),
        (await stack.send("DELETE", "/zValues"), 405),
        (await stack.send("POST", "/resolvedTiles", {}), 405),
    ):
        assert (*answer.outcome, answer.text) == (status, "", "")


async def test_head_and_options_are_answered_like_get(stack: StackUnderTest) -> None:
    head = await stack.send("HEAD")
    assert (*head.outcome, head.text) == (200, "application/json", "")
    options = await stack.send("OPTIONS")
    assert options.outcome == (200, "text/plain")
    assert set(options.text.split(", ")) == {"HEAD", "DELETE", "POST", "GET", "OPTIONS"}


async def test_a_body_that_is_not_json_is_refused_with_415(stack: StackUnderTest) -> None:
    for media_type in ("text/plain", "application/octet-stream"):
        answer = await stack.send("PUT", "/resolvedTiles", b"{}", headers={"Content-Type": media_type})
        assert answer.status == 415
        answer = await stack.send("POST", "", b"{}", headers={"Content-Type": media_type})
        assert answer.status == 415


async def test_an_escaped_slash_in_a_tile_id_is_answered_with_404(stack: StackUnderTest) -> None:
    answer = await stack.send("GET", "/tile/a%2Fb")
    assert (*answer.outcome, answer.text) == (404, "", "")


@pytest.mark.slow
async def test_ten_thousand_tiles_are_written_and_read_in_one_request_each(stack: StackUnderTest) -> None:
    """aiohttp's own limits allow a section of 20,000 tiles; half of that keeps the test short."""
    specs = [tile(f"tile_{n:05d}", affine(1, 0, 0, 1, n, 0), labels=["x" * 300]) for n in range(10_000)]
    await stack.put(*specs)
    answer = await stack.send("GET", "/z/1/resolvedTiles")
    assert len(answer.json["tileIdToSpecMap"]) == 10_000
    assert len(answer.body) > 5_000_000
