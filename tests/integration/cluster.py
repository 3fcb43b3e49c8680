"""A dask cluster of separate processes on this machine. Tests start, kill and restart its parts."""

import contextlib
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from daemon.simulator.demonstration.processes import free_port
from handlers.workers.crew import Crew
from handlers.workers.pool import WorkerPool
from tests.process_group import kill_group
from tests.waiting import wait_for

START_S = 100.0
"""Longest wait for a process of the cluster."""
TLS_ROLES = ("ca", "scheduler", "worker", "client")
ADAPTIVE = """
import asyncio, sys
from distributed import LocalCluster

async def main(port, directory, maximum):
    async with LocalCluster(
        n_workers=0, threads_per_worker=1, processes=True, asynchronous=True, host="127.0.0.1",
        scheduler_port=int(port), dashboard_address=None, memory_limit=0, local_directory=directory,
    ) as cluster:
        while maximum:
            cluster.adapt(minimum=0, maximum=int(maximum), interval="300ms", target_duration="1s", wait_count=2)
            maximum = await asyncio.to_thread(sys.stdin.readline)

if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
"""
"""Program like that of docs/cluster.md with `adapt`: dask-jobqueue has the same class `Adaptive`."""


@dataclass
class Cluster:
    """A scheduler and its workers, each in its own process."""

    directory: Path
    protocol: str = "tcp"
    port: int = field(default_factory=free_port)
    tls: Sequence[str] = ()
    """Options of scheduler and workers."""
    environment: dict[str, str] = field(default_factory=dict)
    scheduler: "subprocess.Popen[bytes] | None" = None
    workers: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    @property
    def address(self) -> str:
        """Address of the scheduler."""
        return f"{self.protocol}://127.0.0.1:{self.port}"

    def start_scheduler(self, code: str = "") -> None:
        """Start the scheduler.

        Parameters
        ----------
        code : Python code that its process runs first.
        """
        options = ["--host", self.address, "--no-dashboard", *self.tls]
        self.scheduler = self._start("scheduler", options, code, ())
        wait_for(self._is_listening, "the scheduler listens", START_S)

    def start_adaptive(self, maximum: int) -> None:
        """Start a scheduler without workers that starts and ends workers according to its tasks."""
        path = self.directory / "adaptive.py"
        path.write_text(ADAPTIVE)
        self.scheduler = self._run(path, [str(self.port), str(self.directory), str(maximum)], (), stdin=subprocess.PIPE)
        wait_for(self._is_listening, "the scheduler listens", START_S)

    def adapt(self, maximum: int) -> None:
        """Change the largest number of workers of an adaptive cluster."""
        assert self.scheduler is not None
        assert self.scheduler.stdin is not None
        self.scheduler.stdin.write(f"{maximum}\n".encode())
        self.scheduler.stdin.flush()

    def _is_listening(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def start_worker(
        self, *options: str, threads: int = 1, nanny: bool = False, code: str = "", wrapper: Sequence[str] = ()
    ) -> "subprocess.Popen[bytes]":
        """Start a worker.

        Parameters
        ----------
        code : Python code that its process runs first.
        wrapper : a command that runs the worker.
        """
        common = [self.address, "--nthreads", str(threads), "--no-dashboard", "--death-timeout", "60"]
        if "--host" not in options:
            common += ["--host", "127.0.0.1"]
        kind = "--nanny" if nanny else "--no-nanny"
        arguments = [*common, kind, "--local-directory", str(self.directory), *self.tls, *options]
        process = self._start("worker", arguments, code, wrapper)
        self.workers.append(process)
        return process

    def _start(self, part: str, options: Sequence[str], code: str, wrapper: Sequence[str]) -> "subprocess.Popen[bytes]":
        program = f"{code}\nfrom distributed.cli.dask_{part} import main\nif __name__ == '__main__': main()"
        path = self.directory / f"{part}-{time.monotonic_ns()}.py"
        path.write_text(program)
        return self._run(path, options, wrapper)

    def _run(
        self, path: Path, options: Sequence[str], wrapper: Sequence[str], stdin: int | None = None
    ) -> "subprocess.Popen[bytes]":
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **self.environment}
        with (self.directory / f"{path.stem}.log").open("wb") as log:
            return subprocess.Popen(
                [*wrapper, sys.executable, "-W", "ignore", str(path), *options],
                stdin=stdin,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def logs(self) -> str:
        """Return the logs of all processes."""
        return "\n".join(path.read_text() for path in sorted(self.directory.glob("*.log")))

    def kill_scheduler(self) -> None:
        """Kill the scheduler at once."""
        assert self.scheduler is not None
        kill_group(self.scheduler)
        self.scheduler = None

    def kill_worker(self, worker: "subprocess.Popen[bytes]") -> None:
        """Kill a worker at once."""
        self.workers.remove(worker)
        kill_group(worker)

    def end(self) -> None:
        """Kill every process."""
        for process in [*self.workers, *([self.scheduler] if self.scheduler else [])]:
            kill_group(process)
            if process.stdin:
                process.stdin.close()
        self.workers.clear()
        self.scheduler = None


@contextlib.contextmanager
def running_cluster(directory: Path, **options: Any) -> Iterator[Cluster]:
    """Yield a cluster without any process; end the processes that the test started."""
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    directory.mkdir(parents=True, exist_ok=True)
    cluster = Cluster(directory, **options)
    try:
        yield cluster
    finally:
        cluster.end()


def wait_for_crew(pool: WorkerPool, condition: Callable[[Crew], Any], what: str, timeout_s: float = START_S) -> Crew:
    """Wait until the workers of a pool meet the condition; return them."""
    try:
        wait_for(lambda: condition(pool.crew), what, timeout_s)
    except AssertionError as failed:
        raise AssertionError(f"{failed}; {pool.crew}") from None
    return pool.crew


def is_ready(crew: Crew, workers: int = 1) -> bool:
    """Whether the scheduler has exactly this number of workers that get tiles."""
    return not crew.fault and sum(host.workers for host in crew.hosts()) == workers


def on_host(name: str, setup: str) -> list[str]:
    """Return a command that runs another command on a host of this name with its own mounts.

    Skips the test if namespaces cannot be made.
    """
    wrapper = ["unshare", "--mount", "--uts", "sh", "-c", f'hostname {name} && {setup} && exec "$@"', "sh"]
    if subprocess.run([*wrapper, "true"], capture_output=True).returncode:
        pytest.skip(f"cannot make namespaces with: {shlex.join(wrapper)}")
    return wrapper


def make_certificates(directory: Path) -> None:
    """Make an authority, and a certificate signed by it for each role, as NAME.pem and NAME-key.pem."""
    directory.mkdir(parents=True, exist_ok=True)

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    signs = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")  # Python 3.13 and later refuse certificates without
    authority = ("-keyout", "ca-key.pem", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test CA")
    openssl("req", "-x509", *curve, *authority, *signs)
    (directory / "signed.ext").write_text("authorityKeyIdentifier = keyid\nsubjectKeyIdentifier = hash\n")
    for role in TLS_ROLES[1:]:
        subject = f"/CN={role}"
        openssl("req", *curve, "-keyout", f"{role}-key.pem", "-out", f"{role}.csr", "-subj", subject)
        signing = ("-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial", "-days", "2", "-extfile", "signed.ext")
        openssl("x509", "-req", "-in", f"{role}.csr", *signing, "-out", f"{role}.pem")
        (directory / f"{role}-key.pem").chmod(0o600)


def tls_options(directory: Path, role: str) -> list[str]:
    """Return the options of a scheduler or worker."""
    return [
        *("--tls-ca-file", str(directory / "ca.pem")),
        *("--tls-cert", str(directory / f"{role}.pem")),
        *("--tls-key", str(directory / f"{role}-key.pem")),
    ]
