"""Commands whose standard output is closed, full or a closed pipe: one line, and no traceback."""

import subprocess
import sys

import pytest

from tests.acceptance.rig import Rig, temwatch


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a shell, whose script contains "$@" for the command."""
    command = ["bash", "-c", script, "bash", sys.executable, "-m", "daemon", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def test_a_full_disk_behind_standard_output_is_one_line_and_exit_code_1():
    done = run('"$@" > /dev/full', "plan", "--scopes", "1")
    text = "standard output: could not be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, text)


@pytest.mark.slow
@pytest.mark.parametrize("command", [("status",), ("status", "--json"), ("health",)])
def test_a_closed_standard_output_does_not_change_the_exit_code(running_rig: Rig, command):
    config = ("--config", str(running_rig.config()))
    expected = temwatch(*command, *config).returncode
    done = run('"$@" >&-', *command, *config)
    assert (done.returncode, done.stderr) == (expected, "")


def test_health_into_a_closed_pipe_still_reports_readiness_by_its_exit_code(running_rig: Rig):
    config = ("--config", str(running_rig.config()))
    assert temwatch("health", *config).returncode == 0
    done = run('"$@" | true; exit ${PIPESTATUS[0]}', "health", *config)
    assert (done.returncode, done.stderr) == (0, "")
