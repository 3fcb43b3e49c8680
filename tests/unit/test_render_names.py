"""Names, numbers and answers of render-ws, bodies of uploads, and differences of tile specs."""

import base64
import json
import math
import pickle
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.errors import (
    AnswerLost,
    Fault,
    LoginRefused,
    NotRender,
    ProxyTimedOut,
    RenderBroken,
    RenderFault,
    RenderRefused,
    RenderUnavailable,
    RequestForbidden,
    SettingsFault,
    StackLocked,
    StackMissing,
    StackNotLoading,
    UploadTooLarge,
    Waiting,
)
from handlers.render.names import (
    StackId,
    check_name,
    checked_base_url,
    create_timestamp,
    format_z,
    legal_name,
    legal_stack_name,
    tile_segment,
)
from handlers.render.responses import PathBuilder, fault_of, plain_text
from handlers.render.tiles import (
    canonical_url,
    check_upload,
    differences,
    references,
    shared_transforms,
    without_nulls,
)
from tests.uploads import upload_bodies


@pytest.mark.parametrize("name", ["a", "17797_1R_raw", "A1_b2", "0"])
def test_letters_and_digits_with_single_underscores_between_them_are_a_legal_name(name: str) -> None:
    check_name("stack", name)


@pytest.mark.parametrize("name", ["", "_a", "a_", "a__b", "a-b", "a.b", "a b", "a/b", "é", "a\n", "٣"])
def test_a_name_that_render_refuses_is_refused_before_any_request(name: str) -> None:
    with pytest.raises(RenderRefused, match="is not a legal name"):
        StackId("em", "v1", name)


def test_the_three_names_of_a_stack_may_have_96_characters_together() -> None:
    assert str(StackId("o" * 30, "p" * 30, "s" * 36)).count("/") == 2
    with pytest.raises(RenderRefused, match="97 characters together"):
        StackId("o" * 30, "p" * 30, "s" * 37)


def test_a_stack_is_read_back_from_its_full_name() -> None:
    stack = StackId("em", "v1", "raw")
    assert StackId.parse(str(stack)) == stack
    with pytest.raises(RenderRefused, match="owner/project/stack"):
        StackId.parse("em/raw")


@given(st.text())
def test_a_text_becomes_a_legal_name_or_is_refused(text: str) -> None:
    try:
        name = legal_name(text)
    except RenderRefused:
        assert not any(character.isascii() and character.isalnum() for character in text)
    else:
        check_name("stack", name)


def test_a_stack_name_template_takes_fields_of_the_header() -> None:
    assert legal_stack_name("{specimen_id}_{grid}_raw", {"specimen_id": "1-2", "grid": 7}) == "1_2_7_raw"


def test_a_template_with_an_unknown_field_lists_the_known_ones() -> None:
    with pytest.raises(SettingsFault, match="specimen_id"):
        legal_stack_name("{specimen}_raw", {"specimen_id": "1"})
    with pytest.raises(SettingsFault):
        legal_stack_name("{specimen_id.__class__}_raw", {"specimen_id": "1"})
    with pytest.raises(SettingsFault):
        legal_stack_name("{specimen_id", {"specimen_id": "1"})


def test_a_header_without_the_field_of_the_stacks_name_is_refused() -> None:
    with pytest.raises(RenderRefused, match="no specimen_id"):
        legal_stack_name("{specimen_id}_raw", {"specimen_id": None})


@pytest.mark.parametrize(("z", "text"), [(1050, "1050.0"), (5.5, "5.5"), (-0.0, "0.0"), (1e-7, "1e-07"), (-3, "-3.0")])
def test_z_is_written_as_java_writes_a_double(z: float, text: str) -> None:
    assert format_z(z) == text


@pytest.mark.parametrize("z", [math.nan, math.inf])
def test_a_z_that_is_not_finite_is_refused(z: float) -> None:
    with pytest.raises(RenderRefused):
        format_z(z)


def test_a_tile_id_is_encoded_for_one_segment_of_a_path() -> None:
    assert tile_segment("a;b ü%#?.1050.0") == "a%3Bb%20%C3%BC%25%23%3F.1050.0"


@pytest.mark.parametrize("tile_id", ["a/b", "", ".", ".."])
def test_a_tile_id_that_a_url_cannot_contain_is_refused(tile_id: str) -> None:
    with pytest.raises(RenderRefused):
        tile_segment(tile_id)


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_creation_time_has_exactly_three_decimals(moment: datetime) -> None:
    text = create_timestamp(moment)
    assert len(text) == 24
    assert text[19] == "."
    assert text.endswith("Z")


def test_a_creation_time_is_written_in_utc() -> None:
    moment = datetime(2024, 5, 6, 1, 0, 0, 999999, tzinfo=timezone(timedelta(hours=2)))
    assert create_timestamp(moment) == "2024-05-05T23:00:00.999Z"


def test_a_base_url_is_taken_with_and_without_a_slash_at_its_end() -> None:
    assert checked_base_url("http://r:8080/render-ws/v1/") == checked_base_url("http://r:8080/render-ws/v1")


@pytest.mark.parametrize(
    "url",
    ["render:8080", "ftp://r/v1", "http:///v1", "http://r/v1?x=1", "", "http://r:x/v1", "http://r:0/", "http://[r/"],
)
def test_an_invalid_base_url_is_a_settings_fault(url: str) -> None:
    with pytest.raises(SettingsFault, match=r"render\.url"):
        checked_base_url(url)


@pytest.mark.parametrize(
    ("url", "header"),
    [
        ("http://em:pw4711@r:8080/v1", "em:pw4711"),
        ("http://em:p%40%2F4711@r:8080/v1", "em:p@/4711"),
        ("http://em:p@4711@r:8080/v1", "em:p@4711"),
        ("http://em:m%C3%BC4711@r:8080/v1/", "em:mü4711"),
        ("http://token4711@r:8080/v1", "token4711:"),
    ],
)
def test_user_and_password_are_separated_from_a_base_url(url: str, header: str) -> None:
    base_url = checked_base_url(url)
    assert base_url.url == str(base_url) == "http://r:8080/v1"
    assert base_url.authorization == "Basic " + base64.b64encode(header.encode()).decode()
    assert "Basic" not in repr(base_url)


@pytest.mark.parametrize(
    "url",
    [
        "http://em:pw/4711@r/v1",
        "http://em:80/pw4711@r/v1",
        "http://em:pw#4711@r/v1",
        "http://em:pw?4711@r/v1",
        "http://em:p@4711@r:x/v1",
        "ftp://em:pw4711@r/v1",
        "em:pw4711@r/v1",
        "http://em:[pw4711@r/v1",
    ],
)
def test_a_base_url_that_is_refused_shows_no_password(url: str) -> None:
    with pytest.raises(SettingsFault) as refused:
        checked_base_url(url)
    assert "4711" not in str(refused.value)
    assert "r/v1" in str(refused.value) or "r:x/v1" in str(refused.value)


NOT_LOADING = "Resolved tiles can only be saved to stacks in the LOADING state, but this stack's state is COMPLETE."
NOT_LOADING_400 = "stack state is COMPLETE but must be LOADING to delete data"
LOCKED_500 = "Data for stack s cannot be modified because it is READ_ONLY."
LOCKED_400 = (
    "The s stack's state is currently OFFLINE and must first be transitioned to COMPLETE "
    "before transitioning it to LOADING."
)
NO_STACK = "stack with owner 'o', project 'p', and name 's' does not exist"


@pytest.mark.parametrize(
    ("status", "content_type", "text", "kind", "waiting"),
    [
        (500, "text/plain", NOT_LOADING, StackNotLoading, Waiting.ALWAYS),
        (400, "text/plain", NOT_LOADING_400, StackNotLoading, Waiting.ALWAYS),
        (500, "text/plain", NOT_LOADING.replace("COMPLETE", "READ_ONLY"), StackLocked, Waiting.NEVER),
        (500, "text/plain", LOCKED_500, StackLocked, Waiting.NEVER),
        (400, "text/plain", LOCKED_400, StackLocked, Waiting.NEVER),
        (500, "text/plain", "the stack has no tiles. Derive nothing.", RenderRefused, Waiting.NEVER),
        (500, "text/plain", "width and height must be set to create a bounding box", RenderRefused, Waiting.NEVER),
        (500, "text/plain", "com.mongodb.MongoTimeoutException", RenderBroken, Waiting.LIMITED),
        (500, "", "", RenderBroken, Waiting.LIMITED),
        (501, "text/html", "", RenderBroken, Waiting.LIMITED),
        (400, "text/html", "com.fasterxml.jackson.core.JsonParseException: no NaN", RenderRefused, Waiting.NEVER),
        (400, "text/html", "The plain HTTP request was sent to HTTPS port", NotRender, Waiting.LIMITED),
        (404, "text/plain", NO_STACK, StackMissing, Waiting.LIMITED),
        (404, "text/plain", "tile spec with id 'T' does not exist in the collection", RenderRefused, Waiting.NEVER),
        (404, "text/plain", "404 page not found", NotRender, Waiting.LIMITED),
        (404, "", "", NotRender, Waiting.LIMITED),
        (500, "text/plain", "Timed out after 30000 ms while waiting for a server", RenderUnavailable, Waiting.ALWAYS),
        (500, "text/plain", "'not primary' on server db:27017", RenderUnavailable, Waiting.ALWAYS),
        (500, "text/plain", "E11000 duplicate key error", RenderBroken, Waiting.LIMITED),
        (404, "text/html", "Not Found", NotRender, Waiting.LIMITED),
        (404, "application/json", "", NotRender, Waiting.LIMITED),
        (301, "text/html", "", NotRender, Waiting.LIMITED),
        (401, "text/html", "", LoginRefused, Waiting.ALWAYS),
        (403, "text/html", "", RequestForbidden, Waiting.ALWAYS),
        (405, "text/html", "", NotRender, Waiting.LIMITED),
        (413, "text/html", "", UploadTooLarge, Waiting.NEVER),
        (415, "text/html", "", NotRender, Waiting.LIMITED),
        (429, "text/html", "", RenderUnavailable, Waiting.ALWAYS),
        (502, "text/html", "", AnswerLost, Waiting.ALWAYS),
        (503, "text/html", "", RenderUnavailable, Waiting.ALWAYS),
        (504, "text/html", "", ProxyTimedOut, Waiting.ALWAYS),
    ],
)
def test_every_error_answer_gives_one_kind_of_fault(
    status: int, content_type: str, text: str, kind: type[RenderFault], waiting: Waiting
) -> None:
    fault = fault_of("o/p/s", "put tiles", status, content_type, text)
    assert type(fault) is kind
    assert fault.waiting_helps is waiting
    assert "o/p/s" in str(fault)
    assert str(pickle.loads(pickle.dumps(fault))) == str(fault)


def test_a_refusal_contains_the_text_of_render_ws() -> None:
    fault = fault_of("o/p/s", "put tiles", 400, "text/plain", "all tiles must have a z value of 1050.0")
    assert "all tiles must have a z value of 1050.0" in str(fault)


def test_the_hint_of_a_404_in_html_names_the_url_and_not_the_stack() -> None:
    fault = fault_of("o/p/s", "read it", 404, "text/html", "HTTP 404 Not Found")
    assert "report a bug of temwatch" in fault.hint
    assert "render.url" in fault.hint


def test_a_stack_named_like_a_state_does_not_change_the_fault() -> None:
    text = NO_STACK.replace("'s'", "'state_READ_ONLY'")
    assert type(fault_of("o/p/state_READ_ONLY", "read it", 404, "text/plain", text)) is StackMissing
    broken = "Data for stack OFFLINE_LOADING cannot be read"
    assert type(fault_of("o/p/OFFLINE_LOADING", "put", 500, "text/plain", broken)) is RenderBroken


def test_an_error_page_is_shown_as_one_short_line_of_text() -> None:
    page = b"<html><style>p {x: y}</style><body>\n<h1>Not Found</h1> <p>nothing here</p></body></html>"
    assert plain_text(page) == "Not Found nothing here"
    assert len(plain_text(b"x" * 100_000)) < 600


def test_an_error_page_is_shown_without_what_the_server_repeats_and_adds() -> None:
    jetty = (
        b"<html><head><title>Error 500 Server Error</title></head><body><h2>HTTP ERROR 500 Server Error</h2><table>"
        b"<tr><th>URI:</th><td>/render-ws/v1/owner/em</td></tr><tr><th>STATUS:</th><td>500</td></tr>"
        b"<tr><th>MESSAGE:</th><td>out of memory</td></tr></table>"
        b"<hr/><a href='https://jetty.org/'>Powered by Jetty:// 12.0.9</a><hr/></body></html>"
    )
    assert plain_text(jetty) == "HTTP ERROR 500 Server Error URI: /render-ws/v1/owner/em MESSAGE: out of memory"
    nginx = (
        b"<html><head><title>403 Forbidden</title></head><body><center><h1>403 Forbidden</h1></center></body></html>"
    )
    assert plain_text(nginx) == "403 Forbidden"
    assert plain_text(b"<title>Portal</title><form>Sign in</form>") == "Portal Sign in"
    assert plain_text(b"<title></title>nothing") == "nothing"


def tile(tile_id: str, z: float = 5.0, refs: tuple[str, ...] = (), **more: object) -> dict[str, object]:
    transforms = [{"type": "ref", "refId": name} for name in refs] + [{"className": "Affine", "dataString": "1 0"}]
    return {"tileId": tile_id, "z": z, "transforms": {"type": "list", "specList": transforms}, **more}


LENS = {"type": "leaf", "id": "lens", "className": "c", "dataString": "d"}


def test_references_are_found_in_lists_and_interpolations() -> None:
    spec = {
        "type": "list",
        "specList": [
            {"type": "ref", "refId": "a"},
            {"type": "interpolated", "a": {"type": "ref", "refId": "b"}, "b": {"type": "ref", "refId": "c"}},
            {"className": "leaf"},
        ],
    }
    assert list(references(spec)) == ["a", "b", "c"]


def test_a_shared_transform_includes_those_that_it_refers_to() -> None:
    nested = {"id": "nested", "type": "list", "specList": [{"type": "ref", "refId": "lens"}]}
    circular = {"id": "circular", "type": "ref", "refId": "circular"}
    transforms = {"lens": LENS, "nested": nested, "circular": circular, "other": LENS}
    assert set(shared_transforms([tile("t", refs=("nested", "circular"))], transforms)) == {
        "lens",
        "nested",
        "circular",
    }


def test_a_reference_to_a_missing_transform_is_refused_before_any_request() -> None:
    with pytest.raises(RenderRefused, match="'lens', which is missing"):
        upload_bodies([tile("t", refs=("lens",))], {})


def test_uploads_are_split_by_number_of_tiles_and_each_contains_the_transforms_it_needs() -> None:
    specs = [tile(f"t{n}", refs=("lens",) if n != 2 else ()) for n in range(5)]
    bodies = [json.loads(body) for body in upload_bodies(specs, {"lens": LENS, "other": LENS}, max_tiles=2)]
    assert [list(body["tileIdToSpecMap"]) for body in bodies] == [["t0", "t1"], ["t2", "t3"], ["t4"]]
    assert [list(body["transformIdToSpecMap"]) for body in bodies] == [["lens"]] * 3
    alone = [json.loads(body) for body in upload_bodies(specs[2:3], {"lens": LENS})]
    assert alone[0]["transformIdToSpecMap"] == {}


@given(st.lists(st.integers(0, 400), min_size=1, max_size=30), st.integers(300, 1500))
def test_uploads_contain_every_tile_once_and_do_not_exceed_the_limit_of_bytes(lengths: list[int], most: int) -> None:
    specs = [tile(f"t{n}", refs=("lens",), label="x" * length) for n, length in enumerate(lengths)]
    bodies = upload_bodies(specs, {"lens": LENS}, max_bytes=most)
    contents = [json.loads(body) for body in bodies]
    assert [spec for content in contents for spec in content["tileIdToSpecMap"].values()] == specs
    for body, content in zip(bodies, contents, strict=True):
        assert content["transformIdToSpecMap"] == {"lens": LENS}
        assert len(body) <= most + 60 or len(content["tileIdToSpecMap"]) == 1


def test_nulls_are_omitted_and_numbers_that_json_cannot_express_are_refused() -> None:
    body = json.loads(upload_bodies([tile("t", meshCellSize=None, layout={"camera": None, "temca": "5"})], {})[0])
    assert "meshCellSize" not in body["tileIdToSpecMap"]["t"]
    assert body["tileIdToSpecMap"]["t"]["layout"] == {"temca": "5"}
    for number in (math.nan, math.inf, -math.inf):
        with pytest.raises(RenderRefused, match=r"'t'.*JSON"):
            upload_bodies([tile("t", stageX=number)], {})


def test_a_text_that_equals_a_null_or_an_invalid_number_is_kept() -> None:
    labels = ["null", "NaN", "Infinity", 'say "type":"ref"']
    body = json.loads(upload_bodies([tile("t", labels=labels)], {})[0])
    assert body["tileIdToSpecMap"]["t"]["labels"] == labels


def test_a_file_name_that_is_not_unicode_is_escaped() -> None:
    body = upload_bodies([tile("t", groupId="a\udcff")], {})[0]
    assert body.isascii()
    assert b'"dataString":"1 0"' in body, "the body has no blanks between its values"
    assert json.loads(body)["tileIdToSpecMap"]["t"]["groupId"] == "a\udcff"


def test_a_value_that_was_sent_as_null_counts_as_not_sent() -> None:
    assert list(differences({"mask": None, "layout": {"camera": None}}, {"z": 1.0})) == []
    lines = list(
        differences({"mipmapLevels": {"0": {}, "1": None}}, {"mipmapLevels": {"0": {}, "1": {"imageUrl": "a"}}})
    )
    assert len(lines) == 1
    assert "mipmapLevels.1: not sent" in lines[0]


@given(
    st.recursive(
        st.none() | st.integers() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=12,
    )
)
def test_an_upload_contains_the_given_specs_without_nulls(value: object) -> None:
    body = json.loads(upload_bodies([tile("t", found=value)], {})[0])
    assert body["tileIdToSpecMap"]["t"] == without_nulls(tile("t", found=value))


@pytest.mark.parametrize(
    ("specs", "problem"),
    [
        ([], "no tiles"),
        ([tile("a"), tile("a")], "duplicate tile ids: a"),
        ([tile("a", z=6.0)], "another z"),
        ([{"z": 5.0}], "no tileId"),
        ([tile("a/b")], "invalid in a URL of render-ws"),
    ],
)
def test_tiles_that_render_ws_would_refuse_or_lose_are_refused_before_any_request(
    specs: list[dict[str, object]], problem: str
) -> None:
    with pytest.raises(Fault, match=problem):
        check_upload("o/p/s", 5.0, specs)


@pytest.mark.parametrize("url", ["file:/d/a%20b.tif", "file:///d/a%20b.tif", "/d/a b.tif", "file:///d//a%20b.tif"])
def test_spellings_of_a_file_url_are_equal(url: str) -> None:
    assert canonical_url(url) == "file:/d/a b.tif"


def test_urls_of_other_schemes_are_compared_as_they_are() -> None:
    assert canonical_url("s3://bucket/a%20b.tif") == "s3://bucket/a%20b.tif"
    assert canonical_url("file:///d/a.tif") != canonical_url("file:///d/b.tif")


def test_fields_that_render_adds_are_no_difference() -> None:
    sent = {"tileId": "t", "z": 5, "mipmapLevels": {"0": {"imageUrl": "file:///d/a.tif"}}, "labels": [], "g": None}
    shown = {"tileId": "t", "z": 5.0, "minX": 1.0, "mipmapLevels": {"0": {"imageUrl": "file:/d/a.tif"}}}
    assert list(differences(sent, shown)) == []


def test_an_additional_missing_or_moved_level_is_a_difference() -> None:
    sent = {"mipmapLevels": {"0": {"imageUrl": "file:/a"}, "1": {"imageUrl": "file:/b"}, "2": {"imageUrl": "file:/c"}}}
    shown = {"mipmapLevels": {"0": {"imageUrl": "file:/a"}, "1": {"imageUrl": "file:/x"}, "3": {"imageUrl": "file:/d"}}}
    lines = list(differences(sent, shown, "tile 't'"))
    assert len(lines) == 3
    assert lines[0] == "tile 't'.mipmapLevels.1.imageUrl: sent 'file:/b', shown 'file:/x'"
    assert "mipmapLevels.2: sent" in lines[1]
    assert "mipmapLevels.3: not sent" in lines[2]


def test_transforms_in_another_order_or_number_are_a_difference() -> None:
    one, two = {"refId": "a"}, {"dataString": "1 0"}
    for sent, shown in (([one, two], [two, one]), ([one, two], [one]), ([two], [two, two])):
        assert list(differences({"transforms": {"specList": sent}}, {"transforms": {"specList": shown}})) != []


@given(
    st.recursive(
        st.none() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_value_is_equal_to_itself(value: object) -> None:
    clean = without_nulls(value)
    assert list(differences(clean, clean)) == []


def test_a_path_builder_derives_the_same_name_as_render_ws() -> None:
    builder = PathBuilder(root_path="/m", number_of_levels=6, extension="tif")
    assert canonical_url(builder.derived_path("file:///d/a.tif", 2)) == "file:/m/2/d/a.tif.tif"
    assert builder.derived_path("/d/a.tif", 2) == "/m/2/d/a.tif.tif"
    assert builder.normalized().to_json() == {"rootPath": "/m/", "numberOfLevels": 6, "extension": "tif"}
