"""The daemon as a service: what it answers and hears while it starts, reloads and stops, and while disks hang.

Each test that waits for the daemon prints how long that took: `pytest -rP` shows it.
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
SOON_S = 20.0
"""Far above what it should take, on a busy machine too, and far below what it took while it waited for a disk."""


@contextlib.contextmanager
def timed(what: str, most_s: float = SOON_S) -> Iterator[None]:
    """Print how long something takes; fail if it is not soon."""
    began = time.monotonic()
    yield
    took_s = time.monotonic() - began
    sys.stdout.write(f"{what}: {took_s:.1f} s\n")
    assert took_s < most_s, what


@contextlib.contextmanager
def locked(journal: Path) -> Iterator[None]:
    """Another program holds the journal for writing."""
    with contextlib.closing(sqlite3.connect(journal, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def events(program: Program, name: str) -> list[dict[str, Any]]:
    """Log lines of an event."""
    return [json.loads(line) for line in program.lines() if line.startswith("{") and f'"{name}"' in line]


def status(url: str) -> int | None:
    """Of an answer; None if nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return None


def test_every_page_answers_from_the_first_moment_on(rig: Rig, tmp_path: Path) -> None:
    port = free_port()
    rig.settings = {"http.port": port}
    rig.render_url = "http://127.0.0.1:1/render-ws/v1"
    rig.daemon = daemon = Program(tmp_path / "daemon.log", "daemon", "run", "--config", str(rig.config()))
    seen: set[int] = set()

    def is_ready() -> bool:
        for page in ("readyz", "metrics", "api/montages"):
            seen.update(filter(None, [status(f"http://127.0.0.1:{port}/{page}")]))
        return any('"daemon.ready"' in line for line in daemon.lines())

    wait_for(is_ready, 30)
    assert seen <= {200, 503}


# --- a locked journal


def test_pages_answer_while_another_program_holds_the_journal(running_rig: Rig, write: Callable[..., Any]) -> None:
    section = write()
    running_rig.wait_until("complete", section.metafile)
    with locked(running_rig.root / "daemon.sqlite"):
        write(1051)  # the daemon has something to record, too
        time.sleep(3)
        for page in ("metrics", "readyz", "api/montages", "api/montages/1", "healthz"):
            with timed(page, 5):
                assert status(f"{running_rig.url}/{page}") in (200, 503)
        wait_for(lambda: "journal cannot be written" in str(running_rig.ready()), 30)
    wait_for(lambda: running_rig.ready().get("ready"), 30, "ready again")
    wait_for(lambda: len(running_rig.montages()) == 2, 30, "what was held up is recorded")


def test_a_stop_with_a_locked_journal_ends_in_time(running_rig: Rig, write: Callable[..., Any]) -> None:
    assert running_rig.daemon
    write(tiles=200)
    wait_for(lambda: "ingested" in str(running_rig.montages()), what="mipmaps are made")
    with locked(running_rig.root / "daemon.sqlite"):
        for grid in range(1051, 1056):
            write(grid)
        time.sleep(3)
        with timed("stop with a locked journal", 30):
            assert running_rig.daemon.stop(90) == 0


# --- reload


def second_watch(rig: Rig, name: str, directory: Path) -> str:
    """The rig's configuration with one watch more."""
    return rig.config_text() + (
        f'\n[[watch]]\nname = "{name}"\ndirectory = "{directory}"\nscan_interval_s = 1\n[watch.z]\nrule = "grid"\n'
        f'[watch.mipmaps]\noutput_dir = "{rig.mipmaps}"\n'
    )


def replace_text(path: Path, text: str) -> None:
    written = path.with_suffix(".new")
    written.write_text(text)
    written.replace(path)


def states(rig: Rig) -> dict[str, str]:
    """Name and status of each watch."""
    return {watch["name"]: watch["status"] for watch in rig.ready().get("watches", [])}


def watches(rig: Rig) -> list[str]:
    return list(states(rig))


def test_of_two_reloads_close_together_the_newest_file_wins(running_rig: Rig, tmp_path: Path) -> None:
    rig, pid = running_rig, running_rig.daemon.process.pid  # type: ignore[union-attr]
    for turn in range(5):
        for name in ("first", "second"):
            directory = tmp_path / f"{name}{turn}"
            directory.mkdir()
            replace_text(rig.config(), second_watch(rig, f"{name}{turn}", directory))
            os.kill(pid, signal.SIGHUP)
        wait_for(lambda: fetch(f"{rig.url}/api/reload")["answered"] >= 2 * turn + 1, SOON_S)  # noqa: B023
        wait_for(lambda: watches(rig) == ["daemon", f"second{turn}"], SOON_S, f"second{turn} is watched")  # noqa: B023


@needs_fuse
def test_a_reload_during_the_start_is_done_after_it_and_the_new_watch_is_watched(rig: Rig, tmp_path: Path) -> None:
    added = tmp_path / "added"
    added.mkdir()
    rig.start_standin()
    with mounted(rig.acquisition) as mount:
        mount.hang()
        port = start(rig)
        wait_for(lambda: status(f"http://127.0.0.1:{port}/readyz") == 503, SOON_S)
        replace_text(rig.config(), second_watch(rig, "added", added))
        rig.daemon.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
        with timed("a reload asked for during the start"):
            wait_for(lambda: "added" in watches(rig), SOON_S)
        wait_for(
            lambda: next(w for w in rig.ready()["watches"] if w["name"] == "added")["status"] == "watching", SOON_S
        )
        assert not events(rig.daemon, "config.reload_bug")  # type: ignore[arg-type]
        rig.daemon.stop(SOON_S)  # type: ignore[union-attr]


def test_the_level_of_the_log_is_taken_up(running_rig: Rig) -> None:
    rig = running_rig
    config = ("--config", str(rig.config()))
    replace_text(rig.config(), rig.config_text().replace('format = "json"', 'format = "json"\nlevel = "error"'))
    assert temwatch("reload", *config).returncode == 0
    known = len(rig.daemon.lines())  # type: ignore[union-attr]
    assert temwatch("reload", *config).returncode == 0
    replace_text(rig.config(), rig.config_text().replace('format = "json"', 'format = "json"\nlevel = "info"'))
    assert temwatch("reload", *config).returncode == 0
    said = [json.loads(line)["event"] for line in rig.daemon.lines()[known:]]  # type: ignore[union-attr]
    assert [event for event in said if event.startswith("config.")] == ["config.reloaded"]


def test_the_reload_command_says_whether_the_configuration_is_in_force(running_rig: Rig, tmp_path: Path) -> None:
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
    """The directory is a mount of another one beside it."""
    source = directory.with_name(f"{directory.name}.source")
    source.mkdir()
    mount = Mount(source, directory)
    try:
        yield mount
    finally:
        mount.close()


def start(rig: Rig) -> int:
    """Start the daemon without waiting for it; the port it will listen on."""
    port = free_port()
    rig.settings = {**rig.settings, "http.port": port}
    rig.url = f"http://127.0.0.1:{port}"
    rig.daemon = Program(rig.root / "daemon.log", "daemon", "run", "--config", str(rig.config()))
    return port


def left_of(program: Program) -> list[str]:
    """Processes of the program's session that run still."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == program.process.pid and fields[0] != "Z" and int(entry.name) != program.process.pid:
                found.append((entry / "cmdline").read_text().replace("\0", " ")[:200])
    return found


def test_a_stop_leaves_no_process_behind(running_rig: Rig, write: Callable[..., Any]) -> None:
    """What is left when the main process has ended, systemd kills and tells of."""
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


@needs_fuse
def test_ready_comes_though_a_root_hangs_and_readiness_says_which(rig: Rig) -> None:
    rig.start_standin()
    with mounted(rig.acquisition) as mount:
        mount.hang()
        with timed("ready while a root hangs", 30):
            port = start(rig)
            seen = wait_for(lambda: status(f"http://127.0.0.1:{port}/readyz"), SOON_S)
            assert seen == 503
            assert "watch daemon" in str(rig.ready()["reasons"])
            wait_for(lambda: events(rig.daemon, "daemon.ready"), 40)  # type: ignore[arg-type]
        assert "has not answered" in str(rig.ready()["reasons"])
        mount.answer()
        wait_for(lambda: rig.ready().get("ready"), SOON_S, "ready when the root answers")
        rig.daemon.stop()  # type: ignore[union-attr]


@needs_fuse
def test_a_stop_is_heard_while_a_root_hangs_at_the_start(rig: Rig) -> None:
    rig.start_standin()
    with mounted(rig.acquisition) as mount:
        mount.hang()
        port = start(rig)
        wait_for(lambda: status(f"http://127.0.0.1:{port}/healthz"), SOON_S)
        with timed("stop while a root hangs at the start"):
            assert rig.daemon.stop(90) == 0  # type: ignore[union-attr]


def test_a_stop_is_heard_from_the_first_moment(rig: Rig) -> None:
    """... also before the workers run."""
    rig.start_standin()
    for delay_s in (0.3, 0.6, 0.9, 1.2):
        start(rig)
        time.sleep(delay_s)
        with timed(f"stop {delay_s} s after the start"):
            assert rig.daemon.stop(60) in (0, -signal.SIGTERM)  # type: ignore[union-attr]
        assert not [line for line in rig.daemon.lines() if "Traceback" in line]  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.timeout(300)
@needs_fuse
@pytest.mark.parametrize("hanging", ["acquisition", "mipmaps"])
def test_a_stop_ends_though_files_hang(rig: Rig, write: Callable[..., Any], hanging: str) -> None:
    rig.start_standin()
    rig.mipmaps.mkdir()
    with mounted(getattr(rig, hanging)) as mount:
        done = write(1050)
        start(rig)
        rig.wait_until("complete", done.metafile)
        write(1051, tiles=200)
        wait_for(lambda: (fetch(f"{rig.url}/api/montages/2") or {}).get("tiles_made", 0) > 3, what="mipmaps are made")
        mount.hang()
        time.sleep(3)  # threads and workers run into it
        with timed(f"stop while {hanging} hangs", 85):
            assert rig.daemon.stop(90) == 0  # type: ignore[union-attr]
    assert not [line for line in rig.daemon.lines() if "Traceback" in line]  # type: ignore[union-attr]


# --- where is written


@needs_fuse
def test_a_journal_on_a_network_file_system_is_refused_unless_somebody_insists(rig: Rig) -> None:
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


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
def test_a_mipmap_directory_that_is_read_only_for_the_daemon_alone_is_not_ready(rig: Rig, write: Any) -> None:
    """As in the sandbox of a unit whose ReadWritePaths= does not name it."""
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
