"""What the daemon says at its start, and what it does when its terminal is closed."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.rig import Rig, wait_for


@pytest.fixture
def rig(rig: Rig) -> Rig:
    """A rig whose processes are started by their command lines."""
    rig.is_warm = False
    return rig


def start_line(rig: Rig) -> dict[str, Any]:
    return [json.loads(line) for line in rig.daemon.lines() if '"daemon.ready"' in line][-1]


def test_the_line_of_the_start_says_whether_the_daemon_is_ready_and_why_not(rig: Rig):
    rig.render_url = "http://127.0.0.1:1/render-ws/v1"
    rig.acquisition.rename(rig.acquisition.with_name("unmounted"))
    rig.start()
    line = start_line(rig)
    assert (line["ready"], line["level"]) == (False, "warning")
    assert line["reasons"] == rig.ready()["reasons"]
    assert any(reason.startswith("render-ws is away: ") for reason in line["reasons"])
    assert any(reason.startswith("watch daemon: ") for reason in line["reasons"])


def test_a_daemon_that_can_work_says_so_at_its_start(running_rig: Rig):
    line = start_line(running_rig)
    assert (line["ready"], line["reasons"], line["level"]) == (True, [], "info")


@pytest.mark.skipif(sys.platform != "linux", reason="setsid of util-linux")
def test_a_daemon_whose_terminal_is_closed_stops(rig: Rig, tmp_path: Path):
    rig.start_standin()
    master, terminal = pty.openpty()
    log = tmp_path / "terminal.log"
    command = ["setsid", "--ctty", sys.executable, "-m", "daemon", "run", "--config", str(rig.config())]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=terminal, stdout=output, stderr=output)
    os.close(terminal)
    try:
        wait_for(lambda: "daemon.ready" in log.read_text(), 60, "daemon.ready")
        os.close(master)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    assert "daemon.terminal_closed" in log.read_text()
