"""The daemon as a service: start, reload and stop, with a locked journal and while disks hang.

Tests print how long the daemon took: `pytest -rP` shows it.
"""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.simulator.demonstration.processes import free_port
from tests.acceptance.passthrough import WHY_NOT, Mount
from tests.acceptance.rig import Program, Rig, fetch, temwatch, wait_for

needs_fuse = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "mounts work")
LIMIT_S = 20.0
"""Much more than the daemon needs on a busy machine, and much less than the time-out of a disk."""


@contextlib.contextmanager
def timed(what: str, limit_s: float = LIMIT_S) -> Iterator[None]:
    """Print how long something takes; fail if it takes longer than the limit."""
    began = time.monotonic()
    yield
    took_s = time.monotonic() - began
    sys.stdout.write(f"{what}: {took_s:.1f} s\n")
    assert took_s < limit_s, what


@contextlib.contextmanager
def locked(journal: Path) -> Iterator[None]:
    """Lock the journal for writing, as another program does."""
    with contextlib.closing(sqlite3.connect(journal, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def events(program: Program, name: str) -> list[dict[str, Any]]:
    """Return the log lines of an event."""
    return [json.loads(line) for line in program.lines() if line.startswith("{") and f'"{name}"' in line]


def status(url: str) -> int | None:
    """Return the status of the answer; None if there is no answer."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return None


def test_every_page_answers_during_the_start(rig: Rig, tmp_path: Path) -> None:
    port = free_port()
    rig.settings = {"http.port": port}
    rig.render_url = "http://127.0.0.1:1/render-ws/v1"
    rig.daemon = daemon = Program(tmp_path / "daemon.log", "daemon", "run", "--config", str(rig.config()))
    seen: set[int] = set()

    def is_ready() -> bool:
        for page in ("readyz", "metrics", "api/montages"):
            seen.update(filter(None, [status(f"http://127.0.0.1:{port}/{page}")]))
        return any('"daemon.ready"' in line for line in daemon.lines())

    wait_for(is_ready, 60)
    assert seen <= {200, 503}


# --- a locked journal


@pytest.mark.slow
def test_pages_answer_while_another_program_holds_the_journal(running_rig: Rig, write: Callable[..., Any]) -> None:
    section = write()
    running_rig.wait_until("complete", section.metafile)
    with locked(running_rig.root / "daemon.sqlite"):
        write(1051)
        time.sleep(3)  # until the daemon tries to record the new section
        for page in ("metrics", "readyz", "api/montages", "api/montages/1", "healthz"):
            with timed(page, 5):
                assert status(f"{running_rig.url}/{page}") in (200, 503)
        wait_for(lambda: "journal cannot be written" in str(running_rig.ready()), 60)
    wait_for(lambda: running_rig.ready().get("ready"), 60, "ready again")
    wait_for(lambda: len(running_rig.montages()) == 2, 60, "the new section recorded")


@pytest.mark.slow
def test_a_stop_with_a_locked_journal_ends_in_bounded_time(running_rig: Rig, write: Callable[..., Any]) -> None:
    assert running_rig.daemon
    write(tiles=200)
    begun = {"ingested", "mipmapped", "applied", "complete"}
    wait_for(lambda: begun & {row["state"] for row in running_rig.montages()}, what="the mipmaps begun")
    with locked(running_rig.root / "daemon.sqlite"):
        for grid in range(1051, 1056):
            write(grid)
        time.sleep(3)  # until the daemon tries to record the new sections
        with timed("stop with a locked journal", 30):
            assert running_rig.daemon.stop(90) == 0


# --- reload


def second_watch(rig: Rig, name: str, directory: Path) -> str:
    """Return the rig's configuration with another watch."""
    return rig.config_text() + (
        f'\n[[watch]]\nname = "{name}"\ndirectory = "{directory}"\nscan_interval_s = 1\n[watch.z]\nrule = "grid"\n'
        f'[watch.mipmaps]\noutput_dir = "{rig.mipmaps}"\n'
    )


def replace_text(path: Path, text: str) -> None:
    written = path.with_suffix(".new")
    written.write_text(text)
    written.replace(path)


def states(rig: Rig) -> dict[str, str]:
    """Return the status of each watch by its name."""
    return {watch["name"]: watch["status"] for watch in rig.ready().get("watches", [])}


def watches(rig: Rig) -> list[str]:
    return list(states(rig))


def test_after_two_quick_reloads_the_newest_file_is_applied(running_rig: Rig, tmp_path: Path) -> None:
    rig, pid = running_rig, running_rig.daemon.process.pid  # type: ignore[union-attr]
    for turn in range(5):
        answered = fetch(f"{rig.url}/api/reload")["answered"]  # of two signals close together, one may be lost
        for name in ("first", "second"):
            directory = tmp_path / f"{name}{turn}"
            directory.mkdir()
            replace_text(rig.config(), second_watch(rig, f"{name}{turn}", directory))
            os.kill(pid, signal.SIGHUP)
        wait_for(lambda: fetch(f"{rig.url}/api/reload")["answered"] > answered, LIMIT_S)  # noqa: B023
        wait_for(lambda: watches(rig) == ["daemon", f"second{turn}"], LIMIT_S, f"second{turn} is watched")  # noqa: B023


@pytest.mark.slow
@needs_fuse
def test_a_reload_during_the_start_is_applied_after_it(rig: Rig, tmp_path: Path) -> None:
    added = tmp_path / "added"
    added.mkdir()
    rig.start_standin()
    with mounted(rig.acquisition) as mount:
        mount.hang()
        port = start(rig)
        wait_for(lambda: status(f"http://127.0.0.1:{port}/readyz") == 503, LIMIT_S)
        replace_text(rig.config(), second_watch(rig, "added", added))
        rig.daemon.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
        with timed("a reload requested during the start"):
            wait_for(lambda: "added" in watches(rig), LIMIT_S)
        wait_for(
            lambda: next(w for w in rig.ready()["watches"] if w["name"] == "added")["status"] == "watching", LIMIT_S
        )
        assert not events(rig.daemon, "config.reload_bug")  # type: ignore[arg-type]
        rig.daemon.stop(LIMIT_S)  # type: ignore[union-attr]


def test_a_reload_applies_the_log_level(running_rig: Rig) -> None:
    rig = running_rig
    config = ("--config", str(rig.config()))
    replace_text(rig.config(), rig.config_text().replace('format = "json"', 'format = "json"\nlevel = "error"'))
    assert temwatch("reload", *config).returncode == 0
    known = len(rig.daemon.lines())  # type: ignore[union-attr]
    assert temwatch("reload", *config).returncode == 0
    replace_text(rig.config(), rig.config_text().replace('format = "json"', 'format = "json"\nlevel = "info"'))
    assert temwatch("reload", *config).returncode == 0
    logged = [json.loads(line)["event"] for line in rig.daemon.lines()[known:]]  # type: ignore[union-attr]
    assert [event for event in logged if event.startswith("config.")] == ["config.reloaded"]


def test_the_reload_command_reports_whether_the_configuration_was_applied(running_rig: Rig, tmp_path: Path) -> None:
    rig = running_rig
    config, good = ("--config", str(rig.config())), rig.config_text()
    added = tmp_path / "added"
    added.mkdir()
    replace_text(rig.config(), second_watch(rig, "added", added))
    with timed("reload"):
        done = temwatch("reload", *config)
    assert (done.returncode, done.stdout) == (0, "the new configuration is applied\n")
    assert watches(rig) == ["daemon", "added"]
    replace_text(
        rig.config(),
        good.replace('owner = "em"', 'owner = "other"').replace("port = 0", "port = 0\nbacklog_limit_s = 5"),
    )
    refused = temwatch("reload", *config)
    assert refused.returncode == 1
    assert refused.stderr.splitlines() == ["render.owner: needs a restart", "http.backlog_limit_s: needs a restart"]
    replace_text(rig.config(), good.replace("scan_interval_s", "scan_intervall_s"))
    assert temwatch("reload", *config).returncode == 2
    replace_text(rig.config(), good)
    assert watches(rig) == ["daemon", "added"]
    rig.daemon.stop()  # type: ignore[union-attr]
    gone = temwatch("reload", *config)
    assert gone.returncode == 1
    assert "no daemon" in gone.stderr


# --- start and stop, with disks that hang


@contextlib.contextmanager
def mounted(directory: Path) -> Iterator[Mount]:
    """Mount another directory at this path."""
    source = directory.with_name(f"{directory.name}.source")
    source.mkdir()
    mount = Mount(source, directory)
    try:
        yield mount
    finally:
        mount.close()


def start(rig: Rig) -> int:
    """Start the daemon without waiting for it; return its port."""
    port = free_port()
    rig.settings = {**rig.settings, "http.port": port}
    rig.url = f"http://127.0.0.1:{port}"
    rig.daemon = Program(rig.root / "daemon.log", "daemon", "run", "--config", str(rig.config()))
    return port


def left_of(program: Program) -> list[str]:
    """Return the command lines of the processes that the program's session still has, without the program itself."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == program.process.pid and fields[0] != "Z" and int(entry.name) != program.process.pid:
                found.append((entry / "cmdline").read_text().replace("\0", " ")[:200])
    return found


def test_a_stop_leaves_no_process_behind(running_rig: Rig, write: Callable[..., Any]) -> None:
    """systemd kills and reports the processes that are left when the main process has ended."""
    daemon = running_rig.daemon
    assert daemon
    section = write()
    running_rig.wait_until("complete", section.metafile)
    assert len(left_of(daemon)) >= 3  # workers, their server, the tracker
    with timed("stop"):
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(60) == 0
    assert left_of(daemon) == []
    assert not [line for line in daemon.lines() if "Traceback" in line or "leaked" in line]


@pytest.mark.slow
@needs_fuse
def test_the_daemon_starts_while_a_root_hangs_and_readiness_names_it(rig: Rig) -> None:
    rig.start_standin()
    with mounted(rig.acquisition) as mount:
        mount.hang()
        with timed("ready while a root hangs", 30):
            port = start(rig)
            seen = wait_for(lambda: status(f"http://127.0.0.1:{port}/readyz"), LIMIT_S)
            assert seen == 503
            assert "watch daemon" in str(rig.ready()["reasons"])
            wait_for(lambda: events(rig.daemon, "daemon.ready"), 40)  # type: ignore[arg-type]
        assert "has not answered" in str(rig.ready()["reasons"])
        mount.answer()
        wait_for(lambda: rig.ready().get("ready"), LIMIT_S, "ready when the root answers")
        rig.daemon.stop()  # type: ignore[union-attr]


@pytest.mark.slow
@needs_fuse
def test_the_daemon_can_be_stopped_while_a_root_hangs_at_the_start(rig: Rig) -> None:
    rig.start_standin()
    with mounted(rig.acquisition) as mount:
        mount.hang()
        port = start(rig)
        wait_for(lambda: status(f"http://127.0.0.1:{port}/healthz"), LIMIT_S)
        with timed("stop while a root hangs at the start"):
            assert rig.daemon.stop(90) == 0  # type: ignore[union-attr]


def test_the_daemon_can_be_stopped_during_its_start(rig: Rig) -> None:
    """The delays are so short that some stops come before the workers run."""
    rig.start_standin()
    for delay_s in (0.3, 0.6, 0.9, 1.2):
        start(rig)
        time.sleep(delay_s)
        with timed(f"stop {delay_s} s after the start"):
            assert rig.daemon.stop(60) in (0, -signal.SIGTERM)  # type: ignore[union-attr]
        assert not [line for line in rig.daemon.lines() if "Traceback" in line]  # type: ignore[union-attr]


@pytest.mark.slow
@needs_fuse
@pytest.mark.parametrize("hanging", ["acquisition", "mipmaps"])
def test_a_stop_ends_while_files_hang(rig: Rig, write: Callable[..., Any], hanging: str) -> None:
    rig.start_standin()
    rig.mipmaps.mkdir()
    with mounted(getattr(rig, hanging)) as mount:
        done = write(1050)
        start(rig)
        rig.wait_until("complete", done.metafile)
        write(1051, tiles=200)
        wait_for(lambda: (fetch(f"{rig.url}/api/montages/2") or {}).get("tiles_made", 0) > 3, what="mipmaps are made")
        mount.hang()
        time.sleep(3)  # until threads and workers access it
        with timed(f"stop while {hanging} hangs", 85):
            assert rig.daemon.stop(90) == 0  # type: ignore[union-attr]
    assert not [line for line in rig.daemon.lines() if "Traceback" in line]  # type: ignore[union-attr]


# --- the file systems of the journal and the mipmaps


@needs_fuse
def test_a_journal_on_a_network_file_system_is_refused_unless_the_configuration_allows_it(rig: Rig) -> None:
    share = rig.root / "share"
    rig.render_url = "http://127.0.0.1:1/render-ws/v1"
    rig.settings = {"journal.path": str(share / "journal.sqlite")}
    with mounted(share):
        for command in ("run", "check-config"):
            done = temwatch(command, "--config", str(rig.config()))
            assert done.returncode == 2
            assert done.stderr.startswith(f"journal.path: {share}/journal.sqlite is on fuse.")
        assert not list(share.iterdir())
        rig.settings["journal.allow_network"] = True
        assert temwatch("check-config", "--config", str(rig.config())).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
def test_the_daemon_is_not_ready_if_a_mipmap_directory_is_read_only_for_it_alone(rig: Rig, write: Any) -> None:
    """The sandbox of a unit whose ReadWritePaths= does not name the directory has the same effect."""
    rig.start_standin()
    rig.mipmaps.mkdir()
    mount = f"mount -t tmpfs -o ro none {rig.mipmaps}"
    rig.prefix = ("unshare", "-m", "--propagation", "private", "sh", "-c", f'{mount} && exec "$@"', "sh")
    rig.start()
    section = write()
    rig.wait_until("ingested", section.metafile)
    (reason,) = rig.ready()["reasons"]
    assert reason.startswith(f"{rig.mipmaps} cannot be written: mounted read-only here")
    assert "ReadWritePaths=" in reason
    remount = ["nsenter", "-t", str(rig.daemon.process.pid), "-m", "mount", "-o", "remount,rw", str(rig.mipmaps)]  # type: ignore[union-attr]
    subprocess.run(remount, check=True)
    rig.wait_until("complete", section.metafile)
    assert rig.ready()["ready"]
