"""docs/cluster.md: the job script that its program makes, and the options that it gives to dask's programs."""

import importlib
import re
import shlex
import subprocess
import sys
import tomllib
from datetime import timedelta

import pytest

from daemon.config.worker_settings import WorkerSettings
from handlers.workers.memory import worker_bytes
from tests import cluster_document as document

UNITS = {"m": "minutes", "h": "hours"}
PAUSED_ABOVE = 0.8
"""Share of its memory above which a worker takes no job: distributed.worker.memory.pause."""


def seconds(text: str) -> float:
    return timedelta(**{UNITS[text[-1]]: float(text[:-1])}).total_seconds()


def options_of(command: str) -> dict[str, str]:
    """Return the options of a command with their values; an option without one has an empty value."""
    words = shlex.split(command)
    return {
        word: "" if words[number + 1 : number + 2] == [] or words[number + 1].startswith("--") else words[number + 1]
        for number, word in enumerate(words)
        if word.startswith("--")
    }


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The job script that the program prints, with the paths and names of the document."""
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    directory = tmp_path_factory.mktemp("slurm")
    tls = document.make_certificates(directory)
    program, address = document.write_program(directory, tls)
    done = subprocess.run([sys.executable, program, "--print"], capture_output=True, text=True, cwd=directory)
    assert done.returncode == 0, done.stderr
    there = {str(tls): document.TLS_DIRECTORY, str(directory / "logs"): document.LOGS, address: document.ADDRESS}
    text = done.stdout
    for here, name in there.items():
        text = text.replace(here, name)
    return text


def test_the_job_script_is_the_one_in_the_document(script: str) -> None:
    assert script.strip() == document.block_with("sh", "#SBATCH").strip()


def test_a_job_leaves_before_its_walltime_and_has_the_memory_and_files_that_a_worker_needs(script: str) -> None:
    directives = dict(re.findall(r"^#SBATCH (-\w|--[\w-]+)[ =](.*)$", script, re.MULTILINE))
    options = options_of(script.strip().splitlines()[-1])
    hours, minutes, _ = map(int, directives["-t"].split(":"))
    leaves = seconds(options["--lifetime"]) + seconds(options["--lifetime-stagger"])
    assert leaves + 1800 <= 3600 * hours + 60 * minutes
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
    assert "--no-dashboard" in options, "temwatch has port 8787"
    first, second = (range(*map(int, options[name].split(":"))) for name in ("--worker-port", "--nanny-port"))
    assert not set(first) & set(second)
    assert {"--tls-ca-file", "--tls-cert", "--tls-key"} <= options.keys()
    assert options["--protocol"] == "tls://"


def test_dask_knows_every_option_that_the_document_gives_to_it(script: str) -> None:
    units = "\n".join(document.blocks("ini")).replace("\\\n", " ")
    commands = [*re.findall(r"^ExecStart=(.*-m distributed.*)$", units, re.MULTILINE), script.strip().splitlines()[-1]]
    assert len(commands) == 3
    for command in commands:
        module = shlex.split(command)[2]
        params = importlib.import_module(module).main.params
        known = {name for each in params for name in (*each.opts, *each.secondary_opts)}
        assert options_of(command).keys() <= known, command


def test_the_settings_of_the_document_are_valid() -> None:
    workers = tomllib.loads("\n".join(text for text in document.blocks("toml") if "workers" in text))["workers"]
    settings = WorkerSettings(**workers)
    assert settings.dask_scheduler == f"tls://{document.ADDRESS}"
    assert [entry.hosts for entry in settings.path_map] == ["node*"]
