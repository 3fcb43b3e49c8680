"""Findings: contradictions in the files of a microscope, as errors and warnings. Pure."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """Whether a contradiction fails the montage."""

    ERROR = "error"
    """The metafile is invalid."""
    WARNING = "warning"
    """The deviation may be intended. It fails the montage only in a strict watch."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A contradiction inside a metafile, or between it and its name, its images or z."""

    severity: Severity
    text: str
