"""Rules of quality control, their limits and their findings, as values. Pure; imports no numpy."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self


class Verdict(StrEnum):
    """Verdict on a montage."""

    PASS = "pass"  # noqa: S105  not a password
    REVIEW = "review"
    """A person should review the montage: a number differs from this microscope's usual values."""
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
    """Largest number of edges between neighbours without any match. TileQC: max_match_0."""
    max_weak_edges: int | None = 0
    """Largest number of edges between neighbours with one match. TileQC: max_match_1."""
    max_saturated_share: float | None = 0.01
    """Largest fraction of a tile's pixels at full scale."""
    max_blank_tiles: int | None = 0
    """Largest number of tiles whose pixels are all equal."""
    max_repeated_tiles: int | None = 0
    """Largest number of tiles whose image equals that of a tile acquired before."""
    max_stage_error_share: float | None = 0.25
    """Largest displacement of a tile from its stage position, as a fraction of the overlap."""
    max_focus_drop: float | None = 0.2
    """Largest fraction by which the median focus score is below that of the microscope's last sections."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Finding of one rule."""

    rule: Rule
    limit: float
    """The limit, in the unit of `value`."""
    value: float | None
    """None: the numbers are unknown, so the rule decides nothing."""
    verdict: Verdict
    """PASS if the limit is kept or the value is unknown."""
    tiles: tuple[str, ...] = ()
    """Tiles that break the limit, the worst first, at most 100; empty if the limit is kept."""
    tile_count: int = 0
    """Number of all tiles that break the limit."""

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
    """The verdict of all rules."""

    verdict: Verdict
    """The worst verdict of all findings."""
    findings: tuple[Finding, ...]
    """One finding for each rule that is not off, in the order of `Rule`."""

    @property
    def tiles(self) -> tuple[str, ...]:
        """Every tile that a finding names, without duplicates."""
        return tuple(dict.fromkeys(tile for finding in self.findings for tile in finding.tiles))


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Values that rules need beside the numbers of the tiles. Unknown values are None."""

    overlap_px: float | None = None
    """Nominal overlap of two neighbours, level-0 pixels."""
    usual_focus: float | None = None
    """Median of the median focus scores of the microscope's last sections."""
