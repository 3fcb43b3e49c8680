"""The `temwatch` command: exit codes, one line for each mistake, never a traceback."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.rig import Rig, temwatch, wait_for


def started(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run temwatch in a new process. `temwatch` of the rig forks a process that has imported everything."""
    command = [sys.executable, "-m", "daemon", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, **options)


def test_the_demonstration_verifies_its_results_and_ignores_the_settings_of_a_site(tmp_path):
    output, site = tmp_path / "out", tmp_path / "site.sqlite"
    size = ("--sections", "2", "--tiles", "4", "--size", "128x128")
    nowhere = "http://127.0.0.1:1"
    environment = {
        **os.environ,
        "PATH": str(tmp_path),  # no browser: pictures of pages would take most of the time
        "TEMWATCH_RENDER__URL": f"{nowhere}/render-ws/v1",
        "TEMWATCH_JOURNAL__PATH": str(site),
        "http_proxy": nowhere,
    }
    done = started("demo", *size, "--output", str(output), env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not site.exists()
    assert "all verified" in done.stdout
    assert len(list((output / "pictures").glob("*.png"))) == 2
    assert "COMPLETE" in done.stdout
    assert "the metafile of section 2 is written before its images on purpose" in done.stdout
    lines = done.stdout.replace(" \\\n     ", "").splitlines()  # a long command has several lines
    (status,) = [line for line in lines if " status --config " in line]
    pasted = subprocess.run(status, shell=True, capture_output=True, text=True, timeout=60)
    assert pasted.returncode == 0, pasted.stderr
    assert "complete" in pasted.stdout


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_demonstration_with_all_its_processes(tmp_path, number):
    log, mark = tmp_path / "printed", f"DEMONSTRATION={tmp_path}"
    command = [sys.executable, "-m", "daemon", "demo", "--tiles", "400", "--size", "64x64"]
    with log.open("w") as printed:
        environment = {**os.environ, "DEMONSTRATION": str(tmp_path)}
        demo = subprocess.Popen(
            [*command, "--output", str(tmp_path / "out")], stdout=printed, stderr=printed, env=environment
        )
    try:
        wait_for(lambda: "watching" in log.read_text(), 60, log.read_text)
        assert len(with_variable(mark)) > 3  # the demonstration, the stand-in, the daemon, its workers
        demo.send_signal(number)
        assert demo.wait(60) == 130, log.read_text()
        # What the daemon started ends when it sees that the daemon has ended.
        wait_for(lambda: not with_variable(mark), 60, lambda: with_variable(mark))
    finally:
        for pid in with_variable(mark):
            os.kill(pid, signal.SIGKILL)
        demo.wait()
    assert "Traceback" not in log.read_text()


def with_variable(variable: str) -> list[int]:
    """Return the processes that inherited an environment variable, given as NAME=value."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # the process has ended
            if variable.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def test_the_demonstration_refuses_a_directory_with_other_files(tmp_path):
    (tmp_path / "precious").write_text("mine")
    done = temwatch("demo", "--output", str(tmp_path))
    assert done.returncode == 1
    assert "is not empty and was not made by a demonstration" in done.stderr
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize(
    ("way", "arguments", "said"),
    [
        (started, ("run", "--config", "/nonexistent.toml"), "/nonexistent.toml"),
        (temwatch, ("check-config", "--config", "/nonexistent.toml"), "/nonexistent.toml"),
        (temwatch, ("demo", "--size", "banana"), "'banana' is not a size"),
        (temwatch, ("demo", "--tiles", "1"), "--tiles"),
        (started, ("nonsense",), "No such command 'nonsense'"),
        (temwatch, ("health", "--url", "http://127.0.0.1:1"), "no temwatch answers at http://127.0.0.1:1"),
    ],
)
def test_bad_usage_ends_with_2_and_names_the_mistake(way, arguments, said):
    done = way(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_status_and_health_report_a_running_daemon_and_status_a_stopped_one(running_rig: Rig, write):
    section = write()
    running_rig.wait_until("complete", section.metafile)
    assert temwatch("health", "--url", running_rig.url).stdout.startswith("ready")
    config = running_rig.root / "status.toml"
    port = running_rig.url.rsplit(":", 1)[1]
    config.write_text(running_rig.config_text().replace("port = 0", f"port = {port}"))
    running = json.loads(temwatch("status", "--json", "--config", str(config)).stdout)
    assert (running["running"], running["ready"], running["counts"]) == (True, True, {"daemon": {"complete": 1}})
    assert running_rig.daemon.stop() == 0
    stopped = temwatch("status", "--config", str(config))
    assert "not running" in stopped.stdout
    for text in (stopped.stdout, temwatch("health", "--config", str(config)).stderr):
        assert "start it, as by `systemctl start temwatch`" in text
    assert "daemon: 1 complete" in stopped.stdout


def test_status_and_health_name_a_daemon_that_is_stopped_by_a_signal(running_rig: Rig):
    config = ("--config", str(running_rig.config()))
    pid = running_rig.daemon.process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        status, health, reload = (temwatch(command, *config) for command in ("status", "health", "reload"))
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (status.returncode, health.returncode) == (0, 2)
    for text in (status.stdout, health.stderr):
        assert f"process {pid} holds its journal: it is stopped by a signal; to continue it: kill -CONT {pid}" in text
    assert "not running" not in status.stdout
    assert reload.returncode == 1
    assert f"process {pid} holds the journal and does not answer (it is stopped by a signal" in reload.stderr
    assert temwatch("health", *config).stdout.startswith("ready")


@pytest.mark.slow
def test_health_ends_with_1_and_the_reason_if_render_ws_is_unavailable(running_rig: Rig):
    running_rig.standin.end()

    wait_for(lambda: running_rig.ready().get("ready") is False, 40, "not ready")
    asked = temwatch("health", "--url", running_rig.url)
    assert asked.returncode == 1
    assert "render-ws is unavailable" in asked.stdout


def test_run_on_a_port_in_use_prints_one_line_and_ends_with_1(running_rig: Rig, tmp_path):
    other = Rig(tmp_path / "other", render_url=running_rig.render_url)
    other.settings["http.port"] = int(running_rig.url.rsplit(":", 1)[1])
    config = tmp_path / "other.toml"
    config.write_text(other.config_text())
    done = temwatch("run", "--config", str(config))
    assert done.returncode == 1
    assert done.stderr.startswith("http.port: cannot listen on 127.0.0.1:")
    assert "another program uses the port (process " in done.stderr
    assert "Traceback" not in done.stderr
    checked = temwatch("check-config", "--config", str(config))
    assert checked.returncode == 2
    assert "another temwatch answers there (process " in checked.stderr


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"journal.path": "/nowhere/journal.sqlite"}, "journal.path: no file can be created in /nowhere: No such file"),
        ({"http.host": "192.0.2.1"}, "http.host: cannot listen on 192.0.2.1:0: it is not an address of this machine"),
    ],
)
def test_run_and_check_config_end_with_2_if_the_configuration_must_be_changed(rig: Rig, settings, said):
    rig.render_url = "http://127.0.0.1:1/render-ws/v1"
    rig.settings = settings
    config = ("--config", str(rig.config()))
    checked = temwatch("check-config", *config)
    done = temwatch("run", *config)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert (checked.returncode, checked.stderr) == (2, done.stderr)
    assert done.stderr.startswith(said)


def test_the_log_names_the_whole_z_rule_of_each_watch(running_rig: Rig):
    configured = [line for line in running_rig.daemon.lines() if "watch.configured" in line]
    assert len(configured) == 1
    assert '"z": "grid of the header; ' in configured[0]


def test_health_and_status_find_a_daemon_on_ipv6_and_on_a_port_that_the_system_chose(rig: Rig):
    rig.settings = {"http.host": "::1"}
    rig.start_standin()
    rig.start()
    config = ("--config", str(rig.config()))
    assert rig.url.startswith("http://[::1]:")
    assert "ready" in temwatch("health", *config).stdout
    assert rig.url in temwatch("status", *config).stdout


def test_a_stand_in_on_a_port_in_use_names_the_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = temwatch("standin", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert done.stderr.startswith("--port: cannot listen on 127.0.0.1:")
    assert len(done.stderr.splitlines()) == 1


def test_check_config_notes_what_the_daemon_will_wait_for(tmp_path):
    rig = Rig(tmp_path, render_url="http://render/render-ws/v1")
    rig.acquisition.rmdir()
    rig.settings = {"http.host": "0.0.0.0"}
    done = temwatch("check-config", "--config", str(rig.config()))
    assert done.returncode == 0
    assert (
        f"note watch[0].directory: there is no directory {rig.acquisition} now: the daemon waits for it" in done.stdout
    )
    assert "note http.host: 0.0.0.0 allows other machines to read" in done.stdout


def test_check_config_with_probe_sends_requests_to_render_ws(rig: Rig):
    rig.start_standin()
    asked = temwatch("check-config", "--probe", "--config", str(rig.config()))
    assert (asked.returncode, "note" in asked.stdout) == (0, False), asked.stdout
    rig.render_url = rig.render_url.removesuffix("/render-ws/v1")
    asked = temwatch("check-config", "--probe", "--config", str(rig.config()))
    assert asked.returncode == 1
    notes = [line for line in asked.stdout.splitlines() if line.startswith(("note ", "wrong "))]
    assert notes[0] == f"note render.url: {rig.render_url} does not end with /render-ws/v1, the usual path of render-ws"
    assert [line.split(": ")[0] for line in notes[1:]] == ["wrong render.url"]
