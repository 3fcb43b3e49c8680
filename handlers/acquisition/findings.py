"""Findings: contradictions in what a microscope wrote, as errors and warnings. Pure."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """Whether a contradiction fails the montage."""

    ERROR = "error"
    """The metafile is invalid."""
    WARNING = "warning"
    """The deviation may have a reason; it fails the montage only in a strict watch."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A contradiction between two statements of a metafile."""

    severity: Severity
    text: str
