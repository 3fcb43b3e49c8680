"""The program of docs/cluster.md with a real SLURM: jobs end in every way, and no tile is lost."""

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import cluster_document as document
from tests.acceptance.rig import THROUGH_NGINX, Rig, Standins, verify_levels, wait_for
from tests.acceptance.test_probe import probe
from tests.process_group import kill_group
from tests.slurm import Slurm, require_slurm, running_slurm

NODES = ("node7", "node8", "node9")
WAIT_S = 300.0
"""Longest wait for a job and its worker. SLURM lets a job whose start timed out wait for two minutes."""
QUICK = {"DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "1s"}
"""dask-jobqueue waits 15 s by default before it cancels the job of a worker that has left."""


class Mapped(Rig):
    """A rig whose last node has the acquisition directory at another path, and nothing at the daemon's path."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.there = self.root / "on the last node"
        for made in (self.mipmaps, self.there):
            made.mkdir()

    @property
    def mounts(self) -> str:
        return f"mount --bind '{self.acquisition}' '{self.there}' && mount -t tmpfs none '{self.acquisition}'"

    def config_text(self) -> str:
        entry = f'hosts = "{NODES[-1]}"\nlocal = "{self.acquisition}"\nworker = "{self.there}"'
        return f"{super().config_text()}\n[[workers.path_map]]\n{entry}\n"


@pytest.fixture
def rig(tmp_path: Path, standins: Standins) -> Iterator[Mapped]:
    require_slurm()
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    rig = Mapped(tmp_path, standins=standins, is_behind_nginx=THROUGH_NGINX)
    try:
        yield rig
    finally:
        rig.close()


@dataclass
class Submitter:
    """The document's program, which runs the scheduler and submits the jobs."""

    process: "subprocess.Popen[bytes]"
    tls: Path
    address: str
    log: Path


@contextlib.contextmanager
def submitting(slurm: Slurm, directory: Path, *, jobs: int, python: str = sys.executable) -> Iterator[Submitter]:
    """Run the document's program, with a pause of a second."""
    tls = document.make_certificates(directory)
    program, address = document.write_program(directory, tls, jobs=jobs, python=python, pause_s=1)
    log = directory / "program.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, program],
            stdout=output,
            stderr=output,
            env={**slurm.environment, **QUICK},
            cwd=directory,
            start_new_session=True,
        )
    try:
        yield Submitter(process, tls, f"tls://{address}", log)
    finally:
        kill_group(process)


def settings_of(submitter: Submitter) -> dict[str, object]:
    return {
        "workers.executor": "dask",
        "workers.dask_scheduler": submitter.address,
        "workers.count": len(NODES),
        "workers.dask_ca_file": str(submitter.tls / "ca.pem"),
        "workers.dask_certificate_file": str(submitter.tls / "temwatch.pem"),
        "workers.dask_key_file": str(submitter.tls / "temwatch.key"),
    }


def hosts(rig: Rig) -> set[str]:
    """Return the hosts that have a worker."""
    return {host["host"] for host in rig.ready().get("workers", {}).get("hosts", ())}


def busy_hosts(rig: Rig) -> set[str]:
    """Return the hosts whose worker has a tile."""
    return {host["host"] for host in rig.ready().get("workers", {}).get("hosts", ()) if host["tiles_in_flight"]}


def wait_for_other_job(slurm: Slurm, node: str, ended: str) -> str:
    """Return the job that runs on a node after another one."""

    def other() -> str | None:
        return job.number if (job := slurm.job_on(node)) and job.number != ended else None

    return str(wait_for(other, WAIT_S, lambda: str(slurm.jobs())))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_section_becomes_complete_while_jobs_are_cancelled_requeued_and_end_at_their_walltime(
    rig: Mapped, write, tmp_path: Path
) -> None:
    nodes = {**dict.fromkeys(NODES, "true"), NODES[-1]: rig.mounts}
    with running_slurm(nodes) as slurm, submitting(slurm, tmp_path, jobs=3) as submitter:
        rig.start_standin()
        rig.settings |= settings_of(submitter)
        rig.start()
        wait_for(lambda: hosts(rig) == set(NODES), WAIT_S, "a worker on each node")
        with rig.held_at_mipmaps(lambda: write(tiles=24, specimen_id="s"), first=4) as (written, lease):
            wait_for(lambda: busy_hosts(rig) == set(NODES), WAIT_S, lambda: str(rig.ready()))
            timed_out, cancelled, requeued = first = [slurm.job_on(node).number for node in NODES]
            slurm.end_walltime(timed_out)
            slurm.run("scancel", cancelled)
            slurm.run("scontrol", "requeue", requeued)
            for node, number in zip(NODES, first, strict=True):
                wait_for_other_job(slurm, node, number)
            assert "JobState=TIMEOUT" in slurm.run("scontrol", "show", "job", timed_out)
            assert requeued not in slurm.jobs(), "it would start again beside the job that took its place"
            lease.give_back()  # new workers wait for it, too: their check reads an image
        rig.wait_until("complete", written.metafile, timeout_s=WAIT_S)
        assert verify_levels(rig.tiles("s_mips", 1050.0)) == 24 * 6
        wait_for(
            lambda: {host["host"] for host in rig.ready()["workers"]["hosts"]} == set(NODES), WAIT_S, "all workers"
        )
        code, proved, wrong = probe(rig)
        assert (code, wrong) == (0, [])
        assert f"probe {submitter.address} has workers on: node7 1, node8 1, node9 1; threads: 3" in proved
        assert rig.daemon.stop() == 0
        assert "Traceback" not in rig.daemon.log.read_text()
        submitter.process.terminate()
        assert submitter.process.wait(60) == 0, submitter.log.read_text()
        wait_for(lambda: not slurm.jobs(), 60, "the jobs are cancelled when the program ends")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_jobs_that_slurm_refused_or_that_ended_without_a_worker_are_submitted_again(tmp_path: Path) -> None:
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    # The jobs run `true` in place of Python: they end before their worker has reached the scheduler.
    with (
        running_slurm({NODES[0]: "true"}) as slurm,
        submitting(slurm, tmp_path, jobs=1, python="true") as submitter,
    ):

        def lost() -> set[str]:
            return set(re.findall(r"job (\S+) is not in the queue", submitter.log.read_text()))

        wait_for(lambda: len(lost()) >= 2, WAIT_S, submitter.log.read_text)
        slurm.run("scontrol", "update", "PartitionName=em", "State=INACTIVE")
        slurm.run("scancel", "--name=dask-worker")  # a job that waits would wait until the partition is up
        wait_for(lambda: "None" in lost(), WAIT_S, submitter.log.read_text)  # a job that SLURM refused has no number
        known = lost()
        slurm.run("scontrol", "update", "PartitionName=em", "State=UP")
        wait_for(lambda: len(lost() - known) >= 2, WAIT_S, submitter.log.read_text)
        submitter.process.terminate()
        assert submitter.process.wait(60) == 0, submitter.log.read_text()
