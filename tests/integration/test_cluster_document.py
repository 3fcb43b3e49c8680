"""docs/cluster.md: the job script of its program, and its options for dask's programs."""

import contextlib
import importlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from daemon.config.worker_settings import WorkerSettings
from handlers.workers.memory import worker_bytes
from tests import cluster_document as document
from tests.waiting import wait_for

TIMES = {"m": "minutes", "h": "hours"}
UNITS = "\n".join(document.blocks("ini")).replace("\\\n", " ")
"""The units of systemd, each command in one line."""
PAUSED_ABOVE = 0.8
"""Share of its memory above which a worker takes no job: distributed.worker.memory.pause."""


def seconds(text: str) -> float:
    return timedelta(**{TIMES[text[-1]]: float(text[:-1])}).total_seconds()


def options_of(command: str) -> dict[str, str]:
    """Return the options of a command with their values; an option without one has an empty value."""
    words = shlex.split(command)
    return {
        word: "" if words[number + 1 : number + 2] == [] or words[number + 1].startswith("--") else words[number + 1]
        for number, word in enumerate(words)
        if word.startswith("--")
    }


def printed_script(directory: Path, *, is_for_lsf: bool = False) -> str:
    """Return the job script that the program prints, with the paths and names of the document."""
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    tls = document.make_certificates(directory)
    program, address = document.write_program(directory, tls, is_for_lsf=is_for_lsf)
    done = subprocess.run([sys.executable, program, "--print"], capture_output=True, text=True, cwd=directory)
    assert done.returncode == 0, done.stderr
    there = {str(tls): document.TLS_DIRECTORY, str(directory / "logs"): document.LOGS, address: document.ADDRESS}
    text = done.stdout
    for here, name in there.items():
        text = text.replace(here, name)
    return text


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The job script of SLURM."""
    return printed_script(tmp_path_factory.mktemp("slurm"))


@pytest.mark.slow
def test_the_job_script_is_the_one_in_the_document(script: str) -> None:
    assert script.strip() == document.block_with("sh", "#SBATCH").strip()


def test_a_worker_ends_before_its_walltime_and_has_the_memory_and_files_that_it_needs(script: str) -> None:
    directives = dict(re.findall(r"^#SBATCH (-\w|--[\w-]+)[ =](.*)$", script, re.MULTILINE))
    options = options_of(script.strip().splitlines()[-1])
    hours, minutes, _ = map(int, directives["-t"].split(":"))
    ends_at_s = seconds(options["--lifetime"]) + seconds(options["--lifetime-stagger"])
    assert ends_at_s + 1800 <= 3600 * hours + 60 * minutes
    assert seconds(options["--lifetime-stagger"]) > 0
    assert int(options["--death-timeout"]) >= 60
    assert options["--nthreads"] == directives["--cpus-per-task"] == directives["-n"] == "1"
    assert "--nworkers" not in options
    assert "--nanny" in options
    memory_gib = float(options["--memory-limit"].removesuffix("GiB"))
    assert directives["--mem"] == f"{memory_gib:.0f}G"
    assert worker_bytes(round(1e6 * WorkerSettings().largest_image_megapixels)) < PAUSED_ABOVE * memory_gib * 2**30
    assert not options["--local-directory"].startswith("/shared")
    assert directives["-o"].startswith("/shared")
    assert "--no-dashboard" in options
    assert options["--dashboard-address"] == "127.0.0.1:0"
    first, second = (range(*map(int, options[name].split(":"))) for name in ("--worker-port", "--nanny-port"))
    assert not set(first) & set(second)
    assert {"--tls-ca-file", "--tls-cert", "--tls-key"} <= options.keys()
    assert options["--protocol"] == "tls://"


@pytest.mark.slow
def test_a_job_of_lsf_differs_from_one_of_slurm_as_the_document_says(script: str, tmp_path: Path) -> None:
    lsf = printed_script(tmp_path, is_for_lsf=True)
    directives = dict(re.findall(r"^#BSUB (-\w) (.*)$", lsf, re.MULTILINE))
    assert {key: directives[key] for key in ("-q", "-P", "-W", "-n", "-R")} == {
        "-q": "em",
        "-P": '"em"',
        "-W": "8:00",
        "-n": "1",
        "-R": f"'rusage[mem={directives['-M']}]'",
    }
    assert f"`-M {directives['-M']}`" in document.DOCUMENT
    assert int(directives["-M"]) >= 4096
    of_slurm = script.strip().splitlines()
    assert lsf.strip().splitlines()[-2:] == of_slurm[-2:], "the worker is the same"


@pytest.mark.slow
def test_the_profiler_of_dask_is_off_in_scheduler_and_workers(script: str) -> None:
    """It would fill the memory of each worker for 1,000 s."""
    setting = "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=False"
    units = [unit for unit in document.blocks("ini") if "-m distributed" in unit]
    assert len(units) == 2
    for unit in units:
        assert f"Environment={setting}\n" in unit
    assert f"\nexport {setting}\n" in script
    assert 'profile.enabled": False' in document.block_with("python", "SLURMCluster")
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    code = "import dask, distributed; print(dask.config.get('distributed.worker.profile.enabled'))"
    environment = {**os.environ, **dict([setting.split("=")])}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


def test_dask_knows_every_option_in_the_document(script: str) -> None:
    commands = [*re.findall(r"^ExecStart=(.*-m distributed.*)$", UNITS, re.MULTILINE), script.strip().splitlines()[-1]]
    assert len(commands) == 3
    for command in commands:
        module = shlex.split(command)[2]
        params = importlib.import_module(module).main.params
        known = {name for each in params for name in (*each.opts, *each.secondary_opts)}
        assert options_of(command).keys() <= known, command


def unit_command(program: str, replaced: dict[str, str]) -> list[str]:
    """Return the command of the document's unit for one of dask's programs, with other names and paths."""
    (command,) = re.findall(rf"^ExecStart=(.*{program}.*)$", UNITS, re.MULTILINE)
    for documented, used in replaced.items():
        assert documented in command, documented
        command = command.replace(documented, used)
    return shlex.split(command)


def listeners(process: subprocess.Popen[bytes]) -> set[tuple[str, int]]:
    """Return the addresses at which a process and its children accept connections."""
    import psutil  # dask requires it

    of_one = psutil.Process(process.pid)
    found = [each for one in (of_one, *of_one.children(recursive=True)) for each in one.net_connections("tcp")]
    return {tuple(each.laddr) for each in found if each.status == psutil.CONN_LISTEN}


@pytest.mark.slow
def test_scheduler_and_workers_accept_connections_only_at_the_documented_ports(tmp_path: Path) -> None:
    """dask's pages need no login, and port 8787 is that of temwatch's pages."""
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    tls = document.make_certificates(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    common = {document.PYTHON: sys.executable, "scheduler.facility": "127.0.0.1", document.TLS_DIRECTORY: str(tls)}
    scheduler = unit_command("dask_scheduler", {**common, "8786": port, ":8788": ":0"})
    workers = unit_command("dask_worker", {**common, ":8786": f":{port}", "--nworkers 8": "--nworkers 1"})
    workers[workers.index("/var/tmp")] = str(tmp_path)
    ports = {range_of(options_of(shlex.join(workers))[name]) for name in ("--worker-port", "--nanny-port")}
    with running(scheduler, tmp_path / "scheduler.log") as first:
        wait_for(lambda: ("127.0.0.1", int(port)) in listeners(first), "the scheduler", 60)
        with running(workers, tmp_path / "workers.log") as second:
            log = tmp_path / "workers.log"
            wait_for(lambda: "Registered to" in log.read_text(), "a worker", 60)
            assert {address for address, _ in listeners(first)} == {"127.0.0.1"}
            outside = {at for address, at in listeners(second) if address not in ("127.0.0.1", "::1")}
            assert outside, listeners(second)
            assert all(any(at in each for each in ports) for at in outside), outside


def range_of(text: str) -> range:
    first, last = map(int, text.split(":"))
    return range(first, last + 1)


@contextlib.contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program, whose output goes to a file; end it afterwards."""
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output, cwd=log.parent) as process:
        try:
            yield process
        finally:
            process.terminate()


def test_the_settings_of_the_document_are_valid() -> None:
    workers = tomllib.loads("\n".join(text for text in document.blocks("toml") if "workers" in text))["workers"]
    settings = WorkerSettings(**workers)
    assert settings.dask_scheduler == f"tls://{document.ADDRESS}"
    assert [entry.hosts for entry in settings.path_map] == ["node*"]


SBATCH = """#!/bin/sh
set -e
number=$(ls {jobs} | grep -c '[.]sh$' || true)
cp "$1" {jobs}/$number.sh
setsid sh {jobs}/$number.sh > {jobs}/$number.log 2>&1 < /dev/null &
echo $! > {jobs}/$number.pid
echo "Submitted batch job $number"
"""
SCANCEL = """#!/bin/sh
for number; do kill -- -$(cat {jobs}/$number.pid) && echo $number >> {jobs}/cancelled; done
"""


class Slurm:
    """Runs jobs on this machine without a queue, each in its own process group."""

    def __init__(self, directory: Path) -> None:
        self.jobs, self.programs = directory / "jobs", directory / "bin"
        for made in (self.jobs, self.programs):
            made.mkdir()
        for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
            (self.programs / name).write_text(text.format(jobs=self.jobs))
            (self.programs / name).chmod(0o755)

    def is_running(self, number: int) -> bool:
        """Whether a worker of the job has reached the scheduler."""
        log = self.jobs / f"{number}.log"
        return log.exists() and "Registered to" in log.read_text()

    def kill(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int((self.jobs / f"{number}.pid").read_text()), signal.SIGKILL)

    def end(self) -> None:
        for path in self.jobs.glob("*.pid"):
            self.kill(int(path.stem))

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.jobs.glob("*.log")))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_program_resubmits_ended_jobs_and_cancels_all_jobs_at_its_end(tmp_path: Path) -> None:
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    slurm = Slurm(tmp_path)
    tls = document.make_certificates(tmp_path)
    program, _ = document.write_program(tmp_path, tls, python=sys.executable, pause_s=1)
    environment = {**os.environ, "PATH": f"{slurm.programs}:{os.environ['PATH']}"}
    with (
        (tmp_path / "program.log").open("wb") as log,
        subprocess.Popen([sys.executable, program], cwd=tmp_path, env=environment, stdout=log, stderr=log) as running,
    ):
        try:
            for number in range(2):
                with contextlib.suppress(AssertionError):
                    wait_for(lambda number=number: slurm.is_running(number), f"job {number}", 100)
                assert slurm.is_running(number), slurm.logs() + (tmp_path / "program.log").read_text()
                if number == 0:
                    slurm.kill(number)
            running.terminate()
            assert running.wait(60) == 0
            assert (slurm.jobs / "cancelled").read_text().splitlines()[-1] == "1"
        finally:
            running.kill()
            slurm.end()
