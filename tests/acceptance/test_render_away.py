"""render-ws is unavailable in each step, or its answers are lost after its work: all montages become COMPLETE."""

import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.simulator.delivery import Written
from daemon.simulator.temca import write_section
from tests.acceptance.conftest import section_plan
from tests.acceptance.rig import Program, Rig, fetch, running, url_said_in, verify_levels, wait_for
from tests.leases import leased

STEPS = {
    "the raw stack is read": r"GET .*/stack/RAW$",
    "the raw stack is created": r"POST .*/stack/RAW$",
    "tiles are ingested": r"PUT .*RAW/z/1050\.0/resolvedTiles",
    "tiles are read back": r"GET .*RAW/.*tileBounds",
    "tiles are fetched for their levels": r"GET .*RAW/z/1050\.0/resolvedTiles",
    "levels are applied": r"PUT .*MIPS/z/1050\.0/resolvedTiles",
    "levels are read back": r"GET .*MIPS/z/1050\.0/resolvedTiles",
    "the raw stack is closed": r"PUT .*RAW/state/COMPLETE",
    "the other stack is closed": r"PUT .*MIPS/state/COMPLETE",
}
"""Purpose of a request -> its pattern, in which RAW and MIPS are placeholders for the names of stacks."""
WRITES = {
    "a stack created": r"^POST .*/stack/RAW$",
    "tiles put": r"^PUT .*RAW/z/1050\.0/resolvedTiles",
    "levels put": r"^PUT .*MIPS/z/1050\.0/resolvedTiles",
    "a stack closed": r"^PUT .*MIPS/state/COMPLETE",
}


@pytest.fixture(scope="module")
def lasting_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One rig for the tests that leave it unchanged. Each test has its own specimen and therefore its own stacks."""
    with running(Rig(tmp_path_factory.mktemp("away"))) as rig:
        yield rig


@pytest.fixture
def well_rig(lasting_rig: Rig) -> Rig:
    lasting_rig.tell_standin()
    wait_until_ready(lasting_rig)
    return lasting_rig


def image(rig: Rig, specimen: str, grid: int, **options: object) -> Written:
    """Write a section of a specimen with its own session."""
    plan = section_plan(grid, 4, specimen_id=specimen, session_id=f"{specimen}_session", **options)
    return write_section(plan, rig.acquisition, pixels="noise")


def request_of(pattern: str, specimen: str) -> str:
    return pattern.replace("RAW", f"{specimen}_raw").replace("MIPS", f"{specimen}_mips")


def was_asked(rig: Rig, pattern: str) -> bool:
    return any(re.search(pattern, f"{asked['method']} {asked['path']}") for asked in rig.requests())


def wait_until_away(rig: Rig) -> None:
    """Wait until /readyz answers 503 with render-ws as the reason."""
    wait_for(
        lambda: any(reason.startswith("render-ws is unavailable: ") for reason in rig.ready().get("reasons", ())),
        60,
        lambda: f"not ready; {rig.ready()}",
    )
    assert rig.ready()["ready"] is False
    assert fetch(f"{rig.url}/healthz") == {"alive": True}


def wait_until_ready(rig: Rig) -> None:
    wait_for(lambda: rig.ready().get("ready"), 40, lambda: f"ready; {rig.ready()}")


def require_whole(rig: Rig, specimen: str, *zs: float) -> None:
    """Check that both stacks are COMPLETE and contain four tiles, with 24 levels, in each of these layers only."""
    for stack in (f"{specimen}_raw", f"{specimen}_mips"):
        wait_for(lambda name=stack: rig.stack_state(name) == "COMPLETE", 60, f"{stack} COMPLETE")
        assert fetch(rig.stack_url(stack))["stats"]["tileCount"] == 4 * len(zs)
    for z in zs:
        assert len(rig.tiles(f"{specimen}_raw", z)) == 4
        assert verify_levels(rig.tiles(f"{specimen}_mips", z)) == 24


@pytest.mark.slow
@pytest.mark.parametrize(("specimen", "step"), [(f"step{index}", step) for index, step in enumerate(STEPS)])
def test_the_daemon_waits_for_a_render_ws_that_becomes_unavailable_in_a_step(well_rig, specimen, step):
    rig, request = well_rig, request_of(STEPS[step], specimen)
    # First the request of this step is refused, then all requests.
    rig.tell_standin(match=request, kind="status", status=503)
    section = image(rig, specimen, 1050)
    wait_for(lambda: was_asked(rig, request), 60, f"a request {request}")
    rig.tell_standin(match=".", kind="status", status=503)
    wait_until_away(rig)
    later = image(rig, specimen, 1051)
    rig.wait_until("settled", later.metafile)
    assert rig.montage_of(section.metafile)["state"] not in ("complete", "failed")
    rig.tell_standin()
    wait_until_ready(rig)
    rig.wait_until("complete", section.metafile, later.metafile)
    require_whole(rig, specimen, 1050.0, 1051.0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cut", "lost", "late", "slow"])
def test_an_answer_that_is_lost_or_damaged_after_the_work_changes_nothing(well_rig, kind):
    rig, specimen = well_rig, f"answer_{kind}"
    requests = {name: request_of(pattern, specimen) for name, pattern in WRITES.items()}
    for request in requests.values():
        rig.tell_standin(match=request, kind=kind, seconds=1.0, times=1)
    section = image(rig, specimen, 1050)
    rig.wait_until("complete", section.metafile)
    require_whole(rig, specimen, 1050.0)
    montage = rig.montage(rig.montage_of(section.metafile)["id"])
    counts = Counter(event["event"] for event in montage["events"])
    assert all(counts[event] == 1 for event in ("ingested", "mipmapped", "applied", "completed")), counts
    for name, request in requests.items():
        assert was_asked(rig, request), name


def test_occasional_failures_of_render_ws_are_retried(well_rig):
    rig, specimen = well_rig, "shaky"
    for skip in range(2, 26, 3):
        rig.tell_standin(match=f"/stack/{specimen}", kind="status", status=503, skip=skip, times=1)
    sections = [image(rig, specimen, grid).metafile for grid in (1050, 1051, 1052)]
    rig.wait_until("complete", *sections)
    require_whole(rig, specimen, 1050.0, 1051.0, 1052.0)


def test_the_daemon_waits_for_a_stopped_render_ws_and_answers(well_rig):
    """A stopped process keeps its port open: it accepts connections and does not answer."""
    rig, specimen = well_rig, "stopped"
    rig.standin.process.send_signal(signal.SIGSTOP)
    try:
        section = image(rig, specimen, 1050)
        rig.wait_until("settled", section.metafile)
        asked = time.monotonic()
        assert fetch(f"{rig.url}/healthz") == {"alive": True}
        assert time.monotonic() - asked < 2
    finally:
        rig.standin.process.send_signal(signal.SIGCONT)
    rig.wait_until("complete", section.metafile)
    require_whole(rig, specimen, 1050.0)


def start_keeping_standin(rig: Rig, port: int = 0) -> int:
    """Start a stand-in that stores its stacks in a file, so that they outlive it; return its port."""
    log: Path = rig.root / "standin.log"
    known = len(log.read_text().splitlines()) if log.exists() else 0
    rig.standin = Program(
        log, "daemon.simulator.standin", "--port", str(port), "--state", str(rig.root / "stacks.json")
    )
    rig.render_url = url_said_in(rig.standin, known)
    return int(rig.render_url.split(":")[2].split("/")[0])


def test_all_montages_become_complete_after_render_ws_is_killed_and_started_again(rig):
    """It is unavailable before the daemon has reached it, and again while mipmaps are made, which continue."""
    port = start_keeping_standin(rig)
    rig.standin.kill()
    rig.start()
    sections = [image(rig, "killed", grid) for grid in (1050, 1051)]
    first = [section.metafile for section in sections]
    wait_until_away(rig)
    rig.wait_until("settled", *first)
    with leased(*(path for section in sections for path in section.images)) as lease:
        start_keeping_standin(rig, port)
        wait_until_ready(rig)
        wait_for(lease.is_wanted, 60, "a montage at its mipmaps")
        rig.standin.kill()
        later = image(rig, "killed", 1052).metafile
        wait_until_away(rig)
    rig.wait_until("settled", later)
    start_keeping_standin(rig, port)
    wait_until_ready(rig)
    rig.wait_until("complete", *first, later)
    require_whole(rig, "killed", 1050.0, 1051.0, 1052.0)
