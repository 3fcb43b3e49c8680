"""Follow montages until they have ended, and show the outcome of each."""

import asyncio
import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import PurePath
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from daemon.commands.replay.sources import Row, Source
from daemon.montages.presentation import present_fault
from daemon.montages.states import UNFINISHED, MontageState
from daemon.montages.verdicts import WAITS_FOR_PERSON
from daemon.pipeline.replay.selection import Action
from handlers.text import fitted, printable, z_text

POLL_S = 0.5
MAX_IDS = 200
"""Largest number of ids in one query."""
OUTCOME_WIDTH = 12
"""Width of the outcome at the start of a line."""


@dataclass
class Outcomes:
    """Counts and shows outcomes of montages: on a terminal a progress bar, otherwise one line each."""

    console: Console = field(default_factory=lambda: Console(soft_wrap=True, highlight=False))
    good: int = 0
    bad: int = 0
    left: int = 0
    """Number of montages that had not ended when the command was stopped."""

    @contextlib.contextmanager
    def progress(self, total: int) -> Iterator[Self]:
        """Show a bar for `total` montages, on a terminal."""
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal) as progress:
            self._progress = progress
            self._task = progress.add_task("montages", total=total, note="")
            yield self

    def add_ended(self, row: Row) -> None:
        """Count and show a montage that has ended."""
        is_complete = row["state"] == MontageState.COMPLETE
        self.good += is_complete
        self.bad += not is_complete
        if not (is_complete and self.console.is_terminal):
            self._print(outcome_line(row))
        self._progress.advance(self._task)

    def add_refused(self, plan: Row) -> None:
        """Count and show a selected montage that cannot be replayed."""
        self.bad += 1
        self._print(f"{'refused':<{OUTCOME_WIDTH}}{plan['metafile']}: {plan['note']}")
        self._progress.advance(self._task)

    def _print(self, line: str) -> None:
        shown = printable(line)
        if self.console.is_terminal:
            shown = "\n".join(fitted(shown, self.console.width, rest=" " * OUTCOME_WIDTH))
        self.console.print(escape(shown))

    def show_waiting(self, rows: Iterable[Row]) -> None:
        """Show the reason why the first of these montages waits."""
        reason = next((reason for row in rows if (reason := waiting_reason(row))), "")
        self._progress.update(self._task, note=escape(printable(reason)))

    def summary(self) -> str:
        """Return one line for all montages."""
        parts = [f"{self.good} complete", f"{self.bad} not complete"]
        return ", ".join([*parts, f"{self.left} unfinished"] if self.left else parts)


def waiting_reason(row: Row) -> str:
    """Return the reason why an unfinished montage waits; empty if it does not."""
    fault = present_fault(row)
    return f"{fault['problem']}" if fault else str(row["waiting_for"] or "")


def outcome_line(row: Row) -> str:
    """Return one line with the outcome of a montage."""
    head = f"{row['state']:<{OUTCOME_WIDTH}}{row['metafile']}"
    fault = present_fault(row)
    if row["state"] == MontageState.COMPLETE:
        return f"{head}: z {z_text(row['z'])}, {row['tiles']} tiles, {row['mipmapped_stack']}"
    if row["state"] == MontageState.SUPERSEDED:
        return f"{head}: the file was replaced meanwhile; its new content is another montage"
    if fault is None:
        return f"{head}: {row['waiting_for'] or 'no reason is recorded'}"
    is_metafile = fault["subject"] in (row["metafile"], PurePath(row["metafile"]).name)
    subject = "" if is_metafile else f"{fault['subject']}: "
    return f"{head}: {subject}{fault['problem']}" + (f" ({fault['hint']})" if fault["hint"] else "")


async def follow(plans: Sequence[Row], source: Source, outcomes: Outcomes, stop: asyncio.Event) -> None:
    """Return when every montage of the plans has ended, or `stop` is set."""
    pending = {plan["id"]: plan["metafile"] for plan in plans if plan["action"] != Action.REFUSE}
    for plan in plans:
        if plan["action"] == Action.REFUSE:
            outcomes.add_refused(plan)
    while pending and not stop.is_set():
        rows = await _poll(pending, source)
        for montage_id, row in rows.items():
            if row["state"] not in UNFINISHED or row["waiting_for"] == WAITS_FOR_PERSON:
                del pending[montage_id]
                outcomes.add_ended(row)
        outcomes.show_waiting(row for row in rows.values() if row["state"] in UNFINISHED)
        if pending:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), POLL_S)
    outcomes.left = len(pending)


async def _poll(pending: dict[int, str], source: Source) -> dict[int, Row]:
    """Return the present state of pending montages, by the id of the plan."""
    found: dict[int, Row] = {}
    rest = iter(pending)
    while part := list(islice(rest, MAX_IDS)):
        found.update({row["id"]: row for row in await source.by_id(part)})
    for montage_id in pending.keys() - found.keys():
        # Settling recognised the content and merged the montage into the earlier one with this content.
        row = await source.of_metafile(pending[montage_id])
        if row is not None:
            found[montage_id] = row
    return found
