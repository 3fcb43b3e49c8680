"""Judge a montage by its watch's rules, before its levels are applied to a stack."""

import asyncio

import structlog

from daemon.journal.journal import Journal
from daemon.pipeline.metrics import Metrics
from daemon.pipeline.steps.section import Section
from handlers.quality.medians import trend_of
from handlers.quality.packing import Quality, unpack
from handlers.quality.rules import Judgement, Surroundings, Verdict
from handlers.quality.trend import Trend
from handlers.quality.verdict import judge, median_focus

log = structlog.get_logger()

MAX_LOGGED = 10
"""Largest number of tiles in the log line of a verdict."""


class Judge:
    """Judges montages by their quality numbers."""

    def __init__(self, journal: Journal, metrics: Metrics) -> None:
        self._journal = journal
        self._metrics = metrics

    async def judge(self, section: Section) -> None:
        """Record and log the verdict of the rules, if it is new."""
        block, usual_focus, before = await self._journal.evidence(section.montage)
        if block is None:  # its mipmaps were made by an older temwatch, or by hand
            return
        judgement, focus, trend = await asyncio.to_thread(_judged, section, block, usual_focus)
        await self._journal.judge(section.montage.id, judgement, focus, trend)
        if before is not None and before.judgement == judgement:
            return
        self._metrics.verdicts.labels(section.watch.name, judgement.verdict).inc()
        broken = [str(finding.rule) for finding in judgement.findings if finding.verdict is not Verdict.PASS]
        tiles = judgement.tiles
        facts = {"rules": broken, "tiles": list(tiles[:MAX_LOGGED]), "tile_count": len(tiles)} if broken else {}
        log.log(_LEVELS[judgement.verdict], "montage.qc", verdict=str(judgement.verdict), **facts)


_LEVELS = {Verdict.PASS: 20, Verdict.REVIEW: 30, Verdict.FAIL: 30}
"""Log level of a verdict: INFO or WARNING."""


def _judged(section: Section, block: bytes, usual_focus: float | None) -> tuple[Judgement, float | None, Trend]:
    """Return judgement, median focus and medians of a section by its packed numbers."""
    quality, pixel_nm = unpack(block), section.acquisition.pixel_size_nm
    around = Surroundings(_overlap_px(section, quality), usual_focus)
    judgement = judge(quality.tiles, section.watch.qc.limits(), around)
    return judgement, median_focus(quality.tiles), trend_of(quality.tiles, pixel_nm[0] if pixel_nm else None)


def _overlap_px(section: Section, quality: Quality) -> float | None:
    """Return the nominal overlap of two neighbours, pixels of level 0; None if the microscope does not record it."""
    overlap = quality.section.overlap
    sides = [min(tile.width, tile.height) for tile in section.level0()]
    return None if overlap is None else overlap * min(sides)
