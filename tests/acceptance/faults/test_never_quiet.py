"""Sections arrive without pause, so that their stacks are always in use: each is COMPLETE within a stated time."""

import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest

from daemon.simulator.temca import write_section
from tests.acceptance.conftest import section_plan
from tests.acceptance.faults.accounts import audit, wait_until_ended
from tests.acceptance.faults.rows import FaultRun
from tests.acceptance.rig import Rig, running, wait_for

LEVELS = 1
TILES = 4
EVERY_S = 0.4
TIMES = """
    SELECT montage_id, max(at) FILTER (WHERE event = 'noticed'), max(at) FILTER (WHERE event = 'completed')
    FROM events GROUP BY montage_id
"""


@dataclass(frozen=True, slots=True)
class Flow:
    """How long sections arrive, and when their stacks are closed."""

    lasts_s: float
    at_latest_s: float
    quiet_s: float
    """Time without use before a close, which is not reached while sections arrive."""

    @property
    def timeout_s(self) -> float:
        """Time within which some montages must be COMPLETE on a busy machine."""
        return 5 * self.lasts_s + 10 * self.at_latest_s


def image_without_pause(rig: Rig, flow: Flow) -> list[Path]:
    """Write sections for the same stacks until some montages are COMPLETE; return the metafiles."""
    metafiles: list[Path] = []
    began = time.monotonic()
    while (passed_s := time.monotonic() - began) < flow.lasts_s or (not completed(rig) and passed_s < flow.timeout_s):
        plan = section_plan(1000 + len(metafiles), TILES, size=(64, 64), specimen_id="s", session_id="s_session")
        metafiles.append(write_section(plan, rig.acquisition, pixels="noise").metafile)
        time.sleep(max(0.0, began + len(metafiles) * EVERY_S - time.monotonic()))
    return metafiles


def completed(rig: Rig) -> list[tuple[float, float]]:
    """Return for each COMPLETE montage the times at which it was noticed and became COMPLETE."""
    with closing(sqlite3.connect(f"file:{rig.root}/{rig.name}.sqlite?mode=ro", uri=True)) as journal:
        return [(noticed, complete) for _, noticed, complete in journal.execute(TIMES) if complete]


def closes_of(rig: Rig) -> list[str]:
    return [asked["path"] for asked in rig.requests() if asked["path"].endswith("/state/COMPLETE")]


def by_minute(found: Sequence[tuple[float, float]]) -> str:
    """Return how many montages became COMPLETE in each minute since the first was noticed."""
    begin = min(noticed for noticed, _ in found)
    counts = Counter(int((completed - begin) // 60) for _, completed in found)
    return ", ".join(f"{minute}: {counts[minute]}" for minute in sorted(counts))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_sections_become_complete_while_others_arrive_without_pause(tmp_path, scale, enter):
    flow = scale.pick(Flow(240.0, 40.0, 60.0), Flow(60.0, 15.0, 20.0), Flow(12.0, 3.0, 10.0))
    enter(run_without_pause(Rig(tmp_path), flow))


def run_without_pause(rig: Rig, flow: Flow) -> FaultRun:
    """Check that montages become COMPLETE before the last section arrives; return the row."""
    rig.settings |= {"watch.mipmaps.levels": LEVELS, "workers.count": 1}
    rig.settings |= {"watch.stacks.close_after_s": flow.quiet_s, "watch.stacks.close_at_latest_s": flow.at_latest_s}
    with running(rig):
        metafiles = image_without_pause(rig, flow)
        during, closes = len(completed(rig)), len(closes_of(rig))
        assert during, f"none of {len(metafiles)} COMPLETE while sections arrive"
        wait_until_ended(rig, metafiles, 300)
        wait_for(lambda: rig.ready().get("ready"), 60, lambda: f"ready; {rig.ready()}")
        found = completed(rig)
        account = audit(rig, metafiles, levels=LEVELS)
        assert "Traceback" not in rig.daemon.log.read_text()
    assert not account.problems
    waits_s = sorted(completed - noticed for noticed, completed in found)
    note = (
        f"a section of {TILES} tiles every {EVERY_S:g} s for {flow.lasts_s:g} s, close_at_latest_s = "
        f"{flow.at_latest_s:g}; {during} COMPLETE when the last one arrived, {closes} closes by then; from noticed to "
        f"COMPLETE {median(waits_s):.0f} s, at most {waits_s[-1]:.0f} s; COMPLETE by the minute: {by_minute(found)}"
    )
    return FaultRun("stacks that are always in use", len(metafiles), **account.counts(), note=note)
