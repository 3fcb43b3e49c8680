"""The verdict on a montage: the rules' judgement and a person's decision. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from daemon.montages.presentation import iso_time
from handlers.quality.rules import Finding, Judgement, Verdict


class Decision(StrEnum):
    """A person's decision about a montage."""

    PASS = "pass"  # noqa: S105  no password
    FAIL = "fail"
    REIMAGE = "re-image"
    """The section is to be imaged again."""
    COMPUTED = "computed"
    """The earlier decision is withdrawn: the verdict of the rules is effective again."""


HOLDING = frozenset({str(Verdict.FAIL), str(Decision.FAIL), str(Decision.REIMAGE)})
"""Verdicts with which a montage waits for a person, where its watch says `hold = true`."""

WAITS_FOR_PERSON = "a person: its quality verdict keeps its stacks open"
"""Text of `waiting_for` for a montage with such a verdict."""


@dataclass(frozen=True, slots=True)
class Override:
    """A person's decision, which replaces the rules' verdict."""

    decision: Decision
    """Never COMPUTED."""
    by: str
    """Name of the person."""
    at: float
    """Seconds since 1970 UTC."""
    note: str


@dataclass(frozen=True, slots=True)
class MontageVerdict:
    """The verdict on a montage, as the journal holds it."""

    judgement: Judgement | None
    """None if the rules were not applied: only a person has decided."""
    judged_at: float | None
    """Seconds since 1970 UTC."""
    override: Override | None

    @property
    def effective(self) -> str | None:
        """The effective verdict: the person's, otherwise that of the rules."""
        if self.override is not None:
            return str(self.override.decision)
        return None if self.judgement is None else str(self.judgement.verdict)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Findings of the rules."""
        return () if self.judgement is None else self.judgement.findings


def verdict_json(verdict: MontageVerdict) -> dict[str, Any]:
    """Return a verdict as the web and `temwatch quality --json` show it."""
    override = verdict.override
    return {
        "verdict": verdict.effective,
        "computed": None if verdict.judgement is None else str(verdict.judgement.verdict),
        "judged_at": iso_time(verdict.judged_at),
        "findings": [finding.to_json() for finding in verdict.findings],
        "override": None
        if override is None
        else {
            "verdict": str(override.decision),
            "by": override.by,
            "at": iso_time(override.at),
            "note": override.note,
        },
    }


def judgement_of(verdict: str, findings: list[Mapping[str, Any]]) -> Judgement:
    """Return the judgement that the journal stores as a verdict and the JSON of its findings."""
    return Judgement(Verdict(verdict), tuple(Finding.from_json(each) for each in findings))
