"""`temwatch quality`: show verdicts, worst tiles, all numbers and pictures of montages. Changes nothing."""

import asyncio
import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from daemon.config.settings import Settings
from daemon.journal.journal import Journal
from daemon.montages.records import Montage
from daemon.montages.verdicts import HOLDING, MontageVerdict, verdict_json
from daemon.pipeline.pictures import mosaic_job, title_of
from daemon.pipeline.replay.lookup import Lookup
from daemon.pipeline.replay.selection import Selection
from daemon.pipeline.steps.section import SectionReader
from handlers.errors import Fault, SettingsFault, storage_fault
from handlers.picture import draw_mosaic
from handlers.quality.heatmap import draw_heatmap, number_text
from handlers.quality.heatmap_numbers import Number, heatmap_of, values_of
from handlers.quality.numbers import UNITS, Floats
from handlers.quality.packing import Quality, unpack
from handlers.quality.rules import Finding, Verdict
from handlers.quality.verdict import tile_values
from handlers.text import counted, printable, z_text

MAX_SHOWN = 10
"""Largest number of tiles that the table shows for a rule."""
Say = Callable[[str], None]


class Form(StrEnum):
    """Form of the output."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Judged:
    """A montage with its quality numbers and verdict."""

    montage: Montage
    quality: Quality
    verdict: MontageVerdict | None

    @property
    def verdict_text(self) -> str:
        """The effective verdict; "none" without one."""
        return (self.verdict and self.verdict.effective) or "none"

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Broken limits."""
        found = self.verdict.findings if self.verdict else ()
        return tuple(finding for finding in found if finding.verdict is not Verdict.PASS)


async def quality(settings: Settings, selection: Selection, say: Say, form: Form, pictures: Path | None) -> int:
    """Print and draw the selected montages, one at a time; return the exit code.

    Raises
    ------
    NotSelectable
        If the selection is invalid.
    Fault
        If there is no journal, or a picture cannot be drawn or written.
    """
    path = settings.journal.path
    if not path.exists():
        raise SettingsFault("journal.path", f"{printable(path)} does not exist", "nothing was recorded yet")
    async with Journal(path, read_only=True) as journal:
        candidates = await Lookup(lambda: settings, journal).candidates(selection)
        montages = [candidate.current for candidate in candidates if candidate.current is not None]
        scales = await _scales(journal, montages) if pictures else {}
        shown = failed = 0
        for montage in montages:
            judged = await _judged(journal, montage)
            if judged is None:
                continue
            for line in _LINES[form](judged, is_first=not shown):
                say(line)
            shown, failed = shown + 1, failed + (judged.verdict_text in HOLDING)
            if pictures:
                await _draw(settings, judged, scales, pictures, say if form is Form.TABLE else lambda _: None)
    if form is Form.TABLE:
        say(f"{counted(shown, 'montage')} with quality numbers, {len(montages) - shown} without; {failed} failed")
    return 1 if failed or not shown else 0


async def _judged(journal: Journal, montage: Montage) -> Judged | None:
    block = await journal.quality_numbers(montage.id)
    if block is None:
        return None
    return Judged(montage, await asyncio.to_thread(unpack, block), await journal.verdict(montage.id))


# --- text


def table_lines(judged: Judged, *, is_first: bool) -> Iterator[str]:
    """Yield the verdict on a montage, and a table of the tiles that break limits."""
    montage, verdict = judged.montage, judged.verdict
    if not is_first:
        yield ""
    yield printable(f"{judged.verdict_text}: {title_of(montage)}, {montage.metafile}")
    if verdict and verdict.override:
        note = f": {verdict.override.note}" if verdict.override.note else ""
        yield printable(f"  decided by {verdict.override.by}{note}")
    rows = list(_rows(judged))
    if rows:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        yield from ("  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _rows(judged: Judged) -> Iterator[tuple[str, str, str, str]]:
    """Yield the heading, then a row for each tile that breaks a limit, or one row for the section."""
    places = {tile_id: place for place, tile_id in enumerate(judged.quality.tiles.tile_ids)}
    for index, finding in enumerate(judged.findings):
        if index == 0:
            yield "rule", "value", "limit", "tile"
        limit, values = number_text(finding.limit), tile_values(finding.rule, judged.quality.tiles)
        if values is None or not finding.tiles:
            yield finding.rule, "" if finding.value is None else number_text(finding.value), limit, "the section"
            continue
        for tile in finding.tiles[:MAX_SHOWN]:
            value = number_text(float(values[places[tile]])) if tile in places else ""
            yield finding.rule, value, limit, printable(tile)
        if finding.tile_count > MAX_SHOWN:
            yield finding.rule, "", limit, f"and {finding.tile_count - MAX_SHOWN} more"


def csv_lines(judged: Judged, *, is_first: bool) -> Iterator[str]:
    """Yield a line for each tile with all its numbers; before the first montage, the column names."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if is_first:
        writer.writerow(["montage", "z", "verdict", "metafile", "tile", "rules", *UNITS])
    montage, tiles = judged.montage, judged.quality.tiles
    head = [montage.id, montage.z, judged.verdict_text, printable(montage.metafile)]
    for place, tile in enumerate(tiles.tile_ids):
        rules = " ".join(finding.rule for finding in judged.findings if tile in finding.tiles)
        numbers = [_value(column[place]) for column in tiles.columns.values()]
        writer.writerow([*head, printable(tile), rules, *("" if each is None else each for each in numbers)])
    yield from text.getvalue().splitlines()


def json_lines(judged: Judged, *, is_first: bool) -> Iterator[str]:
    """Yield a montage as one line of JSON: its verdict, and the numbers by column."""
    del is_first
    montage, tiles = judged.montage, judged.quality.tiles
    verdict = verdict_json(judged.verdict) if judged.verdict else {"verdict": None, "findings": []}
    facts = {"montage": montage.id, "metafile": str(montage.metafile), "z": montage.z, "scope": montage.scope}
    numbers = {name: list(map(_value, column)) for name, column in tiles.columns.items()}
    yield json.dumps({**facts, **verdict, "tiles": list(tiles.tile_ids), "numbers": numbers})


def _value(value: Any) -> float | int | None:
    """Return a number for output: an int if it is whole, None if it is unknown (NaN)."""
    number = float(value)
    return None if np.isnan(number) else int(number) if number.is_integer() else number


_LINES: Mapping[Form, Callable[..., Iterator[str]]] = {
    Form.TABLE: table_lines,
    Form.CSV: csv_lines,
    Form.JSON: json_lines,
}


# --- pictures


async def _scales(journal: Journal, montages: list[Montage]) -> dict[Number, Floats]:
    """Return [minimum, maximum] of each number over all montages, which are read one at a time; empty if unknown."""
    scales: dict[Number, Floats] = {number: np.array([]) for number in Number}
    for montage in montages:
        block = await journal.quality_numbers(montage.id)
        if block is None:
            continue
        tiles = (await asyncio.to_thread(unpack, block)).tiles
        for number in Number:
            values = np.append(scales[number], values_of(number, tiles))
            known = values[np.isfinite(values)]
            scales[number] = np.array([known.min(), known.max()]) if known.size else known
    return scales


async def _draw(settings: Settings, judged: Judged, scales: Mapping[Number, Floats], directory: Path, say: Say) -> None:
    """Write the heatmaps of all known numbers, and the mosaic if the metafile can be read."""
    name = f"z{z_text(judged.montage.z)}_montage{judged.montage.id}"
    findings = {finding.rule: finding for finding in (judged.verdict.findings if judged.verdict else ())}
    tiles, title = judged.quality.tiles, title_of(judged.montage)
    for number in Number:
        if np.isnan(values_of(number, tiles)).all():
            continue
        heatmap = heatmap_of(number, tiles, findings, title=title, compared=[scales[number]])
        await _write(directory / f"{name}_{number}.png", await asyncio.to_thread(draw_heatmap, heatmap), say)
    watch = next((watch for watch in settings.watch if watch.name == judged.montage.watch), None)
    if watch is None:
        return
    try:
        section = await SectionReader().read(judged.montage, watch)
    except Fault as fault:
        say(printable(f"  no mosaic: {fault}"))
        return
    await _write(directory / f"{name}_mosaic.png", await asyncio.to_thread(draw_mosaic, mosaic_job(section)), say)


async def _write(path: Path, picture: bytes, say: Say) -> None:
    def write() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(picture)
        part.replace(path)

    try:
        await asyncio.to_thread(write)
    except OSError as error:
        raise storage_fault(str(path), "write the picture", error) from error
    say(f"  {printable(path)}")
