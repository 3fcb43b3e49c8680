"""Target 15: tiles through a dask cluster: throughput by number of workers, overhead of a job.

`--machines` puts the scheduler and the workers into network namespaces, behind links with delay and loss.
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.common import Options, Outcome, Row, cores, median_ratio, own_cpu_s, run_script
from benchmarks.processes import Program, cpu_of, family, wait_for
from benchmarks.worker_pool import jobs_for, one_by_one, reports
from handlers.mipmaps.job import MipmapJob
from handlers.workers.opening import open_executor
from handlers.workers.pool import WorkerPool
from tests.network import Network, network

JOB_TIMEOUT_S = 300.0
"""Default of `workers.tile_timeout_s`."""
MACHINES = ("scheduler", "worker1", "worker2")
DELAY_MS, LOST_SHARE = 2.0, 0.002
"""Delay of frames and share of lost frames on the links of these machines, in both directions, as in
tests/acceptance/faults/test_cluster.py."""
UNPROFILED = ("env", "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=False")
"""Command prefix that switches dask's profiler off, as the units of docs/cluster.md do."""
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def measure(options: Options, machines: bool = False) -> Outcome:
    """Measure clusters of one, two and four workers in turn; then small tiles one at a time.

    Parameters
    ----------
    machines : whether the scheduler and the workers are on separate machines.
    """
    side, rounds = (512, 2) if options.quick else (3840, 5)
    with contextlib.ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        net = stack.enter_context(network_of(wanted=machines))
        clusters = {count: stack.enter_context(cluster(options.directory, count, net)) for count in (1, 2, 4)}
        pools = {count: each.pool for count, each in clusters.items()}
        rates = throughput(runner, pools, jobs_for(options.directory, side, 16), rounds)
        small = jobs_for(options.directory, 64, 1)[0]
        overheads_s = runner.run(one_by_one(pools[1], small, 20 if options.quick else 200))
    overhead = "overhead of a job through dask, submit to report, one at a time"
    rows = [*throughput_rows(side, rates), Row(15, overhead, 1e3 * statistics.median(overheads_s), "ms")]
    return Outcome(rows, facts={"tiles_per_s": rates})


# --- a cluster on this machine


class Cluster:
    """A scheduler and workers, each in its own process, and the pool in this process that uses them."""

    def __init__(self, scheduler: Program, workers: list[Program], pool: WorkerPool) -> None:
        self.scheduler, self.workers, self.pool = scheduler, workers, pool

    def memory_bytes(self) -> dict[str, int]:
        """Return the resident memory of each part, bytes. That of the workers is their sum, without their nannies."""
        workers = [pid for worker in self.workers for pid in family(worker.pid)[1:]]
        parts = {"daemon's side": [os.getpid()], "scheduler": [self.scheduler.pid], "workers": workers}
        return {name: sum(map(_resident_bytes, pids)) for name, pids in parts.items()}

    def cpu_s(self) -> dict[str, float]:
        """Return the CPU seconds of each part."""
        workers = sum(cpu_of(pid) for worker in self.workers for pid in family(worker.pid))
        return {"daemon's side": own_cpu_s(), "scheduler": cpu_of(self.scheduler.pid), "workers": workers}


def _resident_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    return 0


@contextlib.contextmanager
def network_of(*, wanted: bool) -> Iterator[Network | None]:
    """Yield machines for the scheduler and the workers, behind links with delay and loss; None: this machine."""
    if not wanted:
        yield None
        return
    with contextlib.ExitStack() as held:
        try:
            net = held.enter_context(network(*MACHINES))
        except pytest.skip.Exception as reason:
            raise SystemExit(str(reason)) from None
        for name in MACHINES:
            net.shape(name, delay_ms=DELAY_MS, loss=LOST_SHARE)
        yield net


@contextlib.contextmanager
def cluster(directory: Path, count: int, net: Network | None = None) -> Iterator[Cluster]:
    """Yield a cluster with this number of workers, which have all registered.

    Parameters
    ----------
    net : has the machines of `MACHINES`; the workers are placed on the last two in turn.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    log = directory / f"scheduler{count}.log"
    host, prefix = _address_and_prefix(net, MACHINES[0])
    options = ("--host", host, "--port", port, "--no-dashboard")
    programs = [Program(log, "distributed.cli.dask_scheduler", *options, prefix=prefix)]
    address = f"tcp://{host}:{port}"
    common = (*("--nthreads", "1", "--no-dashboard", "--memory-limit", "0"), "--local-directory", str(directory))
    try:
        wait_for(lambda: "Scheduler at:" in log.read_text(), 60, str(log))
        for number in range(count):
            worker_log = directory / f"worker{count}-{number}.log"
            host, prefix = _address_and_prefix(net, MACHINES[1 + number % 2])
            where = (address, "--host", host)
            programs.append(Program(worker_log, "distributed.cli.dask_worker", *where, *common, prefix=prefix))
        wait_for(lambda: log.read_text().count("Register worker") == count, 120, str(log))
        with open_executor("dask", 2 * count, address, job_timeout_s=JOB_TIMEOUT_S) as pool:
            yield Cluster(programs[0], programs[1:], pool)
    finally:
        for program in reversed(programs):
            program.stop(10)


def _address_and_prefix(net: Network | None, machine: str) -> tuple[str, tuple[str, ...]]:
    """Return the address of a machine, and the prefix of commands that run there."""
    return ("127.0.0.1", UNPROFILED) if net is None else (net[machine].address, (*net[machine].prefix, *UNPROFILED))


# --- throughput


def throughput(
    runner: asyncio.Runner, pools: dict[int, WorkerPool], jobs: list[MipmapJob], rounds: int
) -> dict[int, list[float]]:
    """Return tiles per second of each pool, by round."""
    rates: dict[int, list[float]] = {count: [] for count in pools}
    for number, (count, pool) in itertools.product(range(rounds + 1), pools.items()):
        began = time.perf_counter()
        runner.run(reports(pool, jobs))
        if number:  # the first round warms up
            rates[count].append(len(jobs) / (time.perf_counter() - began))
    return rates


def throughput_rows(side: int, rates: dict[int, list[float]]) -> list[Row]:
    """Compare one, two and four workers."""
    return [
        Row(
            15,
            f"tiles of {side}x{side}, 8 bit, through {count} worker{'s' * (count > 1)} of dask on {cores()} cores",
            statistics.median(each),
            "tiles/s",
            ratio=median_ratio(each, rates[1]) if count > 1 else None,
            ratio_is="measured / one worker" if count > 1 else "",
        )
        for count, each in rates.items()
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--machines", action="store_true")
    given, others = parser.parse_known_args(sys.argv[1:])
    run_script("cluster", lambda options: measure(options, **vars(given)), others)
