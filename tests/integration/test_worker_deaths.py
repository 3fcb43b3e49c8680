"""The death of a worker process is shown in the log, the metrics and the status."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from daemon.config.load import load_settings
from daemon.pipeline.assembly import open_assembly
from daemon.pipeline.health import warnings
from handlers.workers.pool import run_job
from tests.integration.test_executors import job_for, pids_of
from tests.ready_facts import READY
from tests.settings_text import UNREACHABLE, settings_text
from tests.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]


async def test_a_worker_killed_from_outside_leaves_a_log_line_a_metric_and_a_warning(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    watch = settings_text(tmp_path / "acquisition", tmp_path / "mips", url=UNREACHABLE)
    stacks = '[watch.stacks]\nraw = "raw"\n'
    config.write_text(f'{watch}{stacks}[journal]\npath = "{tmp_path / "journal.sqlite"}"\n[workers]\ncount = 1\n')
    settings = load_settings(config)
    async with open_assembly(lambda: settings, is_observable=lambda _: True) as assembly:
        executor: Any = assembly.pool.executor
        (pid,) = pids_of(executor)
        merge = structlog.contextvars.merge_contextvars
        with structlog.testing.capture_logs([merge]) as lines, structlog.contextvars.bound_contextvars(montage=17):
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: executor._broken, "the pool notices the death")
            assert (await run_job(assembly.pool, job_for(tmp_path))).fault is None
        (line,) = (line for line in lines if line["event"] == "worker.died")
        assert (line["how"], line["tile"], line["log_level"]) == ("signal SIGKILL", None, "warning")
        assert "montage" not in line, "the montage whose step finds the dead worker is not the cause"
        facts = assembly.metrics.text(READY, {}).decode()
        assert "temwatch_worker_deaths_total 1.0" in facts
        assert assembly.worker_deaths == 1
        assert assembly.last_worker_death.endswith("without a tile by signal SIGKILL")


def test_a_killed_program_with_workers_leaves_no_warning_about_semaphores() -> None:
    code = (
        "import os, signal\nfrom handlers.workers.opening import open_executor\n"
        "with open_executor('processes', 1) as pool:\n"
        "    pool.executor.submit(os.getpid).result(20), os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")  # all processes with this pipe have ended


def test_the_status_warns_of_dead_workers() -> None:
    (warning,) = warnings(replace(READY, worker_deaths=2, last_worker_death="at noon in tile a by signal SIGKILL"))
    assert warning.startswith("2 worker processes died since the start, the last at noon in tile a by signal SIGKILL: ")
