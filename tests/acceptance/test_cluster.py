"""The main job with a cluster: scheduler and workers on machines of their own, behind links with latency and loss."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.simulator.temca import write_section
from tests.acceptance.cluster import MACHINES, Cluster, running_cluster
from tests.acceptance.conftest import section_plan
from tests.acceptance.rig import Rig, digest_tree, running, verify_levels
from tests.network import Network, network

SPECIMEN = "20314_2L"


@pytest.fixture
def net() -> Iterator[Network]:
    """Three machines behind links that are 2 ms long and lose one frame of 200."""
    with network(*MACHINES) as net:
        for name in MACHINES:
            net.shape(name, late_ms=2, lost=0.005)
        yield net


def settings_of(cluster: Cluster) -> dict[str, Any]:
    return {"workers.executor": "dask", "workers.dask_scheduler": cluster.url, "workers.count": 4}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_section_becomes_complete_by_workers_of_other_machines_with_the_files_of_this_machine(
    tmp_path: Path, net: Network
) -> None:
    with running_cluster(tmp_path / "cluster", net) as cluster:
        rig = Rig(tmp_path, settings_of(cluster))
        with running(rig):
            sections = [
                write_section(section_plan(grid, 12, size=(512, 512), seed=grid), rig.acquisition, pixels="noise")
                for grid in (1050, 1051)
            ]
            rig.wait_until("complete", *(section.metafile for section in sections), timeout_s=200)
            for z in (1050.0, 1051.0):
                assert verify_levels(rig.tiles(f"{SPECIMEN}_mips", z)) == 72
            assert rig.stack_state(f"{SPECIMEN}_mips") == "COMPLETE"
            assert {host["host"]: host["workers"] for host in rig.ready()["workers"]["hosts"]} == {
                "worker1": 1,
                "worker2": 1,
            }
            assert "Traceback" not in rig.daemon.log.read_text()
        assert "Traceback" not in cluster.scheduler.log.read_text()
        for worker in cluster.workers:
            assert "Traceback" not in cluster.log_of(worker).read_text()
    alone = Rig(tmp_path / "alone", {"watch.directory": str(rig.acquisition)})
    with running(alone):
        alone.wait_until("complete", *(section.metafile for section in sections), timeout_s=200)
    assert digest_tree(rig.mipmaps) == digest_tree(alone.mipmaps)
