"""temwatch in an environment with python-daemon, whose package is also named daemon."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.commands.cli.python_daemon import clashing_distribution

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Environment of a Python that has python-daemon installed."""
    (tmp_path / "python_daemon-3.1.2.dist-info").mkdir()
    return {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}


def test_every_command_warns_of_python_daemon_on_standard_error(environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "daemon", "check-config", "--print-example"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout == (ROOT / "config.example.toml").read_text()
    assert done.stderr == (
        f"temwatch: python-daemon is installed in {tmp_path}: its package is also named daemon, so the two"
        " overwrite each other's files (install temwatch in its own environment)\n"
    )


def test_without_python_daemon_there_is_no_warning(tmp_path: Path) -> None:
    (tmp_path / "daemonize-2.5.0.dist-info").mkdir()
    assert clashing_distribution([str(tmp_path), "/nowhere", ""]) is None
