"""Rules and verdicts: examples of each rule, a comparison with the tests of TileQC, and metafiles with any values."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.simulator.pytemca import TileStatistics, metafile_bytes
from daemon.simulator.section import plan_section
from handlers.acquisition.formats.pytemca_parse import parse_metafile
from handlers.quality.from_metafile import tile_numbers
from handlers.quality.numbers import TileNumbers
from handlers.quality.rules import Finding, Judgement, Limits, Rule, Surroundings, Verdict
from handlers.quality.verdict import MAX_TILES, judge, median_focus, outside
from tests.unit.sections import MONTAGE, NO_DATA

NONE = Limits(*[None] * 9)


def numbers_of(**columns: list[float]) -> TileNumbers:
    (count,) = {len(values) for values in columns.values()}
    arrays = {name: np.array(values, np.float64) for name, values in columns.items()}
    return TileNumbers.of(tuple(f"t{index}" for index in range(count)), arrays)


def finding_of(rule: Rule, judgement: Judgement) -> Finding:
    return next(finding for finding in judgement.findings if finding.rule is rule)


nan = float("nan")


@pytest.mark.parametrize(
    ("rule", "columns", "value", "tiles"),
    [
        (Rule.MIN_FOCUS, {"focus_score": [22.0, 15.9, nan, 3.0]}, 3.0, ("t3", "t1")),
        (Rule.MIN_STD_DEV, {"std_dev": [4.0, 5.5, 3.0]}, 12.5 / 3, ("t2", "t0")),
        (
            Rule.MAX_UNMATCHED_EDGES,
            {"left_quality": [nan, 0.0, 3.0], "top_quality": [nan, 0.0, 0.0]},
            3.0,
            ("t1", "t2"),
        ),
        (Rule.MAX_WEAK_EDGES, {"right_quality": [1.0, 2.0, nan]}, 1.0, ("t0",)),
        (Rule.MAX_SATURATED_SHARE, {"saturated_share": [0.0, 0.011, 0.01, 0.5]}, 0.5, ("t3", "t1")),
        (Rule.MAX_BLANK_TILES, {"darkest": [9.0, 0.0, nan], "brightest": [9.0, 1.0, nan]}, 1.0, ("t0",)),
        (Rule.MAX_REPEATED_TILES, {"darkest": [0.0, 0.0, 1.0], "repeat_of": [nan, nan, 0.0]}, 1.0, ("t2",)),
    ],
)
def test_a_broken_limit_fails_and_names_its_tiles_the_worst_first(
    rule: Rule, columns: dict[str, list[float]], value: float, tiles: tuple[str, ...]
) -> None:
    judgement = judge(numbers_of(**columns), Limits())
    found = finding_of(rule, judgement)
    assert (found.verdict, found.value, found.tiles, found.tile_count) == (Verdict.FAIL, value, tiles, len(tiles))
    assert judgement.verdict is Verdict.FAIL
    assert judgement.tiles == tiles


def test_a_tile_far_from_its_stage_position_needs_a_review() -> None:
    numbers = numbers_of(stage_x=[0.0, 12.0, -3.0, nan], stage_y=[0.0, -16.0, 4.0, nan])
    judgement = judge(numbers, Limits(), Surroundings(overlap_px=72.0))
    found = finding_of(Rule.MAX_STAGE_ERROR_SHARE, judgement)
    assert found == Finding(Rule.MAX_STAGE_ERROR_SHARE, 18.0, 20.0, Verdict.REVIEW, ("t1",), 1)
    assert judgement.verdict is Verdict.REVIEW
    without_overlap = finding_of(Rule.MAX_STAGE_ERROR_SHARE, judge(numbers, Limits()))
    assert (without_overlap.value, without_overlap.verdict) == (None, Verdict.PASS)


def test_a_focus_below_that_of_the_last_sections_needs_a_review() -> None:
    numbers = numbers_of(focus_score=[18.0, 17.0, 19.0])
    assert median_focus(numbers) == 18.0
    dropped = judge(numbers, Limits(), Surroundings(usual_focus=24.0))
    assert finding_of(Rule.MAX_FOCUS_DROP, dropped).value == pytest.approx(0.25)
    assert dropped.verdict is Verdict.REVIEW
    assert judge(numbers, Limits(), Surroundings(usual_focus=22.0)).verdict is Verdict.PASS
    assert finding_of(Rule.MAX_FOCUS_DROP, judge(numbers, Limits())).value is None


def test_numbers_at_their_limits_pass() -> None:
    numbers = numbers_of(
        focus_score=[16.0], std_dev=[5.0], left_quality=[2.0], saturated_share=[0.01], darkest=[0.0], brightest=[1.0]
    )
    judgement = judge(numbers, Limits())
    assert judgement.verdict is Verdict.PASS
    assert judgement.tiles == ()


@pytest.mark.parametrize("rule", list(Rule))
def test_each_rule_can_be_switched_off(rule: Rule) -> None:
    numbers = numbers_of(
        focus_score=[1.0, 2.0],
        std_dev=[1.0, 1.0],
        left_quality=[nan, 0.0],
        top_quality=[1.0, 1.0],
        saturated_share=[1.0, 0.0],
        darkest=[0.0, 0.0],
        brightest=[0.0, 0.0],
        repeat_of=[nan, 0.0],
        stage_x=[0.0, 99.0],
        stage_y=[0.0, 0.0],
    )
    around = Surroundings(72.0, 22.0)
    all_on = judge(numbers, Limits(), around)
    assert {finding.rule for finding in all_on.findings if finding.verdict is not Verdict.PASS} == set(Rule)
    limits = {each: None if each is rule else getattr(Limits(), each) for each in Rule}
    assert {finding.rule for finding in judge(numbers, Limits(**limits), around).findings} == set(Rule) - {rule}
    assert judge(numbers, NONE, around) == Judgement(Verdict.PASS, ())


def test_a_finding_names_a_bounded_number_of_tiles_and_counts_all() -> None:
    found = finding_of(Rule.MIN_FOCUS, judge(numbers_of(focus_score=[float(each) for each in range(500)]), Limits(500)))
    assert (len(found.tiles), found.tile_count, found.tiles[0]) == (MAX_TILES, 500, "t0")


def test_a_finding_is_the_same_after_conversion_to_json_and_back() -> None:
    found = Finding(Rule.MIN_FOCUS, 16.0, None, Verdict.PASS, ("t1",), 1)
    assert Finding.from_json(json.loads(json.dumps(found.to_json()))) == found


# --- TileQC


def tileqc_failures(content: bytes) -> set[str]:
    """Return the tests of TileQC that a metafile fails, with the limits of its manual, without its inverted test."""
    tiles = json.loads(content)[1]["data"]
    edges = [edge["match_quality"] for tile in tiles for edge in tile.get("matcher", [])]
    failed = set()
    if edges.count(0) > 0:
        failed.add("max_match_0")
    if edges.count(1) > 0:
        failed.add("max_match_1")
    if sum(tile.get("std_dev", 0) for tile in tiles) / len(tiles) < 5:
        failed.add("min_mean_std_dev")
    if any(tile["focus_score"] < 16 for tile in tiles):
        failed.add("min_focus")
    return failed


TILEQC = {
    Rule.MAX_UNMATCHED_EDGES: "max_match_0",
    Rule.MAX_WEAK_EDGES: "max_match_1",
    Rule.MIN_STD_DEV: "min_mean_std_dev",
    Rule.MIN_FOCUS: "min_focus",
}


def own_failures(content: bytes) -> tuple[set[str], set[str]]:
    """Return the names of the TileQC tests whose rules a metafile fails, and of those whose rules have no value."""
    metafile = parse_metafile(content, "metafile")
    numbers = tile_numbers(metafile, [tile.basename for tile in metafile.tiles])
    findings = [finding for finding in judge(numbers, Limits()).findings if finding.rule in TILEQC]
    failed = {TILEQC[finding.rule] for finding in findings if finding.verdict is Verdict.FAIL}
    return failed, {TILEQC[finding.rule] for finding in findings if finding.value is None}


@pytest.mark.skipif(not MONTAGE.exists(), reason=NO_DATA)
def test_the_real_section_is_judged_as_tileqc_does_except_for_numbers_that_it_lacks() -> None:
    content = MONTAGE.read_bytes()
    failed, unknown = own_failures(content)
    # The microscope did not write standard deviations. TileQC counts them as 0, and the section fails.
    assert tileqc_failures(content) == {"min_mean_std_dev"}
    assert failed == set()
    assert unknown == {"max_match_0", "max_match_1", "min_mean_std_dev"}


statistics = st.builds(
    TileStatistics,
    minimum=st.just(0),
    maximum=st.just(65535),
    mean=st.just(32000),
    std_dev=st.integers(3, 8),
    focus_score=st.sampled_from([15.99, 16.0, 22.5]),
)


@given(st.data())
def test_every_section_with_all_numbers_is_judged_as_tileqc_does(data: st.DataObject) -> None:
    plan = plan_section(tiles=data.draw(st.integers(1, 9)))
    measured = data.draw(st.lists(statistics, min_size=len(plan.tiles), max_size=len(plan.tiles)))
    document = json.loads(metafile_bytes(plan, measured))
    for tile in document[1]["data"]:
        for edge in tile["matcher"]:
            if edge["match_quality"] >= 0:
                edge["match_quality"] = data.draw(st.sampled_from([0, 1, 2, 3, 3, 3]))
    content = json.dumps(document).encode()
    assert own_failures(content)[0] == tileqc_failures(content)


# --- metafiles with any values

any_tile = st.fixed_dictionaries(
    {},
    optional={
        "focus_score": st.one_of(st.floats(), st.none(), st.just("x")),
        "std_dev": st.one_of(st.integers(), st.none()),
        "matcher": st.one_of(
            st.none(),
            st.just([]),
            st.just({}),
            st.lists(st.fixed_dictionaries({"position": st.integers(0, 5), "match_quality": st.integers(-2, 9)})),
        ),
    },
)


def with_tiles(document: list[Any], tiles: list[Mapping[str, Any]]) -> bytes:
    for tile, values in zip(document[1]["data"], tiles, strict=True):
        for key in ("focus_score", "std_dev", "matcher"):
            tile.pop(key)
        tile.update(values)
    return json.dumps(document).encode()


@given(st.data())
def test_a_metafile_with_any_values_is_judged_by_the_numbers_that_it_has(data: st.DataObject) -> None:
    plan = plan_section(tiles=data.draw(st.integers(1, 5)))
    one = TileStatistics(0, 65535, 32000, 9, 22.0)
    document = json.loads(metafile_bytes(plan, [one] * len(plan.tiles)))
    tiles = data.draw(st.lists(any_tile, min_size=len(plan.tiles), max_size=len(plan.tiles)))
    metafile = parse_metafile(with_tiles(document, tiles), "metafile")
    numbers = tile_numbers(metafile, [tile.basename for tile in metafile.tiles])
    judgement = judge(numbers, Limits(), Surroundings(72.0, 22.0))
    assert {finding.rule for finding in judgement.findings} == set(Rule)
    json.dumps([finding.to_json() for finding in judgement.findings], allow_nan=False)
    scores = [tile.focus_score for tile in metafile.tiles if tile.focus_score is not None]
    found = finding_of(Rule.MIN_FOCUS, judgement)
    assert found.value == (min(scores) if scores else None)
    assert found.tile_count == sum(score < 16 for score in scores)
    assert outside(Rule.MIN_FOCUS, 16, numbers).sum() == found.tile_count
