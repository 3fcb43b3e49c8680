"""z of a metafile: rules, offsets, tables and warnings."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sections import NAME, Change, acquisition

from handlers.acquisition.acquisition import Acquisition
from handlers.acquisition.z import ZRule, ZRuleKind, ZTable, check_z, parse_z_table, read_z_table, z_for
from handlers.errors import SettingsFault, StorageFault, ZFault

PATH = Path("/data/temca2/17797_1R_151/000042/0") / NAME


def header_change(**values: object) -> Change:
    return lambda header, _: header.update(values)


def z(rule: ZRule, change: Change | None = None, path: Path = PATH) -> float:
    return z_for(acquisition(change), path, rule)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (ZRule(ZRuleKind.HEADER), 42.0),
        (ZRule(ZRuleKind.GRID), 42.0),
        (ZRule(ZRuleKind.NAME), 42.0),
        (ZRule(ZRuleKind.TABLE, table=parse_z_table("grid,z\n42,7.25", "z.csv")), 7.25),
        (ZRule(ZRuleKind.FIXED, fixed=5.5), 5.5),
    ],
    ids=lambda value: value.rule if isinstance(value, ZRule) else None,
)
@pytest.mark.parametrize(
    ("offset", "by_media", "added"), [(0, {}, 0), (1000.5, {}, 1000.5), (7, {"0151": 130000}, 130000)]
)
def test_z_is_the_rules_result_plus_the_offset_of_the_reel(
    rule: ZRule, expected: float, offset: float, by_media: dict[str, float], added: float
) -> None:
    with_offset = ZRule(rule.rule, offset, by_media, table=rule.table, fixed=rule.fixed)
    found = z(with_offset)
    assert isinstance(found, float)
    assert found == expected + added


def test_a_reel_without_an_offset_gets_the_general_offset_and_a_warning() -> None:
    rule = ZRule(ZRuleKind.GRID, 500, {"0147": 100000})
    for change in (None, header_change(media_id=None)):
        assert z(rule, change) == 542.0
        (finding,) = check_z(acquisition(change), 542.0, rule)
        assert "0147" in finding.text


@pytest.mark.parametrize("media_id", [147, 147.0, "0147"])
def test_a_reel_whose_number_lost_its_leading_zeros_has_its_offset(media_id: object) -> None:
    rule = ZRule(ZRuleKind.GRID, 500, {"0147": 100000})
    assert z(rule, header_change(media_id=media_id)) == 100042
    assert check_z(acquisition(header_change(media_id=media_id)), 100042, rule) == ()


def test_a_header_without_grid_has_no_z_by_the_grid() -> None:
    with pytest.raises(ZFault, match=r"metadata\.grid: missing"):
        z(ZRule(ZRuleKind.GRID), header_change(grid=None))


def test_a_fraction_of_z_is_kept() -> None:
    assert z(ZRule(ZRuleKind.FIXED, fixed=5.5)) == 5.5
    assert z(ZRule(ZRuleKind.HEADER), header_change(z_index=5.5)) == 5.5
    assert z(ZRule(ZRuleKind.NAME, name_pattern=r"_z(?P<z>[\d.]+)_"), path=Path("/d/a_z7.25_.json")) == 7.25


@given(st.floats(allow_nan=False, allow_infinity=False, width=32), st.integers(0, 999_999))
def test_an_offset_is_added_to_z(offset: float, number: int) -> None:
    change = header_change(grid=f"{number:06d}")
    assert z(ZRule(ZRuleKind.GRID, offset), change) == number + offset


@pytest.mark.parametrize("z_index", ["", None, "42", []], ids=repr)
def test_a_header_without_z_index_has_no_z_by_the_header(z_index: object) -> None:
    with pytest.raises(ZFault, match=f"^{NAME}: metadata.z_index: should be a number"):
        z(ZRule(ZRuleKind.HEADER), header_change(z_index=z_index))


@pytest.mark.parametrize("grid", ["20170502174047_reference", "12a", "-5", "1.5", "٤٢"])
def test_a_grid_that_is_not_a_number_gives_no_z(grid: str) -> None:
    with pytest.raises(ZFault, match="should be a number"):
        z(ZRule(ZRuleKind.GRID), header_change(grid=grid))


def test_a_pattern_with_a_slash_is_searched_in_the_whole_path() -> None:
    assert z(ZRule(ZRuleKind.NAME, name_pattern=r"/(?P<z>\d+)/\d+/_metadata_")) == 42.0


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        (r"section(?P<z>\d+)", "does not match"),
        (r"(?P<z>17797_1R)", "should be a finite number"),
        (r"_(?P<z>x)?", "does not match"),
    ],
)
def test_a_name_without_z_is_refused(pattern: str, problem: str) -> None:
    with pytest.raises(ZFault, match=problem):
        z(ZRule(ZRuleKind.NAME, name_pattern=pattern))


# --------------------------------------------------------------------------------------------------------------- tables


def table_z(text: str, change: Change | None = None) -> float:
    return z(ZRule(ZRuleKind.TABLE, table=parse_z_table(text, "z.csv")), change)


@pytest.mark.parametrize(
    "text",
    [
        "grid,z\n000042,7",
        "z, grid\n7, 42",
        "grid,roi_index,z\n42,1,8\n42,0,7",
        "grid,roi_index,z\n42,,7\n43,,8",
        "session_id,z\n17797_1R_151,7",
        "specimen_id,media_id,grid,z\n17797_1R,151,42,7\n17797_1R,147,42,8",
        f"metafile,z\n{NAME},7",
        'grid,z\r\n"000042","7"\r\n\r\n,\r\n',
        "grid,z\n42,7\n42,7.0",
    ],
)
def test_a_row_is_found_by_any_set_of_columns(text: str) -> None:
    assert table_z(text) == 7.0


def test_a_section_without_a_row_is_refused_with_its_values() -> None:
    with pytest.raises(ZFault, match=r"no row of z.csv has grid '000042', roi_index '0'"):
        table_z("grid,roi_index,z\n42,1,7\n41,0,6")


def test_rows_that_disagree_are_refused_with_their_lines() -> None:
    with pytest.raises(ZFault, match=r"lines 2, 4 of z.csv"):
        table_z("grid,z\n42,7\n43,8\n000042,9")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "should have a column z"),
        ("grid,z\n", "has no rows"),
        ("grid\n42", "should have a column z"),
        ("z\n42", "should have a column z and a column to match"),
        ("grid,z,z\n1,2,3", "a column twice"),
        ("aperture,z\n1,2", "found 'aperture'"),
        ("grid,z\n1", "line 2: should have 2 cells, has 1"),
        ("grid,z\n1,2\n3,x", "line 3: z should be a finite number"),
        ("grid,z\n1,nan", "line 2: z should be a finite number"),
        ("grid,z\n1,", "line 2: z should be a finite number"),
        ("grid,z\n,5", "line 2: has no cell that matches a metafile"),
    ],
)
def test_an_invalid_table_is_refused(text: str, problem: str) -> None:
    with pytest.raises(SettingsFault, match=problem):
        parse_z_table(text, "z.csv")


def test_a_table_is_read_from_a_file_with_or_without_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "z.csv"
    for mark in ("", "\ufeff"):
        path.write_text(mark + "grid,z\n42,7\n", encoding="utf-8")
        found = read_z_table(path)
        assert isinstance(found, ZTable)
        assert found.name == str(path)
        assert found.rows[0].z == 7.0


def test_a_missing_table_or_one_that_is_not_text_is_a_settings_fault(tmp_path: Path) -> None:
    with pytest.raises(SettingsFault, match="cannot be read"):
        read_z_table(tmp_path / "z.csv")
    with pytest.raises(SettingsFault, match="is not a regular file"):
        read_z_table(tmp_path)
    (tmp_path / "z.csv").write_bytes(b"grid,z\n\xff,1\n")
    with pytest.raises(SettingsFault, match="should be UTF-8"):
        read_z_table(tmp_path / "z.csv")


def test_a_table_that_the_file_system_cannot_open_is_a_storage_fault(tmp_path: Path) -> None:
    with pytest.raises(StorageFault, match="z table"):
        read_z_table(tmp_path / ("z" * 300))


# ------------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"rule": ZRuleKind.TABLE}, "z.table"),
        ({"rule": ZRuleKind.FIXED}, "z.z"),
        ({"rule": ZRuleKind.FIXED, "fixed": float("inf")}, "z.z"),
        ({"rule": ZRuleKind.GRID, "offset": float("nan")}, "z.offset"),
        ({"rule": ZRuleKind.GRID, "offsets_by_media": {"0151": float("nan")}}, r"z\.offsets_by_media\.0151"),
        ({"rule": ZRuleKind.NAME, "name_pattern": r"(\d+"}, "z.name_pattern"),
        ({"rule": ZRuleKind.NAME, "name_pattern": r"(\d+)"}, "z.name_pattern"),
    ],
)
def test_an_invalid_rule_names_its_setting(values: dict[str, Any], key: str) -> None:
    with pytest.raises(SettingsFault, match=f"^{key}: "):
        ZRule(**values)


def test_a_z_that_contradicts_the_header_is_a_warning() -> None:
    rule = ZRule(ZRuleKind.FIXED, fixed=1050.0)
    assert check_z(acquisition(header_change(grid="001050", z_index=1050)), 1050.0, rule) == ()
    first, second = check_z(acquisition(), 1050.0, rule)
    assert "z_index 42" in first.text
    assert "grid 42" in second.text


def test_an_offset_does_not_contradict_the_header() -> None:
    rule = ZRule(ZRuleKind.GRID, offsets_by_media={"0151": 130000})
    assert check_z(acquisition(), 130042.0, rule) == ()


@pytest.mark.parametrize(("offset", "shown"), [(0, "z is 7.0, but"), (5, "z is 7.0, 2.0 without its offset, but")])
def test_a_warning_about_z_names_the_offset_only_if_there_is_one(offset: float, shown: str) -> None:
    first, *_ = check_z(acquisition(), 7.0, ZRule(ZRuleKind.GRID, offset))
    assert first.text.startswith(shown)


def test_z_of_another_format_is_not_compared_with_its_slab_or_slice() -> None:
    found = Acquisition("table", (), {"grid": "012", "z_index": 3}, None)
    assert check_z(found, 99.0, ZRule(ZRuleKind.FIXED, fixed=99.0)) == ()


@pytest.mark.parametrize(
    ("thickness_nm", "spacing_nm", "expected"),
    [(50.0, None, 21.6), (40.0, None, 27.0), (40.0, 50.0, 21.6), (None, 45.0, 24.0)],
)
def test_z_by_depth_is_the_depth_over_the_distance_of_two_z(
    thickness_nm: float | None, spacing_nm: float | None, expected: float
) -> None:
    found = Acquisition("slice", (), {}, None, thickness_nm=thickness_nm, depth_nm=1080.0)
    assert z_for(found, PATH, ZRule(ZRuleKind.DEPTH, spacing_nm=spacing_nm)) == pytest.approx(expected)
    assert z_for(found, PATH, ZRule(ZRuleKind.DEPTH, 100, spacing_nm=spacing_nm)) == pytest.approx(100 + expected)


def test_a_section_without_depth_has_no_z_by_depth() -> None:
    with pytest.raises(ZFault, match="has no depth or no thickness"):
        z_for(Acquisition("slice", (), {}, None, thickness_nm=50.0), PATH, ZRule(ZRuleKind.DEPTH))
