"""The daemon's log while parts of a cluster fail: each message of dask is one line, under a logger of temwatch."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.rig import Rig, fetch, wait_for
from tests.integration.cluster import Cluster, make_certificates, running_cluster, tls_options
from tests.integration.test_cluster import OTHER_TEMWATCH

OTHER_DASK = OTHER_TEMWATCH.replace('"temwatch"', '"distributed"')
QUICK = ("env", "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP=12s", "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT=12s")
"""The minimum of distributed."""


def of_cluster(cluster: Cluster, rig: Rig) -> None:
    rig.prefix = QUICK
    rig.settings |= {
        "workers.executor": "dask",
        "workers.dask_scheduler": cluster.address,
        "workers.count": 2,
    }


def lines_of_dask(rig: Rig) -> list[dict[str, Any]]:
    """Check that each line of the log is one record without a traceback; return the records of libraries."""
    records = [json.loads(line) for line in rig.daemon.lines()]
    assert not [record for record in records if "exception" in record or "Traceback" in str(record)]
    foreign = [record for record in records if "logger" in record]
    assert {record["event"] for record in foreign} <= {"workers.dask"}
    assert not [record for record in foreign if not record["logger"].startswith("temwatch.")]
    return foreign


def workers_of(nanny: "subprocess.Popen[bytes]") -> Iterator[int]:
    """Yield the worker processes of a nanny."""
    for listed in Path(f"/proc/{nanny.pid}/task").glob("*/children"):
        for pid in listed.read_text().split():
            with contextlib.suppress(OSError):
                if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    yield int(pid)


def made(rig: Rig) -> int:
    """Return the number of tiles that the workers have made."""
    lines = str(fetch(f"{rig.url}/metrics")).splitlines()
    return int(sum(float(line.split()[-1]) for line in lines if line.startswith("temwatch_tiles_mipmapped_total ")))


def in_flight(rig: Rig) -> bool:
    """Whether the status and the metrics show the same host with a tile in flight."""
    hosts = rig.ready().get("workers", {}).get("hosts", ())
    busy = [host["host"] for host in hosts if host["tiles_in_flight"] == 1]
    return any(f'temwatch_tiles_in_flight{{host="{host}"}} 1.0' in str(fetch(f"{rig.url}/metrics")) for host in busy)


def wait_for_tiles(rig: Rig, count: int) -> None:
    wait_for(lambda: made(rig) >= count, 120, lambda: str(rig.ready()))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_log_has_whole_lines_and_no_traceback_while_every_part_of_a_cluster_fails(rig: Rig, write, tmp_path: Path):
    rig.start_standin()
    with running_cluster(tmp_path / "cluster") as cluster:
        of_cluster(cluster, rig)
        cluster.start_scheduler(OTHER_DASK)
        nanny = cluster.start_worker(nanny=True)
        rig.start()
        # Each failure happens while tiles are in flight, and the next tiles are made after it.
        with rig.held_at_mipmaps(lambda: write(tiles=30, specimen_id="s"), first=5) as (written, lease):
            wait_for_tiles(rig, 3)
            wait_for(lambda: in_flight(rig), 60, "a tile in flight is shown")
            for pid in workers_of(nanny):
                os.kill(pid, signal.SIGKILL)
            lease.give_back(5)
            wait_for_tiles(rig, 8)
            assert cluster.scheduler
            cluster.scheduler.send_signal(signal.SIGSTOP)
            wait_for(lambda: not rig.ready().get("ready", True), 60, "a scheduler without a sign of life is reported")
            cluster.scheduler.send_signal(signal.SIGCONT)
            lease.give_back(5)
            wait_for_tiles(rig, 13)
            cluster.kill_scheduler()
            wait_for(lambda: not rig.ready().get("ready", True), 60, "a dead scheduler is reported")
            cluster.kill_worker(nanny)
            cluster.start_scheduler(OTHER_DASK)
            worker = cluster.start_worker()
            lease.give_back(5)
            wait_for_tiles(rig, 18)
            cluster.kill_worker(worker)
            cluster.start_worker()
        rig.wait_until("complete", written.metafile, timeout_s=200)
        assert rig.daemon.stop() == 0
        records = [json.loads(line) for line in rig.daemon.lines()]
        assert [each for each in records if "versions differ in the cluster: distributed" in str(each)]
    lines_of_dask(rig)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_log_has_whole_lines_and_no_traceback_if_a_scheduler_refuses_the_certificate(rig: Rig, tmp_path: Path):
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    for directory in (right, wrong):
        make_certificates(directory)
    rig.start_standin()
    with running_cluster(tmp_path / "cluster", protocol="tls") as cluster:
        of_cluster(cluster, rig)
        cluster.tls = tls_options(right, "scheduler")
        cluster.start_scheduler()
        rig.settings |= {
            "workers.dask_ca_file": str(right / "ca.pem"),
            "workers.dask_certificate_file": str(wrong / "client.pem"),
            "workers.dask_key_file": str(wrong / "client-key.pem"),
        }
        rig.start()
        wait_for(lambda: cluster.logs().count("Listener on") >= 2, 100, "the scheduler refuses it twice")
        (reason,) = rig.ready()["reasons"]
        assert f"{cluster.address} refuses the certificate in {wrong / 'client.pem'}" in reason
        assert rig.daemon.stop() == 0
    lines_of_dask(rig)
