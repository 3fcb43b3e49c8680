"""The journal and the facts of a facility with three watches, which fill all parts of the pages."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from daemon.journal.journal import Journal
from daemon.montages.records import Inspection, Settled
from daemon.montages.sighting import FoundBy, Sighting
from daemon.montages.states import Event, MontageState
from daemon.pipeline.health import Disk, Facts
from daemon.watching.roots import RootHealth, RootStatus
from handlers.errors import Fault, ImageFault, ImagesMissing, MetafileFault
from handlers.identity import FileIdentity
from handlers.quality.rules import Finding, Judgement, Rule, Verdict
from handlers.quality.trend import Trend
from handlers.workers.crew import Crew, Member
from tests.ready_facts import READY, ROOT

SECTIONS = 180
EVERY_S = 1800.0
TILES = 24
SCOPES = (("temca2", "temca2"), ("temca2", "temca3"), ("temca4", "temca4"))
NEWEST_STATES = (
    MontageState.NOTICED,
    MontageState.SETTLED,
    MontageState.INGESTED,
    MontageState.INGESTED,
    MontageState.MIPMAPPED,
    MontageState.APPLIED,
)
"""States of the newest sections."""
STATE_BEFORE = {
    Event.INGESTED: MontageState.SETTLED,
    Event.MIPMAPPED: MontageState.INGESTED,
    Event.APPLIED: MontageState.MIPMAPPED,
    Event.COMPLETED: MontageState.APPLIED,
}
"""Event of a montage -> the state before it."""


@dataclass
class Clock:
    """Seconds since 1970 UTC."""

    now: float

    def __call__(self) -> float:
        return self.now


async def fill(path: Path, now: float) -> None:
    """Write the journal of the last four days."""
    clock = Clock(now)
    draw = random.Random(17)
    async with Journal(path, clock=clock) as journal:
        for number in range(SECTIONS):
            clock.now = now - (SECTIONS - number) * EVERY_S
            await _section(journal, clock, number, draw)


async def _section(journal: Journal, clock: Clock, number: int, draw: random.Random) -> None:
    watch, scope = SCOPES[number % len(SCOPES)]
    z, tape = 1000 + number // len(SCOPES), f"{151 + number // 70:04d}"
    path = Path(
        f"/data/{watch}/{scope.upper()}/{tape}/{z:06d}/0/_metadata_2026112{number % 9}0914_{tape}_{z:06d}_0_.json"
    )
    identity = FileIdentity(10, number, number, number)
    montage = await journal.notice(Sighting(watch, path, identity, FoundBy.SCAN))
    assert montage is not None
    state = NEWEST_STATES[number - SECTIONS] if number >= SECTIONS - len(NEWEST_STATES) else MontageState.COMPLETE
    if state is MontageState.NOTICED:
        await journal.wait(montage, "3 of 24 images missing or incomplete: 20261126_001109_0_4_1.tif is missing")
        return
    ids = tuple(f"{scope}_{tape}_{z}_{tile}" for tile in range(TILES))
    facts = Settled(
        f"d{number}", float(z), "em/v1/20314_2L_raw", "em/v1/20314_2L_mips", ids, (), scope=scope, tape=tape
    )
    await journal.settle(Inspection(montage, identity, identity, facts.digest), facts)
    fault = next((fault for at, fault in failures() if at == SECTIONS - number), None)
    if fault is not None:
        clock.now += 60
        await journal.fail(montage, fault)
        return
    for event, before in STATE_BEFORE.items():
        if before is state:
            break
        clock.now += 60
        if event is Event.MIPMAPPED:
            await journal.record_tiles(montage, dict.fromkeys(ids))
            await journal.judge(montage, _judgement(number, ids), 20.0, _trend(number, draw))
        await journal.record(montage, event)
    if state is MontageState.INGESTED and number % 2:
        await journal.record_tiles(montage, dict.fromkeys(ids[:7]))


def _trend(number: int, draw: random.Random) -> Trend:
    return Trend(
        focus=draw.gauss(21 - number / 200, 1.2),
        std_dev=draw.gauss(27, 2),
        interval_s=draw.gauss(0.37, 0.01),
        stage_error_px=abs(draw.gauss(1.6, 0.8)),
        pixel_size_nm=3.97 if number < SECTIONS / 2 else 4.01,
    )


def _judgement(number: int, ids: tuple[str, ...]) -> Judgement:
    verdict = Verdict.FAIL if number % 40 == 7 else Verdict.REVIEW if number % 12 == 5 else Verdict.PASS
    tiles = () if verdict is Verdict.PASS else ids[:2]
    return Judgement(verdict, (Finding(Rule.MIN_FOCUS, 16.0, 12.0 if tiles else 19.0, verdict, tiles, len(tiles)),))


def failures() -> Iterator[tuple[int, Fault]]:
    """Yield the failed sections, each as its number counted from the newest, and its fault."""
    yield (
        120,
        MetafileFault("/data/temca2/TEMCA2/0152/001040/0/_metadata_.json", "roiIndex: expected an integer, found 'x'"),
    )
    yield (
        80,
        ImagesMissing(
            "/data/temca4/TEMCA4/0152/001066/0",
            "2 of 24 images are missing after 1 h: 0152_001066_0_4_1.tif, 0152_001066_0_4_2.tif",
            "copy them to the directory; the section is then retried automatically",
        ),
    )
    yield (
        12,
        ImageFault(
            "/data/temca4/TEMCA4/0153/001105/0/20314_2L_0153_07_001105_0_11_7.tif",
            "expected 20,971,720 bytes, found 8,388,608: it is truncated",
            "copy the image again, then retry",
        ),
    )


def _root(name: str, **changed: object) -> RootHealth:
    return replace(ROOT, **{"name": name, "directory": Path("/data", name), **changed})  # type: ignore[arg-type]


ROOTS = (
    _root("sbem", status=RootStatus.CATCHING_UP),
    _root("temca2"),
    _root(
        "temca4",
        status=RootStatus.POLLING,
        reasons=("events are unreliable: 12 metafiles arrived without an event; the directory is polled",),
    ),
)
DISKS = (
    Disk("/data/mipmaps", 412 * 10**9, 10**9, full_in_s=5.4 * 3600),
    Disk("/long_term_storage/temca4/mipmaps", 71 * 10**12, 10**9),
)
CREW = Crew(
    (
        *(Member("node07", 1, int(number < 5)) for number in range(8)),
        *(Member("node08", 1, 1) for _ in range(8)),
        Member("node09", 1, 0, "/data/temca4 does not exist there", is_usable=False),
    ),
    1284,
    "tls://scheduler.em.example.org:8786",
)
BUSY: Facts = replace(
    READY,
    roots=ROOTS,
    disks=DISKS,
    crew=CREW,
    worker_deaths=2,
    last_worker_death="at 07:12 UTC by SIGKILL in tile 0152_001066_11",
    alert_problem="address 2 of /etc/temwatch/alerts.urls: mailtos: the server does not answer",
)
"""Work is in progress, and some parts have problems."""
SUDDENLY_EMPTY = (
    "suddenly empty, it contained 2110 metafiles in 2110 directories: check that its disk is mounted and that"
    " nothing was deleted"
)
UNAVAILABLE: Facts = replace(
    BUSY,
    roots=(
        ROOTS[0],
        _root(
            "temca2",
            status=RootStatus.UNREACHABLE,
            reasons=("/data/temca2 has not answered for 30 s: check that its file server is up",),
        ),
        _root("temca4", status=RootStatus.PAUSED, reasons=(SUDDENLY_EMPTY,)),
    ),
    disks=(
        Disk("/data/mipmaps", 10**8, 10**9, "has 100.00 MB free, but min_free_bytes is 1.00 GB: free space there"),
        DISKS[1],
    ),
    render_fault="http://render.em.example.org:8080/render-ws/v1: connection refused",
    journal_fault="/var/lib/temwatch/journal.sqlite: the disk is full",
    crew=Crew((), 1284, CREW.scheduler, "the scheduler does not answer"),
    oldest_unfinished_s=9000.0,
)
"""Everything that can be unavailable is unavailable."""
