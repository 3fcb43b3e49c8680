"""Verdict on a montage: each rule compares a number of its tiles with a limit. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from handlers.quality.numbers import Floats, TileNumbers, median
from handlers.quality.rules import Finding, Judgement, Limits, Rule, Surroundings, Verdict

Flags = npt.NDArray[np.bool_]

MAX_TILES = 100
"""Largest number of tiles that a finding lists, the worst first. Its count has no limit."""


@dataclass(frozen=True, slots=True)
class _Test:
    """Comparison of a rule's numbers with its limit."""

    of_tiles: Callable[[TileNumbers], Floats]
    """Returns the number of each tile, (n,); NaN if it is unknown."""
    of_section: Callable[[Floats], float]
    """Returns the value that is compared with the limit, given the known numbers of tiles."""
    verdict: Verdict = Verdict.FAIL
    """Verdict if the limit is broken."""
    is_minimum: bool = False
    counts_tiles: bool = False
    """Whether the limit counts tiles or edges, so that a tile breaks it with any number above 0."""


def _edges_with(matches: int) -> Callable[[TileNumbers], Floats]:
    def count(numbers: TileNumbers) -> Floats:
        sides = np.stack([numbers.left_quality, numbers.top_quality, numbers.right_quality])
        counts: Floats = np.where(np.isnan(sides).all(axis=0), np.nan, (sides == matches).sum(axis=0))
        return counts

    return count


def stage_error(numbers: TileNumbers) -> Floats:
    """Return the displacement of each tile from its stage position, (n,), level-0 pixels."""
    distance: Floats = np.hypot(numbers.stage_x, numbers.stage_y)
    return distance


def _blank(numbers: TileNumbers) -> Floats:
    return np.where(np.isnan(numbers.darkest), np.nan, numbers.is_blank)


def _repeated(numbers: TileNumbers) -> Floats:
    return np.where(np.isnan(numbers.darkest), np.nan, np.isfinite(numbers.repeat_of))


_TESTS: Final[Mapping[Rule, _Test]] = MappingProxyType(
    {
        Rule.MIN_FOCUS: _Test(lambda numbers: numbers.focus_score, np.min, is_minimum=True),
        Rule.MIN_STD_DEV: _Test(lambda numbers: numbers.std_dev, np.mean, is_minimum=True),
        Rule.MAX_UNMATCHED_EDGES: _Test(_edges_with(0), np.sum, counts_tiles=True),
        Rule.MAX_WEAK_EDGES: _Test(_edges_with(1), np.sum, counts_tiles=True),
        Rule.MAX_SATURATED_SHARE: _Test(lambda numbers: numbers.saturated_share, np.max),
        Rule.MAX_BLANK_TILES: _Test(_blank, np.sum, counts_tiles=True),
        Rule.MAX_REPEATED_TILES: _Test(_repeated, np.sum, counts_tiles=True),
        Rule.MAX_STAGE_ERROR_SHARE: _Test(stage_error, np.max, Verdict.REVIEW),
    }
)
"""Tests of the rules about single tiles."""

_ORDER = tuple(Verdict)
"""Verdicts from the best to the worst."""

_ALONE = Surroundings()


def judge(numbers: TileNumbers, limits: Limits, around: Surroundings = _ALONE) -> Judgement:
    """Return the findings of every rule that is not off, and the worst verdict."""
    findings = tuple(
        _finding(rule, float(limit), numbers, around) for rule in Rule if (limit := getattr(limits, rule)) is not None
    )
    worst = max((_ORDER.index(finding.verdict) for finding in findings), default=0)
    return Judgement(_ORDER[worst], findings)


def _finding(rule: Rule, limit: float, numbers: TileNumbers, around: Surroundings) -> Finding:
    if rule is Rule.MAX_FOCUS_DROP:
        drop = _focus_drop(numbers, around.usual_focus)
        is_broken = drop is not None and drop > limit
        return Finding(rule, limit, drop, Verdict.REVIEW if is_broken else Verdict.PASS)
    if rule is Rule.MAX_STAGE_ERROR_SHARE:
        if around.overlap_px is None:
            return Finding(rule, limit, None, Verdict.PASS)
        limit *= around.overlap_px
    test = _TESTS[rule]
    values = test.of_tiles(numbers)
    known = values[np.isfinite(values)]
    if not known.size:
        return Finding(rule, limit, None, Verdict.PASS)
    value = float(test.of_section(known))
    if value >= limit if test.is_minimum else value <= limit:
        return Finding(rule, limit, value, Verdict.PASS)
    places = _worst_first(values, outside(rule, limit, numbers), is_minimum=test.is_minimum)
    return Finding(
        rule, limit, value, test.verdict, tuple(numbers.tile_ids[at] for at in places[:MAX_TILES]), len(places)
    )


def _focus_drop(numbers: TileNumbers, usual: float | None) -> float | None:
    focus = median_focus(numbers)
    return None if focus is None or not usual else 1 - focus / usual


def median_focus(numbers: TileNumbers) -> float | None:
    """Return the median focus score of the tiles; None if no tile has one."""
    known = numbers.focus_score[np.isfinite(numbers.focus_score)]
    return median(known) if known.size else None


def outside(rule: Rule, limit: float, numbers: TileNumbers) -> Flags:
    """Return whether each tile is outside a rule's limit, (n,); False if its number is unknown.

    Parameters
    ----------
    limit : in the unit of the finding's value.
    """
    test = _TESTS[rule]
    values = test.of_tiles(numbers)
    if test.counts_tiles:
        return values > 0
    return values < limit if test.is_minimum else values > limit


def tile_values(rule: Rule, numbers: TileNumbers) -> Floats | None:
    """Return the number of each tile that a rule tests, (n,); None for a rule about the section as a whole."""
    test = _TESTS.get(rule)
    return None if test is None else test.of_tiles(numbers)


def _worst_first(values: Floats, is_outside: Flags, *, is_minimum: bool) -> list[int]:
    (places,) = np.nonzero(is_outside)
    order = np.argsort(values[places] if is_minimum else -values[places], kind="stable")
    return [int(place) for place in places[order]]
