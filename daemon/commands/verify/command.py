"""`temwatch verify`: read stacks and mipmap files of COMPLETE montages again and report every difference.

It repairs nothing and runs with or without the daemon. It keeps one montage at a time in memory. If alerts are
configured, it records the differences, so that a message reports them.
"""

import asyncio
import contextlib
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from daemon.commands.journal_change import change_journal
from daemon.commands.verify.verifier import Verified, Verifier
from daemon.config.settings import Settings
from daemon.journal.journal import Journal
from daemon.journal.tables.differences import recorded
from daemon.montages.records import Montage
from daemon.montages.states import MontageState
from daemon.notify.alerts.difference_report import MAX_MONTAGES, DifferenceReport, report_differences
from daemon.pipeline.replay.lookup import Lookup, place_of
from daemon.pipeline.replay.selection import Place, Selection
from daemon.system.cores import usable_cores
from handlers.difference import Difference, Kind
from handlers.errors import Fault, SettingsFault
from handlers.progress import progress_bar
from handlers.render.client import RenderClient
from handlers.text import counted, printable, z_text

NOTHING_CHECKED = "no COMPLETE montage matches the selection: nothing was checked"
Cause = tuple[Kind, str]
"""Kind of differences, and the advice for the operator."""


@dataclass
class Totals:
    """Counts over all montages, and the replays that repair them."""

    montages: int = 0
    tiles: int = 0
    files: int = 0
    differences: int = 0
    not_judged: list[dict[str, Any]] = field(default_factory=list)
    replay: list[dict[str, Any]] = field(default_factory=list)
    causes: dict[Cause, tuple[int, int]] = field(default_factory=dict)
    """Cause -> number of differences, number of montages."""
    differing: list[tuple[int, int, str | None]] = field(default_factory=list)
    """Montage id, number of differences, first step of the replay that repairs them."""
    absent: list[str] = field(default_factory=list)
    """Paths and z of the selection that have no COMPLETE montage."""

    def add(self, verified: Verified) -> None:
        """Count one montage."""
        montage = verified.montage
        if verified.not_checked_because:
            self.not_judged.append(
                {"metafile": str(montage.metafile), "montage": montage.id, "why": verified.not_checked_because}
            )
            return
        self.montages += 1
        self.tiles += verified.tiles
        self.files += verified.files
        self.differences += len(verified.differences)
        for cause, count in Counter(map(cause_of, verified.differences)).items():
            differences, montages = self.causes.get(cause, (0, 0))
            self.causes[cause] = differences + count, montages + 1
        if verified.differences:
            entry = {"metafile": str(montage.metafile), "montage": montage.id, "from": verified.start}
            self.differing.append((montage.id, len(verified.differences), verified.start))
            self.replay.append(entry)


def difference_json(montage: Montage, difference: Difference) -> dict[str, Any]:
    """Return a difference as an entry of the JSON report."""
    return {
        "metafile": str(montage.metafile),
        "montage": montage.id,
        "z": montage.z,
        "kind": str(difference.kind),
        "tile": difference.tile_id,
        "where": difference.where,
        "what": difference.what,
        "hint": difference.hint,
        "from": difference.start,
    }


def difference_line(montage: Montage, difference: Difference) -> str:
    """Return a difference as a line of text: metafile, tile, problem, advice."""
    tile = f"tile {difference.tile_id}: " if difference.tile_id else ""
    where = "" if difference.where == str(montage.metafile) else f"{difference.where}: "
    return f"{montage.metafile}: {tile}{where}{difference.what} ({_advice(difference)})"


@contextlib.asynccontextmanager
async def open_verifier(settings: Settings, *, deep: bool = False) -> AsyncIterator[tuple[Verifier, Journal]]:
    """Open a verifier and the journal that it reads.

    Raises
    ------
    SettingsFault
        If there is no journal, or render-ws is the daemon's embedded stand-in.
    """
    if settings.render.embedded:
        problem = "the embedded stand-in runs inside the daemon and cannot be verified from outside"
        raise SettingsFault("render.url", problem, "run `temwatch standin` and set render.url to its URL")
    if not settings.journal.path.exists():
        raise SettingsFault(
            "journal.path",
            f"{settings.journal.path} does not exist",
            "check the path; a daemon with this configuration has never run",
        )
    workers = settings.workers.count or usable_cores()
    async with (
        Journal(settings.journal.path, read_only=True) as journal,
        RenderClient(settings.render.url, access=settings.render.access) as client,
    ):
        with ThreadPoolExecutor(workers, thread_name_prefix="verify") as threads:
            yield Verifier(settings, journal, client, threads, deep=deep), journal


async def select(settings: Settings, journal: Journal, selection: Selection) -> list[Montage]:
    """Return the COMPLETE montages of a selection."""
    chosen = selection.model_copy(update={"state": selection.state or "complete"})
    candidates = await Lookup(lambda: settings, journal).candidates(chosen)
    montages = [candidate.current for candidate in candidates]
    return [montage for montage in montages if montage is not None and montage.state is MontageState.COMPLETE]


def without_montage(selection: Selection, montages: Sequence[Montage]) -> list[str]:
    """Return the paths and the z of a selection for which there is none of the montages. Blocks: resolves links."""
    metafiles = [Path(os.path.realpath(montage.metafile)) for montage in montages]
    covered = {str(path) for metafile in metafiles for path in (metafile, *metafile.parents)}

    def has_montage(place: Place) -> bool:
        return any(place.covers(str(each)) for each in metafiles) if place.is_glob else place.path in covered

    found = {montage.z for montage in montages}
    absent = [text for text in selection.paths if not has_montage(place_of(text))]
    return absent + [f"z {z_text(z)}" for z in selection.z if z not in found]


def absent_line(name: str) -> str:
    """Return what is printed for a path or a z without a COMPLETE montage."""
    return f"{printable(name)}: no COMPLETE montage matches the selection"


# --- the command


async def verify(
    settings: Settings,
    selection: Selection,
    say: Callable[[str], None],
    *,
    as_json: bool,
    verbose: bool,
    deep: bool = False,
) -> int:
    """Report each difference when it is found; return the exit code, 1 if anything differs or could not be checked.

    The exit code is also 1 if a path or a z of the selection has no COMPLETE montage.

    Raises
    ------
    NotSelectable
        If the selection is invalid.
    Fault
        If render-ws or the journal does not respond.
    """
    totals, clean = Totals(), list[int]()
    kind = _JsonReport if as_json else _VerboseReport if verbose else _TextReport
    report = kind(say)
    async with open_verifier(settings, deep=deep) as (verifier, journal):
        montages = await select(settings, journal, selection)
        differed = await journal.read(recorded)
        report.begin()
        with progress_bar("montages") as progress:
            for count, montage in enumerate(montages, start=1):
                verified = await verifier.verify(montage)
                totals.add(verified)
                report.montage(verified)
                if montage.id in differed and not verified.differences and not verified.not_checked_because:
                    clean.append(montage.id)
                progress(count, len(montages))
        totals.absent = await asyncio.to_thread(without_montage, selection, montages)
    report.end(totals)
    await _record_for_alerts(settings, totals, clean)
    return 1 if totals.differences or totals.not_judged or totals.absent else 0


async def _record_for_alerts(settings: Settings, totals: Totals, clean: Sequence[int]) -> None:
    """Record the differences for the alerts, if alerts are configured. A failure is printed and has no other effect."""
    if settings.alerts.urls_file is None or not (totals.differing or clean):
        return
    differing = [
        {"id": montage_id, "differences": count, "start": start}
        for montage_id, count, start in totals.differing[:MAX_MONTAGES]
    ]
    report = DifferenceReport.model_validate({"differing": differing, "clean": clean[:MAX_MONTAGES]})
    try:
        await change_journal(
            settings,
            lambda journal: report_differences(journal, report),
            "/api/alerts/differences",
            report,
            lambda answer: answer,
        )
    except Fault as fault:
        sys.stderr.write(f"alerts: the differences cannot be reported: {printable(str(fault))}\n")


_PLURALS: Mapping[Kind, str] = {
    Kind.NOT_CHECKED: "files could not be read",
    Kind.TILE_MISSING: "tiles are missing",
    Kind.TILE_ELSEWHERE: "tiles are at another z",
    Kind.TILE_DIFFERS: "values of tiles differ",
    Kind.TRANSFORM_DIFFERS: "values of shared transforms differ",
    Kind.URL_MISSING: "URLs are missing in tiles",
    Kind.URL_DIFFERS: "URLs in tiles differ",
    Kind.URL_DEAD: "URLs in tiles name missing files",
    Kind.LEVEL_MISSING: "mipmap files are missing",
    Kind.LEVEL_BROKEN: "mipmap files are invalid",
    Kind.SOURCE_GONE: "images are missing",
    Kind.SOURCE_CHANGED: "images have changed",
}


def cause_of(difference: Difference) -> Cause:
    """Return the cause by which differences are grouped."""
    return difference.kind, _advice(difference)


def _advice(difference: Difference) -> str:
    return f"{difference.hint}, from {difference.start}" if difference.start else difference.hint


def cause_line(cause: Cause, count: int, place: str) -> str:
    """Return a group of equal causes as a line of text."""
    kind, advice = cause
    return f"{count} {_PLURALS.get(kind, f'differences of the kind {kind}')} {place} ({advice})"


def _place_of(group: Sequence[Difference]) -> str:
    """Return where the differences of one montage are: the stack, or the directory of all their files."""
    where = {difference.where for difference in group}
    if all(place.startswith("/") for place in where):
        shared = os.path.commonpath([os.path.dirname(place) for place in where])  # noqa: PTH120  only text
        return f"below {shared}, first {group[0].where}"
    tiles = {difference.tile_id for difference in group if difference.tile_id}
    first = f", first tile {group[0].tile_id}: {group[0].what}" if tiles else ""
    return f"in {', '.join(sorted(where))}{first}"


class _TextReport:
    """Report for a person: the differences of a montage, grouped by cause."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def begin(self) -> None:
        """Start the report."""

    def montage(self, verified: Verified) -> None:
        """Print a line for each cause."""
        groups: defaultdict[Cause, list[Difference]] = defaultdict(list)
        for difference in verified.differences:
            groups[cause_of(difference)].append(difference)
        for cause, group in groups.items():
            if len(group) == 1:
                self._say(difference_line(verified.montage, group[0]))
            else:
                self._say(f"{verified.montage.metafile}: {cause_line(cause, len(group), _place_of(group))}")
        if verified.not_checked_because:
            self._say(f"{verified.montage.metafile}: not checked: {verified.not_checked_because}")

    def end(self, totals: Totals) -> None:
        """Print a line for each cause that several montages share, each absent name, and one line with the totals."""
        for name in totals.absent:
            self._say(absent_line(name))
        if not (totals.montages or totals.not_judged):
            if not totals.absent:
                self._say(NOTHING_CHECKED)
            return
        for cause, (count, montages) in totals.causes.items():
            if montages > 1:
                self._say(cause_line(cause, count, f"in {counted(montages, 'montage')}"))
        differing = f"{counted(totals.differences, 'difference')} in {counted(len(totals.replay), 'montage')}"
        not_judged = f"; {len(totals.not_judged)} not checked" if totals.not_judged else ""
        found = differing if totals.differences else "no difference"
        checked = (
            f"{counted(totals.montages, 'montage')}, {counted(totals.tiles, 'tile')}, "
            f"{counted(totals.files, 'mipmap file')}"
        )
        self._say(f"{checked}: {found}{not_judged}")


class _VerboseReport(_TextReport):
    """Report for a person: every difference."""

    def montage(self, verified: Verified) -> None:
        """Print a line for each difference."""
        for difference in verified.differences:
            self._say(difference_line(verified.montage, difference))
        super().montage(replace(verified, differences=()))


class _JsonReport(_TextReport):
    """Report for a program and for `temwatch replay --from-report`, written difference by difference."""

    def begin(self) -> None:
        self._say('{"differences": [')
        self._separator = ""

    def montage(self, verified: Verified) -> None:
        for difference in verified.differences:
            self._say(self._separator + json.dumps(difference_json(verified.montage, difference)))
            self._separator = ","

    def end(self, totals: Totals) -> None:
        rest = {
            "replay": totals.replay,
            "not_judged": totals.not_judged,
            "absent": totals.absent,
            "montages": totals.montages,
            "tiles": totals.tiles,
            "files": totals.files,
        }
        self._say(f"], {json.dumps(rest)[1:]}")
