"""The log line of the daemon's start, the end of its terminal, and the text of every end."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.simulator.demonstration.processes import free_port
from tests.acceptance.rig import Rig, temwatch, wait_for
from tests.process_group import kill_group


@pytest.fixture
def rig(rig: Rig) -> Rig:
    """A rig whose processes are started by their command lines."""
    rig.is_warm = False
    return rig


def start_line(rig: Rig) -> dict[str, Any]:
    return [json.loads(line) for line in rig.daemon.lines() if '"daemon.ready"' in line][-1]


@pytest.mark.slow
def test_the_log_line_of_the_start_has_the_reasons_why_the_daemon_is_not_ready(rig: Rig):
    rig.render_url = "http://127.0.0.1:1/render-ws/v1"
    rig.acquisition.rename(rig.acquisition.with_name("unmounted"))
    rig.start()
    line = start_line(rig)
    assert (line["ready"], line["level"]) == (False, "warning")
    assert line["reasons"] == rig.ready()["reasons"]
    assert any(reason.startswith("render-ws is unavailable: ") for reason in line["reasons"])
    assert any(reason.startswith("watch daemon: ") for reason in line["reasons"])


@pytest.mark.slow
def test_the_log_line_of_the_start_reports_a_ready_daemon(running_rig: Rig):
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


@pytest.mark.slow
def test_a_daemon_without_standard_streams_runs(rig: Rig, tmp_path: Path):
    """No file that the daemon opens is its standard output or standard error, which libraries write to."""
    rig.start_standin()
    port = free_port()
    rig.settings["http.port"] = port
    command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-m", "daemon", "run"]
    process = subprocess.Popen([*command, "--config", str(rig.config())])
    try:
        wait_for(lambda: temwatch("health", "--url", f"http://127.0.0.1:{port}").returncode == 0, 60, "ready")
        assert {str(Path(f"/proc/{process.pid}/fd/{number}").readlink()) for number in range(3)} == {os.devnull}
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


# --- the text of every end

CHANGED = """
import asyncio, multiprocessing, signal, sys
from daemon import temwatch as command
from daemon.__main__ import main
{change}
sys.argv = ["temwatch", "run", "--config", {config!r}]
main()
"""


@contextlib.contextmanager
def changed_daemon(rig: Rig, change: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run the daemon with a change of its code and its output in `changed.log`."""
    rig.render_url = rig.render_url or "http://127.0.0.1:1/render-ws/v1"
    code = CHANGED.format(change=change, config=str(rig.config()))
    with (rig.root / "changed.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        kill_group(process)


def test_a_stop_before_the_configuration_is_read_is_reported(rig: Rig):
    change = "command.settings_or_exit = lambda _: signal.raise_signal(signal.SIGTERM)"
    with changed_daemon(rig, change) as process:
        assert process.wait(60) == 0
    assert (rig.root / "changed.log").read_text() == "temwatch: received SIGTERM while starting: stopping\n"


IMPORTS = """
import signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            try:
                signal.raise_signal(signal.SIGTERM)
            except BaseException as error:  # as pydantic's compiled code does
                raise ValueError("replaced") from error
sys.meta_path.insert(0, Finder())
sys.argv = ["temwatch", "run"]
from daemon.__main__ import main
main()
"""


def test_sigterm_while_modules_are_imported_ends_the_daemon_with_exit_code_0():
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "temwatch: received SIGTERM while starting: stopping\n")


def test_a_configuration_that_changed_while_the_daemon_started_is_read_again(rig: Rig):
    rig.start_standin()
    change = """
begin = command._start_early
def begin_and_hang_up(settings):
    signal.raise_signal(signal.SIGHUP)
    return begin(settings)
command._start_early = begin_and_hang_up
"""
    with changed_daemon(rig, change) as process:
        wait_for(lambda: "config.reloaded" in (rig.root / "changed.log").read_text(), 60, "config.reloaded")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "crash", ["BrokenPipeError(32, 'a pipe')", "EOFError('an end')", "asyncio.CancelledError()", "OSError(5, 'a disk')"]
)
def test_a_crash_prints_its_traceback_although_workers_hang(rig: Rig, crash: str):
    change = f"""
import daemon.app
async def run(self):
    raise {crash}
daemon.app.Daemon.run = run
multiprocessing.active_children = lambda: ["a worker that reads a dead mount"]
"""
    with changed_daemon(rig, change) as process:
        assert process.wait(60) == 1
    said = (rig.root / "changed.log").read_text()
    assert said.startswith("Traceback")
    assert crash.partition("(")[0].rpartition(".")[2] in said.splitlines()[-1]


def test_a_crash_before_the_daemon_is_created_prints_its_traceback(rig: Rig):
    change = """
def begin(settings):
    raise BrokenPipeError(32, "the server of the workers")
command._start_early = begin
"""
    with changed_daemon(rig, change) as process:
        assert process.wait(60) == 1
    assert "BrokenPipeError: [Errno 32] the server of the workers" in (rig.root / "changed.log").read_text()
