"""A dask cluster whose scheduler and workers run on separate machines of tests/network.py."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from tests.acceptance.rig import Program, wait_for
from tests.network import Network

PORT = 8786
SCHEDULER = "scheduler"
MACHINES = (SCHEDULER, "worker1", "worker2")
QUICK = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "12s", "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "12s"}
"""A connection counts as lost after 12 s, the minimum of distributed, instead of 30 s."""
REGISTERED = "Registered to"


@dataclass
class WorkerProgram:
    """A nanny with its worker process, as a service manager or a job of SLURM runs it."""

    machine: str
    number: int
    options: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()
    """Prefix of the command, inside the machine."""
    starts: int = 0
    program: Program | None = None


@dataclass
class Cluster:
    """A scheduler, and workers that are restarted when they end."""

    directory: Path
    network: Network
    environment: Mapping[str, str] = field(default_factory=lambda: QUICK)
    protocol: str = "tcp"
    tls: tuple[str, ...] = ()
    """Options with the certificates of the scheduler and the workers."""
    workers: list[WorkerProgram] = field(default_factory=list)
    scheduler: Program | None = None

    def __post_init__(self) -> None:
        self._ended = threading.Event()
        self._guarding = threading.Thread(target=self._guard, name="service manager of the workers")
        self._guarding.start()

    @property
    def url(self) -> str:
        return f"{self.protocol}://{self.network[SCHEDULER].address}:{PORT}"

    @property
    def starts(self) -> int:
        """Number of worker programs that were started."""
        return sum(worker.starts for worker in self.workers)

    def start_scheduler(self) -> None:
        machine = self.network[SCHEDULER]
        log = self.directory / "scheduler.log"
        known = log.read_text().count("Scheduler at:") if log.exists() else 0
        self.scheduler = Program(
            log,
            "distributed.cli.dask_scheduler",
            *("--host", f"{self.protocol}://{machine.address}", "--port", str(PORT), "--no-dashboard", *self.tls),
            prefix=machine.prefix,
            env=dict(self.environment),
        )
        wait_for(lambda: log.read_text().count("Scheduler at:") > known, 60, f"a scheduler; see {log}")

    def add_worker(self, machine: str, *options: str, prefix: tuple[str, ...] = ()) -> WorkerProgram:
        """Start a worker with one thread, which is restarted when it ends."""
        worker = WorkerProgram(machine, len(self.workers), options, prefix)
        self._start(worker)
        self.workers.append(worker)
        return worker

    def wait_for_workers(self) -> None:
        """Wait until each worker has registered."""
        for worker in self.workers:
            wait_for(partial(self.has_registered, worker), 120, str(self.log_of(worker)))

    def has_registered(self, worker: WorkerProgram) -> bool:
        """Whether the worker has registered since the last start of its program."""
        log = self.log_of(worker)
        return log.exists() and REGISTERED in log.read_text()

    def log_of(self, worker: WorkerProgram) -> Path:
        """Return the log of the worker's last start."""
        return self.directory / f"{worker.machine}-{worker.number}-{worker.starts}.log"

    def _start(self, worker: WorkerProgram) -> None:
        worker.starts += 1
        machine = self.network[worker.machine]
        scratch = self.directory / "scratch" / worker.machine
        scratch.mkdir(parents=True, exist_ok=True)
        worker.program = Program(
            self.log_of(worker),
            "distributed.cli.dask_worker",
            *(self.url, "--host", f"{self.protocol}://{machine.address}", "--nthreads", "1", "--no-dashboard"),
            *("--memory-limit", "0", "--local-directory", str(scratch), "--death-timeout", "60"),
            *(*self.tls, *worker.options),
            prefix=(*machine.prefix, *worker.prefix),
            env=dict(self.environment),
        )

    def _guard(self) -> None:
        while not self._ended.wait(0.5):
            for worker in self.workers:
                if worker.program and worker.program.process.poll() is not None:
                    worker.program.end()
                    self._start(worker)

    def kill_process_of(self, worker: WorkerProgram) -> bool:
        """Kill the worker's process, not its nanny. Return False if the nanny has no worker process now."""
        assert worker.program
        for pid in _children(worker.program.process.pid):
            with contextlib.suppress(OSError):
                if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
                    return True
        return False

    def kill_machine_of(self, worker: WorkerProgram) -> None:
        """Kill a worker together with its nanny, as when a machine loses power."""
        assert worker.program
        worker.program.end()

    def close(self) -> None:
        self._ended.set()
        self._guarding.join()
        for program in (*(worker.program for worker in self.workers), self.scheduler):
            if program:
                program.end()


def _children(pid: int) -> list[int]:
    """Return the children of all threads of a process."""
    found: list[int] = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, listed.read_text().split())
    return found


@contextlib.contextmanager
def running_cluster(directory: Path, net: Network, *of_workers: str, **options: object) -> Iterator[Cluster]:
    """Yield a cluster with a scheduler and a worker on each of two machines.

    Parameters
    ----------
    of_workers : options of the worker programs.
    """
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    directory.mkdir(parents=True, exist_ok=True)
    cluster = Cluster(directory, net, **options)  # type: ignore[arg-type]
    try:
        cluster.start_scheduler()
        for machine in MACHINES[1:]:
            cluster.add_worker(machine, *of_workers)
        cluster.wait_for_workers()
        yield cluster
    finally:
        cluster.close()
