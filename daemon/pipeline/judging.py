"""Judging: gives a montage the verdict of its watch's rules, before its levels are applied to a stack."""

import asyncio

import structlog

from daemon.journal.journal import Journal
from daemon.pipeline.section import Section
from handlers.quality.from_metafile import section_numbers, tile_numbers
from handlers.quality.numbers import TileNumbers
from handlers.quality.rules import Surroundings, Verdict
from handlers.quality.verdict import judge, median_focus

log = structlog.get_logger()

MOST_LOGGED = 10
"""Tiles that the line about a verdict names."""


class Judge:
    """Judges montages by the numbers of their tiles."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def judge(self, section: Section) -> None:
        """Record the verdict of the rules; the same verdict again changes nothing."""
        found = await asyncio.to_thread(_numbers, section)
        if found is None:
            return
        numbers, overlap_px = found
        around = Surroundings(overlap_px, await self._journal.usual_focus(section.montage))
        judgement = await asyncio.to_thread(judge, numbers, section.watch.qc.limits(), around)
        before = await self._journal.verdict(section.montage.id)
        if before is not None and before.judgement == judgement:
            return
        await self._journal.judge(section.montage.id, judgement, median_focus(numbers))
        broken = [str(finding.rule) for finding in judgement.findings if finding.verdict is not Verdict.PASS]
        tiles = judgement.tiles
        facts = {"rules": broken, "tiles": list(tiles[:MOST_LOGGED]), "tile_count": len(tiles)} if broken else {}
        log.log(_LEVELS[judgement.verdict], "montage.qc", verdict=str(judgement.verdict), **facts)


_LEVELS = {Verdict.PASS: 20, Verdict.REVIEW: 30, Verdict.FAIL: 30}
"""Severity of the line about a verdict: information or warning."""


def _numbers(section: Section) -> tuple[TileNumbers, float | None] | None:
    """Return the numbers of the tiles and the nominal overlap in pixels; None if the format states none."""
    metafile = section.acquisition.metafile
    if metafile is None:
        return None
    overlap = section_numbers(metafile).overlap
    side = min(metafile.header.camera.width, metafile.header.camera.height)
    ids = [spec["tileId"] for spec in section.specs]
    return tile_numbers(metafile, ids), None if overlap is None else overlap * side
