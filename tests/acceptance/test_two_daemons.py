"""Two daemons with separate watches use one render-ws, as on two servers; one of them is killed."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.simulator.temca import Written, write_section
from tests.acceptance.conftest import section_plan
from tests.acceptance.rig import Rig, fetch, verify_levels, wait_for
from tests.integration.cluster import running_cluster

SPECIMEN, OTHER_SPECIMEN = "20314_2L", "20314_5R"
TILES = 8


@pytest.fixture
def other(rig: Rig, tmp_path: Path) -> Iterator[Rig]:
    """A second rig with its own journal, watch and mipmaps, which uses the same render-ws."""
    rig.start_standin()
    other = Rig(tmp_path / "other", render_url=rig.render_url, name="other", is_behind_nginx=rig.is_behind_nginx)
    try:
        yield other
    finally:
        other.close()


def was_requested(rig: Rig, pattern: str) -> bool:
    return any(re.search(pattern, f"{each['method']} {each['path']}") for each in rig.requests())


def written(rig: Rig, specimen: str, grids: range, session: str) -> dict[float, Written]:
    """Write sections into a daemon's watch; return them by their z."""
    plans = {float(grid): section_plan(grid, TILES, specimen_id=specimen, session_id=session) for grid in grids}
    return {z: write_section(plan, rig.acquisition, pixels="noise") for z, plan in plans.items()}


@pytest.mark.parametrize("specimen", [SPECIMEN, OTHER_SPECIMEN], ids=["the same stacks", "separate stacks"])
def test_two_daemons_use_one_render_ws_and_nothing_is_lost_when_one_is_killed(
    rig: Rig, other: Rig, specimen: str
) -> None:
    rig.start()
    other.start()
    mine = written(rig, SPECIMEN, range(1050, 1054), "one")
    upload = rf"PUT .*/{specimen}_mips/z/1055\.0/resolvedTiles"
    rig.tell_standin(match=upload, kind="stall", seconds=100)  # holds the other daemon in its last section
    theirs = written(other, specimen, range(1052, 1056), "two")  # in the same stacks: two sections of the same z
    wait_for(lambda: was_requested(rig, upload), 60, lambda: str(other.montages()))
    other.daemon.kill()
    rig.tell_standin()
    rig.wait_until("complete", *(section.metafile for section in mine.values()))
    assert rig.stack_state(f"{SPECIMEN}_mips") == "COMPLETE"

    other.start()
    other.wait_until("complete", *(section.metafile for section in theirs.values()))
    for name in (SPECIMEN, specimen):
        expected: dict[float, set[str]] = {}
        for of, sections in ((SPECIMEN, mine), (specimen, theirs)):
            for z, section in sections.items() if of == name else ():
                expected.setdefault(z, set()).update(f"{image.stem}.{z}" for image in section.images)
        for stack in (f"{name}_raw", f"{name}_mips"):
            wait_for(lambda stack=stack: rig.stack_state(stack) == "COMPLETE", 60, stack)
            assert {z: set(rig.tiles(stack, z)) for z in fetch(f"{rig.stack_url(stack)}/zValues")} == expected
        for z, ids in expected.items():
            assert verify_levels(rig.tiles(f"{name}_mips", z)) == 6 * len(ids)
    for daemon in (rig, other):
        assert {row["state"] for row in daemon.montages()} == {"complete"}
        assert "Traceback" not in daemon.daemon.log.read_text()


@pytest.mark.slow
def test_two_daemons_share_an_output_directory_and_the_workers_of_a_scheduler(
    rig: Rig, other: Rig, tmp_path: Path
) -> None:
    with running_cluster(tmp_path / "cluster") as cluster:
        cluster.start_scheduler()
        cluster.start_worker()
        for each in (rig, other):
            each.settings |= {
                "workers.executor": "dask",
                "workers.dask_scheduler": cluster.address,
                "watch.mipmaps.output_dir": str(rig.mipmaps),
            }
            each.start()
        mine = written(rig, SPECIMEN, range(1050, 1052), "one")
        theirs = written(other, SPECIMEN, range(1051, 1053), "two")
        for each, sections in ((rig, mine), (other, theirs)):
            each.wait_until("complete", *(section.metafile for section in sections.values()), timeout_s=100)
            (host,) = each.ready()["workers"]["hosts"]
            assert (host["workers"], host["refused"]) == (1, 0)
        counts = {z: verify_levels(rig.tiles(f"{SPECIMEN}_mips", z)) for z in (1050.0, 1051.0, 1052.0)}
        assert counts == {1050.0: 6 * TILES, 1051.0: 12 * TILES, 1052.0: 6 * TILES}
        assert not other.mipmaps.exists()
        assert not list(rig.mipmaps.rglob(".temwatch-proof*"))
