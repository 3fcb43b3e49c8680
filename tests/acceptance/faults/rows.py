"""The rows of the table, one for each fault; how test processes pass them on; the table."""

import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

SCALE_VARIABLE = "TEMWATCH_FAULTS"
ROWS_VARIABLE = "TEMWATCH_FAULT_ROWS"


class Scale(StrEnum):
    """Scale of the injections."""

    FULL = "full"
    SHORT = "short"
    TINY = "tiny"

    def pick(self, full: T, short: T, tiny: T) -> T:
        """Return the number for this scale."""
        return {Scale.FULL: full, Scale.SHORT: short, Scale.TINY: tiny}[self]


def scale_asked_for() -> Scale | None:
    """Return the scale in the environment; None if `make faults` does not run."""
    text = os.environ.get(SCALE_VARIABLE)
    return Scale(text) if text else None


@dataclass(frozen=True, slots=True)
class FaultRun:
    """Result of one fault."""

    fault: str
    """Name of the fault."""
    injected: int
    """Number of injections."""
    montages: int = 0
    """Number of delivered montages; 0 if the fault affects none."""
    complete: int = 0
    failed: int = 0
    """Montages that are FAILED as expected: the fault names their file."""
    lost: int = 0
    """Montages that ended otherwise than expected, or have a missing or wrong tile or level."""
    duplicated: int = 0
    """Tiles in a stack or at a z where they do not belong."""
    left_over: int = 0
    """Temporary files in the mipmap and acquisition trees at the end."""
    note: str = ""
    seconds: float = 0.0

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, duplicated or left over."""
        return self.lost == self.duplicated == self.left_over == 0


def pass_on(row: FaultRun) -> None:
    """Write a row for `collect`, which another process may call."""
    directory = os.environ.get(ROWS_VARIABLE)
    if directory:
        path = Path(directory, f"{uuid.uuid4().hex}.json")
        path.write_text(json.dumps(asdict(row)), encoding="utf-8")


def collect(directory: Path) -> list[FaultRun]:
    """Return the rows that were passed on, sorted by the name of their fault."""
    rows = [FaultRun(**json.loads(path.read_text(encoding="utf-8"))) for path in directory.glob("*.json")]
    return sorted(rows, key=lambda row: row.fault)


HEADINGS = (
    "fault",
    "injected",
    "montages",
    "COMPLETE",
    "FAILED as expected",
    "lost",
    "duplicated",
    "left over",
    "s",
)


def _cells(row: FaultRun) -> tuple[str, ...]:
    counts = (row.injected, row.montages, row.complete, row.failed, row.lost, row.duplicated, row.left_over)
    return (row.fault, *(f"{count:,}" for count in counts), f"{row.seconds:.0f}")


def _total(rows: Sequence[FaultRun]) -> FaultRun:
    total = FaultRun("total", 0)
    for row in rows:
        total = replace(
            total,
            **{
                name: getattr(total, name) + getattr(row, name)
                for name in ("injected", "montages", "complete", "failed", "lost", "duplicated", "left_over", "seconds")
            },
        )
    return total


def text_table(rows: Sequence[FaultRun]) -> str:
    """Return the rows, their total and their notes for a terminal."""
    lines = [HEADINGS, *(_cells(row) for row in rows), _cells(_total(rows))]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    shown = [
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    ]
    notes = [f"{row.fault}: {row.note}" for row in rows if row.note]
    rule = "-" * len(shown[0])
    return "\n".join([shown[0], rule, *shown[1:-1], rule, shown[-1], "", *notes])


def markdown_table(rows: Sequence[FaultRun]) -> str:
    """Return the rows, their total and their notes as Markdown."""
    lines = [HEADINGS, ("---", *("---:" for _ in HEADINGS[1:])), *(_cells(row) for row in [*rows, _total(rows)])]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    notes = "\n".join(f"- {row.fault}: {row.note}" for row in rows if row.note)
    return f"{table}\n\n{notes}\n"
