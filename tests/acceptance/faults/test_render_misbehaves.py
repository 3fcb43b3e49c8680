"""render-ws fails once, in every way, at every request about a montage; or fails all requests for some time."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from daemon.simulator.standin.faults import FaultKind
from daemon.simulator.temca import write_section
from tests.acceptance.conftest import section_plan
from tests.acceptance.faults.accounts import Audit, audit, present_rows, wait_until_ended
from tests.acceptance.faults.rows import FaultRun, Scale
from tests.acceptance.rig import Rig, running, wait_for
from tests.acceptance.test_service_fails import OUTAGES, away_reasons

LEVELS = 2
AFTER_THE_WORK = (FaultKind.CUT, FaultKind.LOST, FaultKind.LATE, FaultKind.SLOW)
"""Kinds of faults after the request was processed."""
STATUSES = (500, 502, 504)
Misbehaviour = dict[str, Any]
Route = tuple[str, str]
"""Method, and path below the project, with SPECIMEN and TILE as placeholders."""


@dataclass(frozen=True, slots=True)
class Case:
    """One fault at one request of one montage, which has its own stacks."""

    specimen: str
    route: Route
    misbehaviour: Misbehaviour
    at_replacement: bool
    """Whether the fault occurs after the metafile was replaced, or at its first arrival."""

    @property
    def pattern(self) -> str:
        """Pattern that matches the request."""
        path = re.escape(self.route[1]).replace("SPECIMEN", self.specimen).replace("TILE", "[^/?]+")
        return rf"^{self.route[0]} .*/project/test{path}(\?|$)"


def write_for(rig: Rig, specimen: str) -> Path:
    plan = section_plan(1050, 4, size=(64, 64), specimen_id=specimen, session_id=f"{specimen}_session")
    return write_section(plan, rig.acquisition, pixels="noise").metafile


def drop_last_tile(metafile: Path) -> None:
    """Replace a metafile by one without its last tile, which must leave the stacks."""
    content = json.loads(metafile.read_bytes())
    content[1]["data"].pop()
    part = metafile.with_suffix(".part")
    part.write_text(json.dumps(content))
    part.replace(metafile)


def routes_of(rig: Rig, specimen: str, since: int) -> list[Route]:
    """Return the distinct requests about the stacks of a specimen."""
    found: dict[Route, None] = {}
    for asked in rig.requests()[since:]:
        path = asked["path"].partition("?")[0].partition("/project/test")[2]
        if f"/{specimen}_" in path:
            path = re.sub(r"/tile/[^/]+", "/tile/TILE", path.replace(specimen, "SPECIMEN", 1))
            found[(asked["method"], path)] = None
    return list(found)


def life_of_a_montage(rig: Rig) -> tuple[list[Route], list[Route]]:
    """Return the requests for a new montage, and for one that replaces another."""
    metafile = write_for(rig, "calm")
    rig.wait_until("complete", metafile)
    first = routes_of(rig, "calm", 0)
    since = len(rig.requests())
    replace_and_wait(rig, [metafile])
    return first, routes_of(rig, "calm", since)


def replace_and_wait(rig: Rig, metafiles: list[Path], timeout_s: float = 600) -> None:
    before = {path: row["id"] for path, row in present_rows(rig).items()}
    for metafile in metafiles:
        drop_last_tile(metafile)

    def enqueued() -> bool:
        rows = present_rows(rig)
        return all(path in rows and rows[path]["id"] != before[path] for path in metafiles)

    wait_for(enqueued, timeout_s, "the replaced metafiles")
    wait_until_ended(rig, metafiles, timeout_s)


def kinds(scale: Scale) -> list[Misbehaviour]:
    """Return the kinds of faults; in short runs only the hardest: the request is processed, and the connection ends.

    An endless answer is excluded, because after it the montage is expected to fail.
    """
    chosen = [kind for kind in FaultKind if kind is not FaultKind.ENDLESS] if scale is Scale.FULL else [FaultKind.LOST]
    found: list[Misbehaviour] = [{"kind": kind, "seconds": 1.0} for kind in chosen]
    return found + ([{"kind": "status", "status": status} for status in STATUSES] if scale is Scale.FULL else [])


def cases(routes: tuple[list[Route], list[Route]], misbehaviours: Iterable[Misbehaviour]) -> list[Case]:
    wanted = [
        (route, misbehaviour, at_replacement)
        for misbehaviour in misbehaviours
        for at_replacement, asked in enumerate(routes)
        for route in asked
        if not is_taken_for_work(route, misbehaviour)
    ]
    return [Case(f"case{n}", route, how, bool(late)) for n, (route, how, late) in enumerate(wanted)]


def is_taken_for_work(route: Route, misbehaviour: Misbehaviour) -> bool:
    """Whether the daemon must assume that render-ws is processing the request, so that it polls for an hour.

    A proxy answers 504 if a derivation takes longer than its time-out. The daemon cannot know that it never began.
    """
    return misbehaviour.get("status") == 504 and route[1].endswith("/state/COMPLETE")


def require_each_step(routes: tuple[list[Route], list[Route]]) -> None:
    """Check that the recorded requests, at which the faults occur, include every step."""
    first, second = ({f"{method} {path}" for method, path in asked} for asked in routes)
    layer = "/z/1050.0/resolvedTiles"
    for stack in ("/stack/SPECIMEN_raw", "/stack/SPECIMEN_mips"):
        assert {f"POST {stack}", f"PUT {stack}{layer}", f"PUT {stack}/state/COMPLETE"} <= first, first
        assert f"PUT {stack}/state/LOADING" in second, second
        assert any(each.startswith(f"DELETE {stack}") for each in second), second


def inject(rig: Rig, chosen: list[Case]) -> tuple[int, list[Path]]:
    """Inject all faults; return how many of them occurred, and the metafiles."""
    metafiles: dict[str, Path] = {}
    for case in chosen:
        if not case.at_replacement:
            rig.tell_standin(match=case.pattern, times=1, **case.misbehaviour)
        metafiles[case.specimen] = write_for(rig, case.specimen)
    wait_until_ended(rig, list(metafiles.values()), 600)
    since = len(rig.requests())
    replaced = [case for case in chosen if case.at_replacement]
    for case in replaced:
        rig.tell_standin(match=case.pattern, times=1, **case.misbehaviour)
    replace_and_wait(rig, [metafiles[case.specimen] for case in replaced])
    asked = [f"{each['method']} {each['path']}" for each in rig.requests()]
    struck = sum(
        any(re.search(case.pattern, each) for each in (asked[since:] if case.at_replacement else asked))
        for case in chosen
    )
    return struck, list(metafiles.values())


def report(rig: Rig, metafiles: list[Path]) -> Audit:
    wait_for(lambda: rig.ready().get("ready"), 60, lambda: f"ready; {rig.ready()}")
    assert "Traceback" not in rig.daemon.log.read_text()
    return audit(rig, metafiles, levels=LEVELS)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_montage_becomes_complete_after_every_fault_at_every_request(tmp_path, scale, enter):
    rig = Rig(tmp_path, {"watch.mipmaps.levels": LEVELS, "workers.count": 1})
    with running(rig):
        routes = life_of_a_montage(rig)
        require_each_step(routes)
        chosen = cases(routes, kinds(scale))
        struck, metafiles = inject(rig, chosen)
        account = report(rig, [*metafiles, *(path for path in present_rows(rig) if "calm_session" in str(path))])
    assert struck == len(chosen), "a fault that did not occur tests nothing"
    ways = Counter(str(case.misbehaviour["kind"]) for case in chosen)
    hardest = sum(ways[kind] for kind in AFTER_THE_WORK)
    note = f"{len(routes[0])} requests of a new montage, {len(routes[1])} of a replaced one, each with "
    note += f"{len(kinds(scale))} kinds of faults; {hardest} times the request was processed and its answer truncated, "
    note += "lost or late; 504 to COMPLETE is excluded"
    enter(FaultRun("render-ws misbehaves", struck, **account.counts(), note=note))
    assert not account.problems


def fail_all_work(rig: Rig, specimen: str, outage: str, *, before_closing: bool) -> Path:
    """Make render-ws fail all requests while one montage is processed, until three probes have been sent."""
    if not before_closing:
        rig.tell_standin(kind="status", **OUTAGES[outage])
    metafile = write_for(rig, specimen)
    if before_closing:
        rig.wait_until("applied", metafile)
        rig.tell_standin(kind="status", **OUTAGES[outage])
    wait_for(lambda: away_reasons(rig), 60, lambda: f"{outage}: not ready; {rig.ready()}")
    known = len(rig.requests())
    wait_for(lambda: len(rig.requests()) >= known + 3, 60, "three more probes")
    rig.tell_standin()
    wait_until_ended(rig, [metafile], 120)
    return metafile


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_single_montage_waits_for_a_service_that_fails_all_requests(tmp_path, scale, enter):
    outages = scale.pick(list(OUTAGES), list(OUTAGES)[:2], list(OUTAGES)[:1])
    chosen = [(outage, late) for outage in outages for late in scale.pick((False, True), (False, True), (False,))]
    rig = Rig(tmp_path, {"watch.mipmaps.levels": LEVELS, "workers.count": 1, "watch.stacks.close_after_s": 2})
    with running(rig):
        metafiles = [
            fail_all_work(rig, f"lone{n}", outage, before_closing=late) for n, (outage, late) in enumerate(chosen)
        ]
        account = report(rig, metafiles)
    note = f"{len(outages)} kinds, each before a single montage is ingested"
    note += " and before its stacks are closed" if any(late for _, late in chosen) else ""
    enter(FaultRun("render-ws fails all requests", len(chosen), **account.counts(), note=note))
    assert not account.problems
