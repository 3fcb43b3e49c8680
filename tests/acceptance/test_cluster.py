"""The main job with a cluster: scheduler and workers on separate machines, behind links with delay and loss."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.simulator.temca import write_section
from tests.acceptance.cluster import MACHINES, PORT, SCHEDULER, Cluster, running_cluster
from tests.acceptance.conftest import section_plan
from tests.acceptance.rig import Rig, digest_tree, running, verify_levels
from tests.network import HERE, Machine, Network, network

SPECIMEN = "20314_2L"
WORKER_PORTS, NANNY_PORTS = "40000:40099", "40100:40199"
"""The ports in docs/cluster.md."""
ESTABLISHED = "01"


@pytest.fixture
def net() -> Iterator[Network]:
    """Three machines behind links that delay each frame by 2 ms and lose one of 200."""
    with network(*MACHINES) as net:
        for name in MACHINES:
            net.shape(name, delay_ms=2, loss=0.005)
        yield net


def settings_of(cluster: Cluster) -> dict[str, Any]:
    return {"workers.executor": "dask", "workers.dask_scheduler": cluster.url, "workers.count": 4}


def connections(machine: Machine, net: Network) -> Iterator[tuple[int, str, int]]:
    """Yield the local port, the name and the port of the other machine for each connection within the network."""
    names = {net[name].address: name for name in (HERE, *MACHINES) if name != machine.name}
    for line in Path(f"/proc/{machine.pid}/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        address = socket.inet_ntoa(bytes.fromhex(remote.partition(":")[0])[::-1])
        if state == ESTABLISHED and address in names:
            yield int(local.partition(":")[2], 16), names[address], int(remote.partition(":")[2], 16)


def require_the_connections_of_the_document(net: Network) -> None:
    """Compare the connections with the table of docs/cluster.md about firewalls."""
    of_daemon = {(name, port) for _, name, port in connections(net[HERE], net)}
    assert of_daemon == {(SCHEDULER, PORT)}, "nothing connects to the daemon, and it connects only to the scheduler"
    for worker in MACHINES[1:]:
        found = list(connections(net[worker], net))
        assert {name for _, name, _ in found} == {SCHEDULER}, "workers do not connect to each other"
        incoming = [local for local, _, remote in found if remote != PORT]
        assert all(40000 <= port <= 40199 for port in incoming), found
        assert len(incoming) < len(found)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_workers_on_other_machines_complete_a_section_with_the_same_files_as_workers_here(
    tmp_path: Path, net: Network
) -> None:
    ports = ("--worker-port", WORKER_PORTS, "--nanny-port", NANNY_PORTS)
    with running_cluster(tmp_path / "cluster", net, *ports) as cluster:
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
            require_the_connections_of_the_document(net)
        assert "Traceback" not in cluster.scheduler.log.read_text()
        for worker in cluster.workers:
            assert "Traceback" not in cluster.log_of(worker).read_text()
    alone = Rig(tmp_path / "alone", {"watch.directory": str(rig.acquisition)})
    with running(alone):
        alone.wait_until("complete", *(section.metafile for section in sections), timeout_s=200)
    assert digest_tree(rig.mipmaps) == digest_tree(alone.mipmaps)
