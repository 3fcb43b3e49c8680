"""The section [watch.qc]. Pure."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from daemon.config.section import Section
from handlers.quality.rules import Limits, Rule


def _none_if_off(value: object) -> object:
    return None if value == "off" else value


Number = Annotated[float | None, BeforeValidator(_none_if_off)]
Count = Annotated[int | None, BeforeValidator(_none_if_off)]


class QualitySettings(Section):
    """Rules that give a montage its verdict. A limit of "off" switches its rule off. A missing number breaks no
    rule."""

    hold: bool = False
    """Whether a montage that fails waits for a person before its stacks are closed and it is COMPLETE. The verdict
    exists only after the mipmaps are made, so a separate raw stack may already be closed. false: the verdict is
    reported and the work continues."""
    min_focus: Number = Field(16.0, ge=0)
    """Lowest focus score of a tile, as the microscope computes it (TileQC: min_focus). Lower: fail."""
    min_std_dev: Number = Field(5.0, ge=0)
    """Lowest mean of the standard deviations of all tiles, in grey values of 0 to 255 (TileQC: min_mean_std_dev).
    Lower: fail."""
    max_unmatched_edges: Count = Field(0, ge=0)
    """Largest number of edges between neighbours in which the microscope found no match (TileQC: max_match_0). More:
    fail."""
    max_weak_edges: Count = Field(0, ge=0)
    """Largest number of edges between neighbours with one match (TileQC: max_match_1). More: fail."""
    max_saturated_share: Number = Field(0.01, ge=0, le=1)
    """Largest fraction of a tile's pixels at full scale. More: fail."""
    max_blank_tiles: Count = Field(0, ge=0)
    """Largest number of tiles whose pixels are all equal. More: fail."""
    max_repeated_tiles: Count = Field(0, ge=0)
    """Largest number of tiles whose image equals that of an earlier tile, as a stuck camera makes them. More: fail."""
    max_stage_error_share: Number = Field(0.25, ge=0, le=1)
    """Largest distance between a tile and the place that the stage reported, measured in the overlaps with its
    neighbours, as a fraction of the nominal overlap. More: review."""
    measure_stage_error: bool = False
    """Whether the overlaps of neighbouring tiles are compared while mipmaps are made, for max_stage_error_share. It
    takes 10 to 20 % more CPU for each tile. Needs mipmaps.levels of 3 or more."""
    max_focus_drop: Number = Field(0.2, ge=0, le=1)
    """Largest fraction by which the median focus score may lie below that of the last 20 sections of the same
    microscope. More: review."""

    def limits(self) -> Limits:
        """Return the limits of all rules."""
        return Limits(**{str(rule): getattr(self, rule) for rule in Rule})
