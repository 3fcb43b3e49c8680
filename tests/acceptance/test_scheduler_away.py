"""A dask scheduler that starts late, ends and starts again: the daemon reports it, waits, and loses nothing."""

import json
import os
from pathlib import Path

import pytest

from tests.acceptance.rig import Rig, fetch, verify_levels, wait_for
from tests.integration.cluster import running_cluster
from tests.leases import leased


@pytest.mark.slow
def test_sections_wait_for_an_unavailable_scheduler_and_become_complete(rig: Rig, write, tmp_path: Path):
    rig.start_standin()
    with running_cluster(tmp_path / "cluster") as cluster:
        rig.settings |= {
            "workers.executor": "dask",
            "workers.dask_scheduler": cluster.address,
            "workers.count": 2,
        }
        rig.start()
        lines = [json.loads(line) for line in rig.daemon.lines() if '"daemon.ready"' in line]
        assert [line["ready"] for line in lines] == [False]
        away = f"the dask scheduler cannot be used: {cluster.address} does not answer"
        assert any(reason.startswith(away) for reason in lines[0]["reasons"]), lines
        written = write(tiles=40, specimen_id="s")
        wait_for(lambda: _state(rig, written.metafile) == "ingested", 60, "it waits for workers")
        with leased(*written.images[5:]):
            cluster.start_scheduler()
            worker = cluster.start_worker()
            wait_for(lambda: _made(rig, written.metafile) >= 3, 90, lambda: str(rig.ready()))
            cluster.kill_scheduler()
            cluster.kill_worker(worker)
            wait_for(lambda: not rig.ready()["ready"], 60, "the loss is reported")
            assert "temwatch_scheduler_up 0.0" in fetch(f"{rig.url}/metrics")
            assert _made(rig, written.metafile) < 40
        cluster.start_scheduler()
        cluster.start_worker()
        rig.wait_until("complete", written.metafile)
        (host,) = rig.ready()["workers"]["hosts"]
        assert (host["workers"], host["refused"]) == (1, 0)
        row = rig.montage_of(written.metafile)
        assert verify_levels(rig.tiles("s_mips", 1050.0)) == 6 * row["tiles"]
        assert not list(rig.mipmaps.rglob(".temwatch-proof*"))
        log = "\n".join(rig.daemon.lines())
        assert '"workers.unavailable"' in log
        assert '"workers.available"' in log
        assert "Traceback" not in log
        assert rig.daemon.stop() == 0


@pytest.mark.slow
def test_temporary_files_of_dead_workers_are_removed_after_a_restart_of_the_daemon(rig: Rig, write, tmp_path: Path):
    rig.start_standin()
    with running_cluster(tmp_path / "cluster") as cluster:
        cluster.start_scheduler()
        cluster.start_worker()
        rig.settings |= {"workers.executor": "dask", "workers.dask_scheduler": cluster.address}
        rig.start()
        written = write(tiles=2, specimen_id="s")
        left = rig.mipmaps / "1" / str(written.metafile.parent).lstrip("/") / ".a.tif.tif.00000000-1-1-0.tmp"
        left.parent.mkdir(parents=True, exist_ok=True)
        left.write_bytes(b"half a lev")
        rig.wait_until("complete", written.metafile)
        assert rig.daemon.stop() == 0
        assert left.exists(), "its writer may still be running on another machine"
        os.utime(left, (0, 0))
        rig.start()
        wait_for(lambda: not left.exists(), 60, "the file removed")


def _state(rig: Rig, metafile: Path) -> str:
    row = rig.montage_of(metafile)
    return row["state"] if row else ""


def _made(rig: Rig, metafile: Path) -> int:
    return int(rig.montage(rig.montage_of(metafile)["id"])["tiles_made"])
