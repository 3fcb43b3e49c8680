"""A real SLURM on this machine: munged, slurmctld, and a slurmd for each node, from a temporary directory.

Each node is a set of namespaces with its own host name, mounts and processes. So its jobs end when its slurmd ends.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.process_group import kill_group
from tests.waiting import wait_for

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={munge}
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool-%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
SchedulerParameters=sched_min_interval=200000
{nodes}
PartitionName=em Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
"""With `config_overrides` a node has the cores and the memory of its line, whatever this machine has."""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=65536"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "unshare", "hostname")
START_S = 60.0


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A job that has not ended."""

    number: str
    state: str
    node: str


@dataclass
class Slurm:
    """The daemons of a SLURM without accounting. Jobs run as root, as the tests do."""

    directory: Path
    nodes: Mapping[str, str]
    """For each node: a command of the shell that prepares its mounts, such as `true`."""
    cpus: int = 1
    """Jobs of one core that a node runs at once."""
    _daemons: "dict[str, subprocess.Popen[bytes]]" = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._munge = self.directory / "munge.socket"
        key = self.directory / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        host = socket.gethostname()
        port, *ports = _free_ports(1 + len(self.nodes))
        nodes = [
            NODE.format(name=name, host=host, port=port, cpus=self.cpus)
            for name, port in zip(self.nodes, ports, strict=True)
        ]
        values = {"host": host, "port": port, "munge": self._munge, "directory": self.directory}
        self._configuration = self.directory / "slurm.conf"
        self._configuration.write_text(CONFIGURATION.format(**values, nodes="\n".join(nodes)))
        (self.directory / "state").mkdir()

    @property
    def environment(self) -> dict[str, str]:
        """Environment with which sbatch, squeue and scancel reach this SLURM."""
        return {**os.environ, "SLURM_CONF": str(self._configuration)}

    def start(self) -> None:
        """Start all daemons, and wait until each node takes jobs."""
        files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "seed-file": "munge.seed"}
        options = [f"--{name}={self.directory / file}" for name, file in files.items()]
        # --force: the directories of pytest are private, which is enough for jobs of root.
        self._start("munged", "munged", "--foreground", "--force", *options)
        wait_for(self._munge.exists, f"munged: {self.log('munged')}", START_S)
        self._start_controller()
        for name in self.nodes:
            self._start_node(name)

    def _start_controller(self) -> None:
        self._start("slurmctld", "slurmctld", "-D", "-f", str(self._configuration))
        wait_for(lambda: self._run("scontrol", "ping").returncode == 0, f"slurmctld: {self.log('slurmctld')}", START_S)

    def _start_node(self, name: str) -> None:
        script = f'hostname {name} && {self.nodes[name]} && exec slurmd -D -f "$0" -N {name}'
        namespaces = ("unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")
        self._start(name, *namespaces, "sh", "-c", script, str(self._configuration))
        wait_for(lambda: self.state_of(name) in ("idle", "mixed"), f"{name}: {self.log(name)}", START_S)

    def _start(self, name: str, *command: str) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
            self._daemons[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**self.environment, "PATH": path},
            )

    def log(self, name: str) -> Path:
        """Return the log of a daemon."""
        return self.directory / f"{name}.log"

    def _run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)

    def run(self, *command: str) -> str:
        """Run a command of SLURM and return its output."""
        done = self._run(*command)
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout

    def end_walltime(self, number: str) -> None:
        """Make the walltime of a job end; slurmctld looks for such jobs every 30 s."""
        # slurmctld refuses a time that is over when the request reaches it.
        command = ("scontrol", "update", f"JobId={number}", "EndTime=now+2")
        wait_for(lambda: self._run(*command).returncode == 0, f"the walltime of {number} changed", START_S)

    def state_of(self, node: str) -> str:
        """Return the state of a node, such as idle; empty if slurmctld does not answer."""
        return self._run("sinfo", "--noheader", "--nodes", node, "--format", "%t").stdout.strip()

    def jobs(self) -> dict[str, QueuedJob]:
        """Return the jobs that wait or run, by their number."""
        rows = [line.split() for line in self.run("squeue", "--noheader", "--format", "%A %T %N").splitlines()]
        return {number: QueuedJob(number, state, "".join(node)) for number, state, *node in rows}

    def job_on(self, node: str) -> QueuedJob | None:
        """Return the job that runs on a node."""
        return next((job for job in self.jobs().values() if (job.node, job.state) == (node, "RUNNING")), None)

    def close(self) -> None:
        """Kill all daemons, and the jobs of the nodes with them."""
        for daemon in self._daemons.values():
            kill_group(daemon)
        self._daemons.clear()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        servers = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in servers]


@contextlib.contextmanager
def running_slurm(nodes: Mapping[str, str], cpus: int = 1) -> Iterator[Slurm]:
    """Yield a SLURM with these nodes; end its daemons and jobs. Skips the test if SLURM cannot run here.

    Parameters
    ----------
    nodes : for each node a command of the shell that prepares its mounts.
    """
    require_slurm()
    # The path of a job's socket has at most 107 bytes; the directories of pytest are too long for it.
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        slurm = Slurm(Path(directory), nodes, cpus)
        try:
            slurm.start()
            yield slurm
        finally:
            slurm.close()


def require_slurm() -> None:
    """Skip the test if the programs of SLURM or the rights to run them are missing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can run the nodes of a SLURM")
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    if missing := [program for program in PROGRAMS if shutil.which(program, path=path) is None]:
        pytest.skip(f"needs the programs {', '.join(missing)} (Debian: slurm-wlm, munge)")
    probe = ["unshare", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "hostname", "probe"]
    done = subprocess.run(probe, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"namespaces cannot be made here: {done.stderr.strip()}")
