"""Verdict on a montage: rules, each a number of its tiles with a limit. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, Self

import numpy as np

from handlers.quality.numbers import Floats, TileNumbers

MOST_TILES = 100
"""Tiles that a finding names, the worst first. Its count has no limit."""


class Verdict(StrEnum):
    """What a montage is good for."""

    PASS = "pass"  # noqa: S105  no password
    REVIEW = "review"
    """A person should look at it: a number differs from what this microscope usually gives."""
    FAIL = "fail"


class Rule(StrEnum):
    """A limit of `Limits`, by its name."""

    MIN_FOCUS = "min_focus"
    MIN_STD_DEV = "min_std_dev"
    MAX_UNMATCHED_EDGES = "max_unmatched_edges"
    MAX_WEAK_EDGES = "max_weak_edges"
    MAX_SATURATED_SHARE = "max_saturated_share"
    MAX_BLANK_TILES = "max_blank_tiles"
    MAX_REPEATED_TILES = "max_repeated_tiles"
    MAX_STAGE_ERROR_SHARE = "max_stage_error_share"
    MAX_FOCUS_DROP = "max_focus_drop"


@dataclass(frozen=True, slots=True)
class Limits:
    """The limit of each rule; None: the rule is off."""

    min_focus: float | None = 16.0
    """Lowest focus score of a tile. TileQC: min_focus."""
    min_std_dev: float | None = 5.0
    """Lowest mean of the tiles' standard deviations, on the scale 0 to 255. TileQC: min_mean_std_dev."""
    max_unmatched_edges: int | None = 0
    """Edges between neighbours without any match. TileQC: max_match_0."""
    max_weak_edges: int | None = 0
    """Edges between neighbours with one match. TileQC: max_match_1."""
    max_saturated_share: float | None = 0.01
    """Largest share of a tile's pixels at full scale."""
    max_blank_tiles: int | None = 0
    max_repeated_tiles: int | None = 0
    """Tiles whose image equals that of a tile acquired before."""
    max_stage_error_share: float | None = 0.25
    """Largest distance of a tile from where the stage said, as a share of the overlap."""
    max_focus_drop: float | None = 0.2
    """Largest share by which the median focus score lies below that of the microscope's last sections."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule found."""

    rule: Rule
    limit: float
    """In the unit of `value`."""
    value: float | None
    """None: the numbers for it are unknown, so the rule says nothing."""
    verdict: Verdict
    """PASS if the limit is kept or the value is unknown."""
    tiles: tuple[str, ...] = ()
    """Tiles that break the limit, the worst first; none where it is kept. At most `MOST_TILES`."""
    tile_count: int = 0
    """All tiles that break the limit."""

    def to_json(self) -> dict[str, Any]:
        """Return the finding as JSON."""
        return {
            "rule": str(self.rule),
            "limit": self.limit,
            "value": self.value,
            "verdict": str(self.verdict),
            "tiles": list(self.tiles),
            "tile_count": self.tile_count,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the finding that `to_json` wrote."""
        return cls(
            Rule(value["rule"]),
            value["limit"],
            value["value"],
            Verdict(value["verdict"]),
            tuple(value["tiles"]),
            value["tile_count"],
        )


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict that the rules give."""

    verdict: Verdict
    """The worst verdict of all findings."""
    findings: tuple[Finding, ...]
    """One for each rule that is not off, in the order of `Rule`."""

    @property
    def tiles(self) -> tuple[str, ...]:
        """Every tile that a finding names, without duplicates."""
        return tuple(dict.fromkeys(tile for finding in self.findings for tile in finding.tiles))


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Facts for the rules that the tiles' numbers do not hold; None where unknown."""

    overlap_px: float | None = None
    """Nominal overlap of two neighbours, level-0 pixels."""
    usual_focus: float | None = None
    """Median of the median focus scores of the microscope's last sections."""


@dataclass(frozen=True, slots=True)
class _Test:
    """How a rule compares numbers with its limit."""

    of_tiles: Callable[[TileNumbers], Floats]
    """The number of each tile; NaN where unknown."""
    of_section: Callable[[Floats], float]
    """What is compared with the limit, from the known numbers of tiles."""
    verdict: Verdict = Verdict.FAIL
    """If the limit is broken."""
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
    """Return the distance of each tile from where the stage said, level-0 pixels."""
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
"""Every rule that looks at tiles."""

_ORDER = tuple(Verdict)


def judge(numbers: TileNumbers, limits: Limits, around: Surroundings = Surroundings()) -> Judgement:
    """Return the verdict of every rule that is not off."""
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
        rule, limit, value, test.verdict, tuple(numbers.tile_ids[at] for at in places[:MOST_TILES]), len(places)
    )


def _focus_drop(numbers: TileNumbers, usual: float | None) -> float | None:
    focus = median_focus(numbers)
    return None if focus is None or not usual else 1 - focus / usual


def median_focus(numbers: TileNumbers) -> float | None:
    """Return the median focus score of the tiles; None if no tile has one."""
    known = numbers.focus_score[np.isfinite(numbers.focus_score)]
    return float(np.median(known)) if known.size else None


def outside(rule: Rule, limit: float, numbers: TileNumbers) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return whether each tile is outside a rule's limit, in the unit of the finding; False where that is unknown."""
    test = _TESTS[rule]
    values = test.of_tiles(numbers)
    if test.counts_tiles:
        return values > 0
    return values < limit if test.is_minimum else values > limit


def _worst_first(values: Floats, is_outside: np.ndarray[Any, np.dtype[np.bool_]], *, is_minimum: bool) -> list[int]:
    (places,) = np.nonzero(is_outside)
    order = np.argsort(values[places] if is_minimum else -values[places], kind="stable")
    return [int(place) for place in places[order]]
