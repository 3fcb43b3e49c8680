"""`temwatch check-config --probe` tests the dask scheduler and its workers."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.acceptance.rig import Rig
from tests.acceptance.test_probe import probe
from tests.integration.cluster import Cluster, make_certificates, on_host, running_cluster, tls_options
from tests.waiting import wait_for

SCHEDULER = "wrong workers.dask_scheduler: "


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    rig.mipmaps.mkdir()
    try:
        rig.start_standin()
        yield rig
    finally:
        rig.close()


def of_cluster(lines: list[str], cluster: Cluster) -> list[str]:
    """Return the lines about the cluster, with a placeholder for its address."""
    return [line.replace(cluster.address, "DASK") for line in lines if cluster.address in line or "workers" in line]


def probed(rig: Rig, cluster: Cluster) -> tuple[int, list[str], list[str]]:
    code, proved, wrong = probe(rig)
    assert not list(rig.root.rglob(".temwatch-proof*"))
    return code, of_cluster(proved, cluster), of_cluster(wrong, cluster)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_probe_reports_the_scheduler_and_the_files_of_its_workers_by_host(rig: Rig, tmp_path: Path) -> None:
    with running_cluster(tmp_path / "cluster") as cluster:
        rig.settings |= {"workers.executor": "dask", "workers.dask_scheduler": cluster.address}
        hint = "start it there, or correct workers.dask_scheduler"
        assert probed(rig, cluster) == (1, [], [f"{SCHEDULER}DASK does not answer: Connection refused ({hint})"])
        cluster.start_scheduler()
        none = ["probe DASK answers", "probe DASK has no worker now: the workers' access to files is not tested"]
        assert probed(rig, cluster) == (0, none, [])
        cluster.start_worker(threads=2, wrapper=on_host("node7", "true"))
        cluster.start_worker(wrapper=on_host("node8", f"mount -t tmpfs none {shlex.quote(str(rig.mipmaps))}"))
        wait_for(lambda: cluster.logs().count("Registered to") == 2, "both workers are there")
        unknown = f"{rig.acquisition} contains no image yet, so reading it was not tested"
        code, proved, wrong = probed(rig, cluster)
        assert proved == [
            "probe DASK answers",
            "probe DASK and its workers have the versions of this machine",
            "probe DASK has workers on: node7 1, node8 1; threads: 3",
            f"probe daemon: workers on node7 write {rig.mipmaps}; {unknown}",
        ]
        seen = f"cannot read the daemon's file in {rig.mipmaps}: No such file or directory"
        assert (code, wrong) == (1, [f"{SCHEDULER}watch daemon: workers on node8 get no tiles: {seen}"])
        Image.linear_gradient("L").save(rig.acquisition / "tile.tif")
        proved = probed(rig, cluster)[1]
        assert proved[-1] == f"probe daemon: workers on node7 read {rig.acquisition} and write {rig.mipmaps}"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_probe_tests_the_certificate_of_the_scheduler_and_the_tls_files(rig: Rig, tmp_path: Path) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    for directory in (right, wrong):
        make_certificates(directory)
    with running_cluster(tmp_path / "cluster", protocol="tls") as cluster:
        cluster.tls = tls_options(right, "scheduler")
        cluster.start_scheduler()
        rig.settings |= {
            "workers.executor": "dask",
            "workers.dask_scheduler": cluster.address,
            "workers.dask_ca_file": str(right / "ca.pem"),
            "workers.dask_certificate_file": str(right / "client.pem"),
            "workers.dask_key_file": str(right / "client-key.pem"),
        }
        code, proved, said = probed(rig, cluster)
        assert (code, said, proved[0]) == (0, [], "probe DASK answers, and its certificate verifies")
        rig.settings["workers.dask_ca_file"] = str(wrong / "ca.pem")
        refused = f"{SCHEDULER}DASK: its certificate does not verify: CERTIFICATE_VERIFY_FAILED"
        assert probed(rig, cluster) == (1, [], [refused])
        rig.settings["workers.dask_ca_file"] = str(right / "ca.pem")
        for key, name in (("certificate", "client.pem"), ("key", "client-key.pem")):
            rig.settings[f"workers.dask_{key}_file"] = str(wrong / name)
        code, proved, said = probed(rig, cluster)
        assert (code, proved) == (1, [])
        assert said == [f"{SCHEDULER}DASK refuses the certificate in {wrong / 'client.pem'}"]
        for key, name in (("certificate", "client.pem"), ("key", "client-key.pem")):
            rig.settings[f"workers.dask_{key}_file"] = str(right / name)
        (right / "client-key.pem").chmod(0o644)
        code, _, said = probed(rig, cluster)
        assert (code, said[0].partition(" (")[0]) == (
            1,
            f"wrong workers.dask_key_file: {right}/client-key.pem is open to other users",
        )
