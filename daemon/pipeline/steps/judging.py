"""Judge a montage by its watch's rules, before its levels are applied to a stack."""

import asyncio

import structlog

from daemon.journal.journal import Journal
from daemon.pipeline.metrics import Metrics
from daemon.pipeline.steps.section import Section
from handlers.quality.medians import trend_of
from handlers.quality.packing import Quality, unpack
from handlers.quality.rules import Surroundings, Verdict
from handlers.quality.verdict import judge, median_focus

log = structlog.get_logger()

MOST_LOGGED = 10
"""Largest number of tiles in the log line of a verdict."""


class Judge:
    """Judges montages by their quality numbers."""

    def __init__(self, journal: Journal, metrics: Metrics) -> None:
        self._journal = journal
        self._metrics = metrics

    async def judge(self, section: Section) -> None:
        """Record and log the verdict of the rules, if it is new."""
        block = await self._journal.quality_numbers(section.montage.id)
        if block is None:  # its mipmaps were made by an older temwatch, or by hand
            return
        quality = await asyncio.to_thread(unpack, block)
        pixel_nm = section.acquisition.pixel_size_nm
        trend = await asyncio.to_thread(trend_of, quality.tiles, pixel_nm[0] if pixel_nm else None)
        await self._journal.record_trend(section.montage.id, trend)
        around = Surroundings(_overlap_px(section, quality), await self._journal.usual_focus(section.montage))
        judgement = await asyncio.to_thread(judge, quality.tiles, section.watch.qc.limits(), around)
        before = await self._journal.verdict(section.montage.id)
        if before is not None and before.judgement == judgement:
            return
        await self._journal.judge(section.montage.id, judgement, median_focus(quality.tiles))
        self._metrics.verdicts.labels(section.watch.name, judgement.verdict).inc()
        broken = [str(finding.rule) for finding in judgement.findings if finding.verdict is not Verdict.PASS]
        tiles = judgement.tiles
        facts = {"rules": broken, "tiles": list(tiles[:MOST_LOGGED]), "tile_count": len(tiles)} if broken else {}
        log.log(_LEVELS[judgement.verdict], "montage.qc", verdict=str(judgement.verdict), **facts)


_LEVELS = {Verdict.PASS: 20, Verdict.REVIEW: 30, Verdict.FAIL: 30}
"""Log level of a verdict: INFO or WARNING."""


def _overlap_px(section: Section, quality: Quality) -> float | None:
    """Return the nominal overlap of two neighbours, pixels of level 0; None if the microscope does not record it."""
    overlap = quality.section.overlap
    sides = [min(tile.width, tile.height) for tile in section.level0()]
    return None if overlap is None else overlap * min(sides)
