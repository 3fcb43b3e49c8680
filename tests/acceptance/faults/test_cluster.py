"""Faults of a dask cluster on separate machines: no tile is lost, and no montage fails because of them."""

import random
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from daemon.simulator.temca import write_section
from tests.acceptance.cluster import MACHINES, SCHEDULER, Cluster, running_cluster
from tests.acceptance.conftest import section_plan
from tests.acceptance.faults.accounts import audit, left_over, present_rows, wait_until_ended
from tests.acceptance.faults.rows import FaultRun, Scale
from tests.acceptance.rig import Rig, fetch, running, wait_for
from tests.network import Network, network

LEVELS = 3
FIRST_GRID = 1050
LATE_MS, LOST = 2.0, 0.002
BLIND = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$1" && shift && exec "$@"', "sh")
"""Prefix of a command that finds nothing in the directory that follows the prefix."""
Enter = Callable[[FaultRun], None]


@pytest.fixture
def net() -> Iterator[Network]:
    with network(*MACHINES) as net:
        for name in MACHINES:
            net.shape(name, delay_ms=LATE_MS, loss=LOST)
        yield net


@dataclass
class Scene:
    """A daemon for which a cluster makes the tiles."""

    rig: Rig
    cluster: Cluster
    rng: random.Random
    metafiles: list[Path] = field(default_factory=list)

    def keep_busy(self) -> None:
        """Deliver sections until two are unfinished."""
        while sum(row["state"] in ("noticed", "settled", "ingested") for row in present_rows(self.rig).values()) < 2:
            number = len(self.metafiles)
            plan = section_plan(FIRST_GRID + number, 12, size=(512, 512), seed=number)
            self.metafiles.append(write_section(plan, self.rig.acquisition, pixels="noise").metafile)
            known = self.metafiles[-1]
            wait_for(lambda known=known: known in present_rows(self.rig), 60, str(known))

    def wait_for_a_tile(self) -> None:
        """Wait until the cluster has made another tile, so that it has recovered."""
        before = self._made()

        def has_more() -> bool:
            self.keep_busy()
            return self._made() > before

        wait_for(has_more, 180, lambda: str(fetch(f"{self.rig.url}/readyz")))

    def _made(self) -> float:
        lines = str(fetch(f"{self.rig.url}/metrics")).splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("temwatch_tiles_mipmapped_total "))


def run_with_faults(
    tmp_path: Path,
    net: Network,
    enter: Enter,
    fault: str,
    injections: int,
    inject: Callable[[Scene], str],
    *options: str,
) -> None:
    """Inject a fault many times while tiles are made, wait for the end, and enter the row of the fault.

    Parameters
    ----------
    inject : injects the fault once; returns the part of the cluster that was hit, for the note of the row.
    options : options of the workers.
    """
    seed = secrets.randbelow(10**6)
    with running_cluster(tmp_path / "cluster", net, *options) as cluster:
        settings = {"workers.executor": "dask", "workers.dask_scheduler": cluster.url, "workers.count": 4}
        rig = Rig(tmp_path, {**settings, "watch.mipmaps.levels": LEVELS})
        with running(rig):
            scene = Scene(rig, cluster, random.Random(seed))
            scene.wait_for_a_tile()
            hit = [inject(scene) for _ in range(injections)]
            wait_until_ended(rig, scene.metafiles, 300)
            wait_for(lambda: not left_over(rig), 120, lambda: f"left over: {left_over(rig)}")
            found = audit(rig, scene.metafiles, levels=LEVELS)
            wait_for(lambda: rig.ready().get("ready"), 120, lambda: str(rig.ready()))
            assert fetch(f"{rig.url}/healthz") == {"alive": True}
            log = rig.daemon.log.read_text()
            assert "Traceback" not in log
        times = ", ".join(f"{what} {hit.count(what)}" for what in sorted(set(hit)))
        note = f"{times}; workers started {cluster.starts} times; seed {seed}"
    enter(FaultRun(fault, injections, **found.counts(), note=note))
    assert not found.problems, found.problems


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_tile_or_montage_is_lost_when_workers_of_a_cluster_are_killed(
    tmp_path: Path, net: Network, scale: Scale, enter: Enter
) -> None:
    def kill(scene: Scene) -> str:
        scene.keep_busy()
        time.sleep(scene.rng.uniform(0.1, 1.0))
        worker = scene.rng.choice(scene.cluster.workers)
        if scene.rng.random() < 0.7 and scene.cluster.kill_process_of(worker):
            return "a worker's process"
        scene.cluster.kill_machine_of(worker)
        scene.wait_for_a_tile()
        return "a worker with its nanny"

    run_with_faults(tmp_path, net, enter, "kill -9 of workers of a cluster", scale.pick(60, 4, 2), kill)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_tile_is_lost_when_a_scheduler_is_killed_and_started_again(
    tmp_path: Path, net: Network, scale: Scale, enter: Enter
) -> None:
    def restart(scene: Scene) -> str:
        scene.keep_busy()
        time.sleep(scene.rng.uniform(0.1, 1.0))
        assert scene.cluster.scheduler
        scene.cluster.scheduler.end()
        time.sleep(scene.rng.choice((0.0, 3.0)))
        scene.cluster.start_scheduler()
        scene.wait_for_a_tile()
        return "a scheduler"

    run_with_faults(tmp_path, net, enter, "kill -9 of a cluster's scheduler", scale.pick(12, 1, 1), restart)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_tile_is_lost_when_the_network_of_a_cluster_is_cut_for_some_time(
    tmp_path: Path, net: Network, scale: Scale, enter: Enter
) -> None:
    def cut(scene: Scene) -> str:
        scene.keep_busy()
        name = scene.rng.choice(MACHINES)
        net.shape(name, loss=1)
        time.sleep(scene.rng.choice((2.0, 20.0)))  # shorter and longer than the time-out of a connection
        net.shape(name, delay_ms=LATE_MS, loss=LOST)
        scene.wait_for_a_tile()
        return "the scheduler" if name == SCHEDULER else "a worker"

    run_with_faults(tmp_path, net, enter, "the network of a cluster is cut", scale.pick(8, 1, 1), cut)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_tile_is_lost_when_the_walltime_of_workers_ends_and_they_are_replaced(
    tmp_path: Path, net: Network, scale: Scale, enter: Enter
) -> None:
    def outlive(scene: Scene) -> str:
        before = scene.cluster.starts

        def is_replaced() -> bool:
            scene.keep_busy()
            return scene.cluster.starts > before

        wait_for(is_replaced, 180, "a worker whose time has ended")
        return "a worker"

    lifetime = ("--lifetime", "12s", "--lifetime-stagger", "4s")
    run_with_faults(tmp_path, net, enter, "the walltime of workers ends", scale.pick(20, 2, 1), outlive, *lifetime)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_workers_that_see_other_files_get_no_tile_and_their_hosts_are_named(
    tmp_path: Path, net: Network, scale: Scale, enter: Enter
) -> None:
    def join(scene: Scene) -> str:
        known = len(scene.cluster.workers)
        directory = (scene.rig.mipmaps, scene.rig.acquisition)[known % 2]
        scene.cluster.add_worker(MACHINES[1 + known % 2], prefix=(*BLIND, str(directory)))

        def is_named() -> bool:
            scene.keep_busy()
            hosts = scene.rig.ready().get("workers", {}).get("hosts", ())
            return sum(host["refused"] for host in hosts if host["problems"]) == known - 1

        wait_for(is_named, 180, lambda: str(scene.rig.ready().get("workers")))
        scene.wait_for_a_tile()
        return f"without {directory.name}"

    run_with_faults(tmp_path, net, enter, "workers of a cluster that see other files", scale.pick(6, 1, 1), join)
