"""Metafiles: which are parsed, which are refused with which fault, and the findings about contradictions."""

import itertools
import json
import os
import re
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sections import DATA, LENS_SET, MONTAGE, NAME, NO_DATA, Change, flat, header, key_of, metafile, put, section

from handlers.acquisition.formats import pytemca_parse
from handlers.acquisition.formats.pytemca_consistency import Finding, Severity, check_metafile
from handlers.acquisition.formats.pytemca_parse import parse_metafile
from handlers.acquisition.image_names import image_path
from handlers.acquisition.metafile import EdgeSide, Metafile
from handlers.acquisition.tilespec import shared_transform_for
from handlers.errors import MetafileFault, MetafilePartial, Waiting

real_data = pytest.mark.skipif(not DATA.is_dir(), reason=NO_DATA)
BOM = b"\xef\xbb\xbf"


def raw(value: object) -> bytes:
    return json.dumps(value).encode()


def read(content: bytes) -> Metafile | MetafileFault:
    """Return the metafile, or the fault that refuses it."""
    try:
        return parse_metafile(content, NAME)
    except MetafileFault as fault:
        return fault


def findings(change: Change | None = None, name: str = NAME) -> tuple[Finding, ...]:
    return check_metafile(parse_metafile(raw(section(change)), name), name)


def only(change: Change, name: str = NAME) -> Finding:
    """Return the finding about a section; there must be exactly one."""
    (finding,) = findings(change, name)
    return finding


# ----------------------------------------------------------------------------------------------------------- containers


def test_a_section_has_its_header_and_tiles() -> None:
    found = metafile()
    assert found.header.session_id == "17797_1R_151"
    assert found.header.camera.camera_id == "A5"
    assert found.header.highmag.y_nm_per_pix == 4.0
    assert found.header.aperture_x_nm is None
    assert found.header.z_index == 42
    assert found.header.lims_specimen_id == "703198163"
    assert found.header.beam_centering is not None
    assert [tile.raster_pos for tile in found.tiles[:4]] == [(1, 0), (2, 0), (3, 0), (0, 1)]


def test_optional_values_of_a_tile_are_kept() -> None:
    tile = metafile().tiles[5]
    assert (tile.minimum, tile.maximum, tile.mean, tile.std_dev) == (14192, 65520, 33191.0, 12.0)
    assert (tile.focus_score, tile.astig_score) == (21.5, 0.0)
    assert tile.time_stamp == "20180601120105000"
    assert tile.matcher is not None
    top, left = tile.matcher
    assert (top.side, left.side) == (EdgeSide.TOP, EdgeSide.LEFT)
    assert (top.dx, top.match_quality) == (1.5, 7)


def test_records_cannot_be_changed() -> None:
    found = metafile()
    with pytest.raises(FrozenInstanceError):
        found.tiles[0].stage_x_nm = 0.0  # type: ignore[misc]


def test_elements_are_found_by_key_in_any_order() -> None:
    head, data = section()
    plain = parse_metafile(raw([head, data]), NAME)
    for value in (
        [data, head],
        {**head, **data},
        [{**data, **head}],
        [{"errors": []}, data, {}, head],
        [None, head, 7, data],
    ):
        other = parse_metafile(raw(value), NAME)
        assert (other.header, other.tiles) == (plain.header, plain.tiles)


@given(st.permutations(["metadata", "data", "sharedTransform", "tile_qc", "thumbnail"]), st.sets(st.integers(1, 4)))
def test_keys_may_be_spread_over_elements_in_any_way(order: list[str], cuts: set[int]) -> None:
    head, data = section()
    values = {**head, **data, "sharedTransform": {"type": "leaf"}, "tile_qc": {"ok": True}, "thumbnail": "x"}
    limits = [0, *sorted(cuts), len(order)]
    elements = [{key: values[key] for key in order[a:b]} for a, b in itertools.pairwise(limits)]
    found = parse_metafile(raw(elements), NAME)
    assert len(found.tiles) == 11
    assert found.shared_transform == {"type": "leaf"}


@pytest.mark.parametrize("layout", [{"indent": 1}, {"indent": 2}, {"separators": (",", ":")}])
def test_white_space_does_not_matter(layout: dict[str, Any]) -> None:
    assert parse_metafile(json.dumps(section(), **layout).encode(), NAME) == metafile()


def test_a_byte_order_mark_is_ignored() -> None:
    assert parse_metafile(BOM + raw(section()), NAME) == metafile()


def test_unknown_keys_are_tolerated_everywhere() -> None:
    def add(head: dict[str, Any], tiles: list[dict[str, Any]]) -> None:
        head["new"] = head["camera_info"]["new"] = head["calibration"]["new"] = {"a": [1]}
        tiles[0]["new"] = tiles[0]["img_meta"]["new"] = tiles[0]["matcher"][0]["new"] = "x"

    assert metafile(add) == metafile()


# ------------------------------------------------------------------------------------------------------- unusual values


@pytest.mark.parametrize("value", [None, "x", -1e999, [], {}, True, 10**400], ids=repr)
@pytest.mark.parametrize(
    "key", ["min", "max", "mean", "std_dev", "focus_score", "astig_score", "astig_angle", "matcher"]
)
def test_a_statistic_of_another_type_counts_as_absent(key: str, value: object) -> None:
    def change(_: object, tiles: list[dict[str, Any]]) -> None:
        tiles[1][key] = value

    text = json.dumps(section(change)).replace("-Infinity", "-1e999")
    found = parse_metafile(text.encode(), NAME)
    attribute = {"min": "minimum", "max": "maximum"}.get(key, key)
    assert getattr(found.tiles[1], attribute) == (() if (key, value) == ("matcher", []) else None)
    assert found.tiles[2] == metafile().tiles[2]


@pytest.mark.parametrize("key", ["overlap", "specimen_id", "media", "media_id", "z_index", "lims_specimen_id"])
@pytest.mark.parametrize("how", ["null", "absent"])
def test_absent_optional_values_are_none(key: str, how: str) -> None:
    def change(head: dict[str, Any], _: object) -> None:
        head[key] = None
        if how == "absent":
            del head[key]

    assert getattr(metafile(change).header, key) is None


@pytest.mark.parametrize("z_index", ["", "abc", [], True], ids=repr)
def test_a_z_index_that_is_not_a_number_counts_as_absent(z_index: object) -> None:
    assert metafile(lambda head, _: head.update(z_index=z_index)).header.z_index is None


def test_numbers_may_be_int_or_float_and_stage_positions_negative() -> None:
    def change(_: object, tiles: list[dict[str, Any]]) -> None:
        tiles[0]["img_meta"] |= {"stage_pos": [-957703, 837897.5], "angle": 90, "pixel_size": 4}

    tile = metafile(change).tiles[0]
    assert (tile.stage_x_nm, tile.stage_y_nm, tile.pixel_size_nm) == (-957703.0, 837897.5, 4.0)


def test_integers_beyond_64_bits_are_refused_if_required_and_else_count_as_absent() -> None:
    def change(_: object, tiles: list[dict[str, Any]]) -> None:
        tiles[0]["min"] = 2**64

    assert metafile(change).tiles[0].minimum is None
    with pytest.raises(MetafileFault, match=r"data\[0\]\.img_meta\.raster_pos\[0\]: should be less than"):
        metafile(lambda _, tiles: tiles[0]["img_meta"].update(raster_pos=[2**64, 0]))
    with pytest.raises(MetafileFault, match=r"data\[0\]\.img_meta\.stage_pos\[1\]: .* a number of 3322 bits"):
        metafile(lambda _, tiles: tiles[0]["img_meta"].update(stage_pos=[0, 10**1000]))


# -------------------------------------------------------------------------------------------------------------- partial


@pytest.mark.parametrize("content", [b"", b"  \n", BOM, b"\0" * 4096], ids=["nothing", "blanks", "mark", "zeros"])
def test_a_file_without_content_is_a_partial_metafile(content: bytes) -> None:
    with pytest.raises(MetafilePartial, match=f"^{NAME}: ") as caught:
        parse_metafile(content, NAME)
    assert caught.value.waiting_helps is Waiting.LIMITED


@given(st.integers(1, len(raw(section())) - 1))
def test_a_metafile_truncated_anywhere_is_a_partial_metafile(length: int) -> None:
    with pytest.raises(MetafilePartial, match="is truncated"):
        parse_metafile(raw(section())[:length], NAME)


@pytest.mark.parametrize(
    "content",
    [
        b"nope",
        b"<html>",
        b"[1,]",
        b"{'a': 1}",
        raw([]) + b"x",
        b'["\xff\xfe"]',
        b"II*\0\x08\0\0\0",
        "[1]".encode("utf-16"),
    ],
)
def test_invalid_json_is_a_partial_metafile(content: bytes) -> None:
    with pytest.raises(MetafilePartial, match="not JSON"):
        parse_metafile(content, NAME)


@given(st.binary(max_size=200))
def test_any_bytes_raise_a_fault_that_names_the_file(content: bytes) -> None:
    with pytest.raises(MetafileFault) as caught:
        parse_metafile(content, NAME)
    assert caught.value.subject == NAME


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
PATHS: list[tuple[str | int, ...]] = [
    *(("metadata", key) for key in header()),
    *(("metadata", "camera_info", key) for key in header()["camera_info"]),
    *(("metadata", "calibration", "highmag", key) for key in header()["calibration"]["highmag"]),
    *(("data", 7, key) for key in section()[1]["data"][7]),
    *(("data", 7, "img_meta", key) for key in section()[1]["data"][7]["img_meta"]),
]


@given(st.sampled_from(PATHS), json_values)
def test_any_value_of_any_key_gives_a_metafile_or_a_fault_that_names_the_key(
    path: tuple[str | int, ...], value: object
) -> None:
    whole = flat()
    put(whole, key_of(path), value)
    outcome = read(raw(whole))
    if isinstance(outcome, MetafileFault):
        assert not isinstance(outcome, MetafilePartial)
        assert outcome.problem.startswith(key_of(path))
        assert len(str(outcome)) < 1000
    else:
        check_metafile(outcome, NAME)


# --------------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("key", ["metadata.camera_info", "metadata.calibration", "data[7].img_meta"])
def test_a_missing_object_is_named_with_its_required_key(key: str) -> None:
    whole = flat()
    put(whole, key, ...)
    with pytest.raises(MetafileFault, match=f"^{NAME}: {re.escape(key)}.*: missing") as caught:
        parse_metafile(raw(whole), NAME)
    assert caught.value.waiting_helps is Waiting.NEVER


@pytest.mark.parametrize("key", ["metadata", "data"])
def test_a_file_without_header_or_data_is_refused(key: str) -> None:
    whole = flat()
    del whole[key]
    with pytest.raises(MetafileFault, match=f"{NAME}: {key}: missing") as caught:
        parse_metafile(raw(whole), NAME)
    assert not isinstance(caught.value, MetafilePartial)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([], "metadata: missing"),
        ({}, "metadata: missing"),
        ([1, 2], "metadata: missing"),
        ("text", "is not a metafile"),
        (5, "is not a metafile"),
        (None, "is not a metafile"),
        ({"metadata": header(), "data": []}, "data: is empty"),
        ({"metadata": header(), "data": {}}, "data: should be a list, found an object of 0"),
        ({"metadata": header(), "data": None}, "data: should be a list, found null"),
        ({"metadata": header(), "data": [5]}, r"data\[0\]: should be an object, found 5"),
        ({"metadata": [], "data": [{}]}, "metadata: should be an object, found a list of 0"),
        ({"metadata": None, "data": [{}]}, "metadata: should be an object, found null"),
    ],
)
def test_json_that_is_not_a_metafile_is_refused(value: object, problem: str) -> None:
    with pytest.raises(MetafileFault, match=problem) as caught:
        parse_metafile(raw(value), NAME)
    assert not isinstance(caught.value, MetafilePartial)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("stage_pos", "ab", r"data[2].img_meta.stage_pos: should be a list, found 'ab'"),
        ("stage_pos", [1], r"data[2].img_meta.stage_pos[1]: missing"),
        ("stage_pos", ["1", 2], r"data[2].img_meta.stage_pos[0]: should be a valid number, found '1'"),
        ("stage_pos", [True, 2], r"data[2].img_meta.stage_pos[0]: should be a valid number, found true"),
        ("stage_pos", [2e9, 2], r"data[2].img_meta.stage_pos[0]: should be less than or equal to 1000000000"),
        ("raster_pos", [1.5, 2], r"data[2].img_meta.raster_pos[0]: should be a valid integer, found 1.5"),
        ("raster_pos", [-1, 2], r"data[2].img_meta.raster_pos[0]: should be greater than or equal to 0, found -1"),
        ("angle", None, r"data[2].img_meta.angle: should be a valid number, found null"),
        ("pixel_size_x_move", 0, r"data[2].img_meta.pixel_size_x_move: should be greater than or equal to 0.001"),
        ("pixel_size_x_move", -3.5, r"data[2].img_meta.pixel_size_x_move: should be greater than or equal to 0.001"),
        ("pixel_size_y_move", 1e9, r"data[2].img_meta.pixel_size_y_move: should be less than or equal to 1000000"),
    ],
)
def test_a_wrong_value_is_named_with_the_expected_one(key: str, value: object, problem: str) -> None:
    with pytest.raises(MetafileFault) as caught:
        metafile(lambda _, tiles: tiles[2]["img_meta"].update({key: value}))
    assert str(caught.value).startswith(f"{NAME}: {problem}")


@pytest.mark.parametrize("side", ["width", "height"])
@pytest.mark.parametrize("size", [0, -1, 65537, 10**30, 3840.5, "3840", float("inf"), True], ids=repr)
def test_an_invalid_image_size_is_refused(side: str, size: object) -> None:
    with pytest.raises(MetafileFault, match=rf"metadata\.camera_info\.{side}: should be"):
        metafile(lambda head, _: head["camera_info"].update({side: size}))


@pytest.mark.parametrize("size", [0, -4, 1e7], ids=repr)
def test_an_invalid_pixel_size_of_the_calibration_is_refused(size: float) -> None:
    with pytest.raises(MetafileFault, match=r"metadata\.calibration\.highmag\.x_nm_per_pix: should be"):
        metafile(lambda head, _: head["calibration"]["highmag"].update(x_nm_per_pix=size))


@pytest.mark.parametrize("size", [0, None, float("nan"), "4.1"], ids=repr)
def test_pixels_are_square_without_y_nm_per_pix(size: object) -> None:
    found = metafile(lambda head, _: head["calibration"]["highmag"].update(y_nm_per_pix=size))
    assert found.header.highmag.pixel_size_nm == (4.0, 4.0)


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity"])
def test_a_required_number_that_is_not_finite_is_refused_and_named(token: str) -> None:
    with pytest.raises(MetafileFault) as caught:
        metafile(lambda _, tiles: tiles[1]["img_meta"].update(stage_pos=[1.0, float(token)]))
    found = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}[token]
    text = f"{NAME}: data[1].img_meta.stage_pos[1]: should be a finite number, found {found}"
    assert str(caught.value) == f"{text} (correct the metafile, or the program that wrote it)"
    assert not isinstance(caught.value, MetafilePartial)


def test_a_required_number_too_large_for_a_double_is_refused() -> None:
    text = raw(section()).replace(b'"angle": 90.0, "pixel_size"', b'"angle": 1e999, "pixel_size"', 1)
    with pytest.raises(MetafileFault, match=r"data\[0\]\.img_meta\.angle: should be a finite number"):
        parse_metafile(text, NAME)


def test_all_problems_of_the_first_invalid_tile_are_reported_and_abbreviated() -> None:
    def change(_: object, tiles: list[dict[str, Any]]) -> None:
        for tile in tiles[4:]:
            tile["img_meta"] = {}

    with pytest.raises(MetafileFault) as caught:
        metafile(change)
    assert str(caught.value).count("data[4].") == 4
    assert "data[5]" not in str(caught.value)
    assert "more" in str(caught.value)


@pytest.mark.parametrize(
    "img_path",
    [
        "/etc/passwd",
        "../a.tif",
        "sub/../../a.tif",
        "..",
        ".",
        "",
        "a//b.tif",
        "./a.tif",
        "sub/",
        "..\\a.tif",
        "C:\\a.tif",
        "C:/a.tif",
        "\\\\server\\a.tif",
        "a\n.tif",
        "a\0.tif",
        "file:///a.tif",
    ],
)
def test_an_image_path_that_leaves_the_directory_is_refused(img_path: str) -> None:
    with pytest.raises(MetafileFault, match=rf"^{NAME}: data\[3\]\.img_path: "):
        metafile(lambda _, tiles: tiles[3].update(img_path=img_path))
    with pytest.raises(MetafileFault):
        image_path(Path("/data/roi"), img_path)


@given(st.text(max_size=12) | st.text("./\\a", max_size=8))
def test_an_image_path_never_leaves_the_directory(img_path: str) -> None:
    try:
        path = image_path(Path("/data/roi"), img_path)
    except MetafileFault:
        return
    assert os.path.normpath(path) == str(path)
    assert Path("/data/roi") in path.parents


def test_an_image_in_a_subdirectory_is_accepted() -> None:
    assert image_path(Path("/data/roi"), "sub/a b#1.tif") == Path("/data/roi/sub/a b#1.tif")


def test_deeply_nested_json_is_refused() -> None:
    with pytest.raises(MetafileFault, match="nested too deep") as caught:
        parse_metafile(b"[" * 10**6, NAME)
    assert not isinstance(caught.value, MetafilePartial)


def test_a_number_of_a_million_digits_is_refused_after_its_first_digits() -> None:
    with pytest.raises(MetafileFault, match="number out of range at line 1 column 4303 "):
        parse_metafile(b"[" + b"9" * 10**6 + b"]", NAME)


def test_a_file_above_the_size_limit_is_refused_without_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytemca_parse, "MAX_METAFILE_BYTES", 1000)
    with pytest.raises(MetafileFault, match="should have at most") as caught:
        parse_metafile(raw(section()), NAME)
    assert caught.value.waiting_helps is Waiting.NEVER


def test_a_metafile_of_twenty_thousand_tiles_is_parsed() -> None:
    head, data = section()
    rows = (data["data"] * 2_000)[:20_000]
    found = parse_metafile(raw([head, {"data": rows}]), NAME)
    assert found.tiles == (metafile().tiles * 2_000)[:20_000]


# ---------------------------------------------------------------------------------------------------------- consistency


def test_a_valid_section_has_no_findings() -> None:
    assert findings() == ()


@real_data
@pytest.mark.parametrize("path", [MONTAGE, LENS_SET], ids=["montage", "lens set"])
def test_real_metafiles_have_no_findings(path: Path) -> None:
    assert check_metafile(parse_metafile(path.read_bytes(), path.name), path.name) == ()


@real_data
def test_a_lens_correction_set_is_recognised_by_its_header() -> None:
    assert parse_metafile(LENS_SET.read_bytes(), LENS_SET.name).header.is_reference
    assert not parse_metafile(MONTAGE.read_bytes(), MONTAGE.name).header.is_reference


@real_data
@pytest.mark.parametrize("path", [MONTAGE, LENS_SET], ids=["montage", "lens set"])
def test_the_step_tolerance_is_twice_the_deviation_of_real_stages(path: Path) -> None:
    found = parse_metafile(path.read_bytes(), path.name)
    assert check_metafile(found, path.name, step_tolerance=0.01) == ()
    assert check_metafile(found, path.name, step_tolerance=0.005)


@pytest.mark.parametrize(
    "change",
    [
        lambda head, _: head.update(session_id="17797_1R_152"),
        lambda head, _: head.update(grid="000043", z_index=43),
        lambda head, _: head.update(roi_index=1),
    ],
    ids=["session", "grid", "roi"],
)
def test_a_header_that_contradicts_all_names_is_an_error(change: Change) -> None:
    found = findings(change)
    assert [finding.severity for finding in found] == [Severity.ERROR, Severity.ERROR]
    assert "by the header" in found[0].text
    assert "and 8 more" in found[1].text


def test_a_metafile_renamed_to_another_section_is_an_error() -> None:
    (finding,) = findings(name="_metadata_20180601120000_17797_1R_151_000043_0_.json")
    assert finding.severity is Severity.ERROR
    assert repr(NAME) in finding.text


def test_a_metafile_name_with_another_time_than_the_header_is_an_error() -> None:
    (finding,) = findings(name=NAME.replace("120000", "120001"))
    assert finding.severity is Severity.ERROR


@pytest.mark.parametrize("name", ["metadata.json", "_metadata_copy.json", "_metadata_x_000042_0_.json"])
def test_a_metafile_name_of_another_form_is_a_warning(name: str) -> None:
    (finding,) = findings(name=name)
    assert finding.severity is Severity.WARNING
    assert "cannot be compared" in finding.text


def as_reference(head: dict[str, Any], tiles: list[dict[str, Any]]) -> None:
    head.update(grid="20180601115959_reference", z_index="")
    for tile in tiles:
        tile["img_path"] = tile["img_path"].replace("_000042_", "_20180601115959_reference_")


@pytest.mark.parametrize(("time_named", "count"), [("20180601120000", 0), ("20180601115957", 0), ("20180601140000", 1)])
def test_the_time_in_the_name_of_a_reference_may_differ_by_seconds(time_named: str, count: int) -> None:
    name = f"_metadata_{time_named}_17797_1R_151_20180601115959_reference_0_.json"
    assert len(findings(as_reference, name)) == count


def test_an_image_name_with_another_raster_position_is_an_error_that_names_it() -> None:
    finding = only(lambda _, tiles: tiles[4].update(img_path=tiles[4]["img_path"].replace("_1_1.tif", "_2_2.tif")))
    assert finding.severity is Severity.ERROR
    assert "data[4]" in finding.text


def test_image_names_of_another_form_are_a_warning() -> None:
    def rename(_: object, tiles: list[dict[str, Any]]) -> None:
        for number, tile in enumerate(tiles):
            tile["img_path"] = f"tile_{number}.tif"

    finding = only(rename)
    assert finding.severity is Severity.WARNING
    assert "and 8 more" in finding.text


def test_a_duplicate_image_name_is_an_error() -> None:
    found = findings(lambda _, tiles: tiles[4].update(img_path=tiles[3]["img_path"]))
    assert any(f.severity is Severity.ERROR and "more than once" in f.text for f in found)
    assert len(metafile(lambda _, tiles: tiles[4].update(img_path=tiles[3]["img_path"])).tiles) == 11


def test_images_that_would_share_a_tile_id_are_an_error() -> None:
    found = findings(lambda _, tiles: tiles[4].update(img_path="sub/" + tiles[3]["img_path"]))
    assert any(f.severity is Severity.ERROR and "share an id" in f.text for f in found)


def test_two_tiles_at_one_raster_position_are_an_error() -> None:
    def change(_: object, tiles: list[dict[str, Any]]) -> None:
        tiles[4]["img_meta"]["raster_pos"] = tiles[3]["img_meta"]["raster_pos"]
        tiles[4]["img_meta"]["stage_pos"] = tiles[3]["img_meta"]["stage_pos"]
        tiles[4]["img_path"] = tiles[4]["img_path"].replace("_1_1.tif", "_0_1.tif")
        tiles[4]["matcher"] = []

    found = findings(change)
    assert "raster_pos (column, row) occurs more than once: (0, 1) (2 times)" in found[0].text
    assert found[0].severity is Severity.ERROR


def test_a_gap_in_the_raster_indices_is_a_warning() -> None:
    finding = only(lambda _, tiles: tiles[-1]["img_meta"].update(raster_index=11))
    assert finding == Finding(Severity.WARNING, "raster_index is missing between 0 and 10: 10")


def test_a_duplicate_raster_index_is_a_warning() -> None:
    found = findings(lambda _, tiles: tiles[-1]["img_meta"].update(raster_index=3))
    assert any("raster_index occurs more than once: 3 (2 times)" in finding.text for finding in found)
    assert {finding.severity for finding in found} == {Severity.WARNING}


def test_the_order_of_the_records_does_not_matter() -> None:
    assert findings(lambda _, tiles: tiles.reverse()) == ()


def restamp(number: int, stamp: str) -> Change:
    return lambda _, tiles: tiles[number].update(img_path=stamp + tiles[number]["img_path"][17:])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (restamp(5, "20180601120101000"), "do not rise"),
        (restamp(4, "20180601120103000"), "do not rise"),
        (restamp(10, "20181301120103000"), "should begin with a time"),
        (restamp(0, "20180601115959999"), "older than the region"),
    ],
)
def test_time_stamps_out_of_order_are_a_warning(change: Change, text: str) -> None:
    finding = only(change)
    assert finding.severity is Severity.WARNING
    assert text in finding.text


@pytest.mark.parametrize(
    ("key", "value"),
    [("angle", 90.5), ("pixel_size", 4.05), ("pixel_size_x_move", 4.02), ("pixel_size_y_move", 4.02)],
)
def test_a_tile_with_another_angle_or_pixel_size_is_a_warning(key: str, value: float) -> None:
    found = findings(lambda _, tiles: tiles[0]["img_meta"].update({key: value}))
    assert Severity.ERROR not in {finding.severity for finding in found}
    assert any(finding.text.startswith(f"{key} should be the same in all tiles") for finding in found)


def test_tiles_rotated_against_the_calibration_are_a_warning() -> None:
    finding = only(lambda head, _: head["calibration"]["highmag"].update(angle=91.0))
    assert finding.text == "angle is 90.0 in the tiles and 91.0 in the header's highmag calibration"


def test_a_calibration_that_differs_in_x_and_y_is_a_warning() -> None:
    finding = only(lambda head, _: head["calibration"]["highmag"].update(y_nm_per_pix=4.1))
    assert finding.severity is Severity.WARNING
    assert "4.0 nm per pixel in x and 4.1 in y" in finding.text


def test_a_pixel_size_for_motion_far_from_the_nominal_one_is_a_warning() -> None:
    def change(_: object, tiles: list[dict[str, Any]]) -> None:
        for tile in tiles:
            tile["img_meta"]["pixel_size_x_move"] = 4.4

    assert any("pixel_size_x_move is 4.4, far from" in finding.text for finding in findings(change))


def test_a_tile_off_the_grid_is_a_warning_that_gives_the_step() -> None:
    def move(_: object, tiles: list[dict[str, Any]]) -> None:
        tiles[0]["img_meta"]["stage_pos"][0] += 800

    column, row = findings(move)
    assert {column.severity, row.severity} == {Severity.WARNING}
    assert "a column step should be (4898.6, 0.0) px, within (110.1, 110.1): from (1, 0) to (2, 0)" in column.text
    assert "a row step should be (0.0, 4898.6) px" in row.text


def test_a_mirrored_stage_is_a_warning() -> None:
    def mirror(_: object, tiles: list[dict[str, Any]]) -> None:
        for tile in tiles:
            tile["img_meta"]["stage_pos"][0] *= -1

    assert any("a row step" in finding.text for finding in findings(mirror))


def test_a_stage_position_two_pixels_off_the_grid_is_no_finding() -> None:
    assert findings(lambda _, tiles: tiles[0]["img_meta"]["stage_pos"].__setitem__(0, 8)) == ()


def test_a_header_without_overlap_is_a_warning_that_steps_cannot_be_checked() -> None:
    finding = only(lambda head, _: head.pop("overlap"))
    assert "cannot be checked" in finding.text


@pytest.mark.parametrize("overlap", [-0.1, 1, 1.5, "0.1"], ids=repr)
def test_an_invalid_overlap_counts_as_absent(overlap: object) -> None:
    assert "no overlap" in only(lambda head, _: head.update(overlap=overlap)).text


@pytest.mark.parametrize(("number", "match", "quality"), [(0, 0, 5), (1, 1, -1), (4, 0, -1), (3, 1, 0)])
def test_a_match_quality_that_contradicts_the_neighbours_is_a_warning(number: int, match: int, quality: int) -> None:
    finding = only(lambda _, tiles: tiles[number]["matcher"][match].update(match_quality=quality))
    assert finding.severity is Severity.WARNING
    assert "match_quality" in finding.text


def test_no_match_found_with_a_neighbour_is_no_finding() -> None:
    assert findings(lambda _, tiles: tiles[4]["matcher"][0].update(match_quality=0)) == ()


def test_a_match_at_the_position_of_neither_the_tile_nor_its_neighbour_is_a_warning() -> None:
    assert findings(lambda _, tiles: tiles[4]["matcher"][0].update(col=1, row=0)) == ()
    assert "places other than the tile" in only(lambda _, tiles: tiles[4]["matcher"][0].update(col=3, row=2)).text


def test_a_z_index_that_differs_from_the_grid_is_a_warning() -> None:
    finding = only(lambda head, _: head.update(z_index=41))
    assert finding == Finding(Severity.WARNING, "z_index is 41, but the grid is 000042")


def test_a_shared_transform_that_is_not_an_object_is_a_warning() -> None:
    found = parse_metafile(raw([*section(), {"sharedTransform": "lens.json"}]), NAME)
    assert found.shared_transform == "lens.json"
    assert shared_transform_for(found) is None
    (finding,) = check_metafile(found, NAME)
    assert "sharedTransform should be an object" in finding.text


def test_errors_come_before_warnings() -> None:
    def change(head: dict[str, Any], tiles: list[dict[str, Any]]) -> None:
        head.update(z_index=41)
        tiles[4].update(img_path=tiles[3]["img_path"])

    found = [finding.severity for finding in findings(change)]
    assert found == sorted(found)
    assert len(set(found)) == 2


@pytest.mark.parametrize("number", [0, 199, 200, 450])
@pytest.mark.parametrize("has_nan", [False, True], ids=["tiles parsed in portions", "whole file parsed at once"])
def test_an_invalid_tile_is_named_by_its_index_in_the_whole_file(number, has_nan):
    value = section()
    row = value[1]["data"][0]
    value[1]["data"] = [{**row, "img_path": f"{index}.tif"} for index in range(500)]
    value[1]["data"][number]["img_meta"] = {**row["img_meta"], "stage_pos": [1.0]}
    content = raw(value)
    if has_nan:
        content = content.replace(b'"overlap": ', b'"other": NaN, "overlap": ')
    assert f"data[{number}].img_meta.stage_pos[1]: missing" in str(read(content))


def test_a_tile_that_is_not_utf_8_makes_a_partial_metafile():
    assert isinstance(read(raw(section()).replace(b'"img_path": "', b'"img_path": "\xff')), MetafilePartial)


def test_a_key_in_two_elements_is_refused():
    lens = {"sharedTransform": {"id": "lens", "type": "leaf"}}
    for part in (*section(), lens):
        fault = read(raw([*section(), lens, part]))
        assert isinstance(fault, MetafileFault)
        assert f"{next(iter(part))}: should be in one element, found in two" in str(fault)


def test_an_image_width_may_be_written_as_a_float():
    value = section()
    value[0]["metadata"]["camera_info"]["width"] = 5504.0
    found = read(raw(value))
    assert isinstance(found, Metafile)
    assert (type(found.header.camera.width), found.header.camera.width) == (int, 5504)
