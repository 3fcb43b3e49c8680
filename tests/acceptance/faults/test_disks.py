"""Disks that are full, read-only or unmounted for some time: montages wait, report it, and become COMPLETE then."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.simulator.temca import write_section
from tests.acceptance.conftest import section_plan
from tests.acceptance.faults.accounts import audit, present_rows
from tests.acceptance.faults.pulse import pulse_of
from tests.acceptance.faults.rows import FaultRun, Scale
from tests.acceptance.rig import Rig, running, wait_for
from tests.acceptance.test_watching import SCAN_INTERVAL_S, ingest_from_a_flood, watch_of

LEVELS = 3
FIRST_GRID = 1050
IN_NAMESPACE = ("unshare", "-rm", "--propagation", "private", "sh", "-ec")
EMPTY_LOG = """
import sqlite3, sys
journal = sqlite3.connect(sys.argv[1], timeout=30)
journal.execute("SELECT count(*) FROM montages").fetchone()  # without a read before it, the next statement does nothing
while journal.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
    pass
"""
"""Empties the write-ahead log of a journal, because a journal can still write to the existing part on a full disk."""


class Mounts:
    """The mounts of a daemon in its own mount namespace, which tests can enter."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    @property
    def root(self) -> Path:
        """Path by which this process can access the daemon's root directory."""
        return Path("/proc", str(self._rig.daemon.process.pid), "root")

    def seen(self, path: Path) -> Path:
        return self.root / path.relative_to("/")

    def mount(self, *arguments: str) -> None:
        self._run("mount", *arguments)

    def unmount(self, path: Path) -> None:
        self._run("umount", "--lazy", str(path))

    def python(self, program: str, *arguments: str) -> None:
        """Run a program in the daemon's mount namespace."""
        self._run(sys.executable, "-c", program, *arguments)

    def _run(self, *command: str) -> None:
        enter = ("nsenter", "--user", "--mount", "--preserve-credentials", "-t", str(self._rig.daemon.process.pid))
        ran = subprocess.run([*enter, *command], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, (command, ran.stderr)


@contextlib.contextmanager
def with_mounts(rig: Rig, *mounts: str) -> Iterator[Mounts]:
    """Start the rig's daemon in its own mount namespace, with one `mount` for each line."""
    script = "\n".join(f"mount {line}" for line in mounts)
    tried = subprocess.run([*IN_NAMESPACE, script + "\ntrue"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"no mounts without root or user namespaces: {tried.stderr.strip()}")
    rig.prefix = (*IN_NAMESPACE, script + '\nexec "$@"', "sh")
    with running(rig):
        yield Mounts(rig)


def write(rig: Rig, number: int) -> Path:
    plan = section_plan(FIRST_GRID + number, 6, size=(256, 256), seed=number)
    return write_section(plan, rig.acquisition, pixels="noise").metafile


def wait_for_reason(rig: Rig, *texts: str, within_s: float = 60) -> None:
    """Wait until a reason why the daemon is not ready, or the fault of a waiting montage, contains one of the texts."""

    def is_reported() -> bool:
        reasons = " ".join(rig.ready().get("reasons", ()))
        waiting = " ".join(f"{row['fault']} {row['waiting_for']}" for row in present_rows(rig).values())
        return any(text in reasons + waiting for text in texts)

    wait_for(is_reported, within_s, lambda: f"{texts}; {rig.ready()}")


def break_and_repair(
    rig: Rig,
    mounts: Mounts,
    times: int,
    break_it: Callable[[], object],
    repair: Callable[[], object],
    words: tuple[str, ...],
) -> list[Path]:
    """Several times, break something during the work, wait for the report and repair it; return the metafiles."""
    metafiles = [write(rig, 0)]
    rig.wait_until("complete", *metafiles)
    for number in range(times):
        metafiles.append(write(rig, 2 * number + 1))
        break_it()
        metafiles.append(write(rig, 2 * number + 2))
        wait_for_reason(rig, *words)
        assert not [row for row in present_rows(rig).values() if row["state"] == "failed"]
        repair()
        wait_for(lambda: rig.ready().get("ready"), 60, lambda: f"ready; {rig.ready()}")
        rig.wait_until("complete", *metafiles, timeout_s=90)
    assert mounts.root.exists()
    return metafiles


def settings(**others: object) -> dict[str, object]:
    return {
        "watch.mipmaps.levels": LEVELS,
        "watch.mipmaps.min_free_bytes": 0,
        "workers.count": 2,
        **{key.replace("__", "."): value for key, value in others.items()},
    }


def rounds(scale: Scale) -> int:
    return scale.pick(6, 1, 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_montages_wait_for_a_mipmap_disk_that_becomes_full_during_a_write(tmp_path, scale, enter):
    rig = Rig(tmp_path, settings())
    rig.mipmaps.mkdir()
    with with_mounts(rig, f"-t tmpfs -o size=64m tmpfs {rig.mipmaps}") as mounts, pulse_of(rig.url) as pulse:
        filling = mounts.seen(rig.mipmaps) / "somebody_elses_data"

        def fill() -> None:
            """Fill all but some 30 kB, so that writes begin and fail."""
            with contextlib.suppress(OSError), filling.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
            os.truncate(filling, filling.stat().st_size - 8 * 4096)

        metafiles = break_and_repair(
            rig, mounts, rounds(scale), fill, filling.unlink, ("No space left", "full", "free")
        )
        account = audit(rig, metafiles, levels=LEVELS, inside=mounts.root)
        assert "Traceback" not in rig.daemon.log.read_text()
    enter(FaultRun("full mipmap disk", rounds(scale), **account.counts(), note="a tmpfs of 64 MB"))
    assert not account.problems
    assert not pulse.wrong


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_montages_wait_for_a_journal_disk_that_becomes_full(tmp_path, scale, enter):
    place = tmp_path / "journal"
    place.mkdir()
    rig = Rig(tmp_path, settings(journal__path=str(place / "journal.sqlite")))
    with with_mounts(rig, f"-t tmpfs -o size=16m tmpfs {place}") as mounts, pulse_of(rig.url) as pulse:
        filling = mounts.seen(place) / "somebody_elses_data"

        def fill() -> None:
            mounts.python(EMPTY_LOG, str(place / "journal.sqlite"))
            with contextlib.suppress(OSError), filling.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass

        metafiles = break_and_repair(rig, mounts, rounds(scale), fill, filling.unlink, ("journal cannot be written",))
        account = audit(rig, metafiles, levels=LEVELS, inside=mounts.root)
        assert "Traceback" not in rig.daemon.log.read_text()
    enter(FaultRun("full journal disk", rounds(scale), **account.counts()))
    assert not account.problems
    assert not pulse.wrong


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_montages_wait_for_a_mipmap_disk_that_becomes_read_only(tmp_path, scale, enter):
    rig = Rig(tmp_path, settings())
    rig.mipmaps.mkdir()
    with with_mounts(rig, f"-t tmpfs -o size=64m tmpfs {rig.mipmaps}") as mounts, pulse_of(rig.url) as pulse:

        def turn(mode: str) -> Callable[[], None]:
            def remount() -> None:
                # A file system cannot become read-only while a file is open for writing.
                wait_for(lambda: _succeeds(lambda: mounts.mount("-o", f"remount,{mode}", str(rig.mipmaps))), 60, mode)

            return remount

        metafiles = break_and_repair(rig, mounts, rounds(scale), turn("ro"), turn("rw"), ("Read-only", "read-only"))
        account = audit(rig, metafiles, levels=LEVELS, inside=mounts.root)
        assert "Traceback" not in rig.daemon.log.read_text()
    enter(FaultRun("read-only mipmap disk", rounds(scale), **account.counts()))
    assert not account.problems
    assert not pulse.wrong


def _succeeds(action: Callable[[], object]) -> bool:
    try:
        action()
    except AssertionError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_montage_is_lost_when_an_acquisition_mount_disappears_and_comes_back(tmp_path, scale, enter):
    """Files that were written on the server in the meantime are found when the mount is back."""
    rig = Rig(tmp_path, settings())
    server = tmp_path / "server"
    rig.acquisition.rename(server)
    rig.acquisition.mkdir()
    on_server, mountpoint = Rig(tmp_path, {}), rig.acquisition
    on_server.acquisition = server
    with with_mounts(rig, f"--bind {server} {mountpoint}") as mounts, pulse_of(rig.url) as pulse:
        first = write(on_server, 0)  # a root that never contained files may be empty
        metafiles = [mountpoint / first.relative_to(server)]
        rig.wait_until("complete", *metafiles)
        for number in range(rounds(scale)):
            there = write(on_server, 2 * number + 1)
            time.sleep(0.1 * (number % 8))  # so that different steps are running
            mounts.unmount(mountpoint)
            meanwhile = write(on_server, 2 * number + 2)
            metafiles += [mountpoint / path.relative_to(server) for path in (there, meanwhile)]
            wait_for(lambda: not rig.ready().get("ready"), 60, "not ready")
            assert not [row for row in present_rows(rig).values() if row["state"] == "failed"]
            mounts.mount("--bind", str(server), str(mountpoint))
            wait_for(lambda: rig.ready().get("ready"), 60, lambda: f"ready; {rig.ready()}")
            rig.wait_until("complete", *metafiles, timeout_s=90)
        mountpoint.rmdir()
        mountpoint.symlink_to(server)  # so that this process can read the files by the daemon's paths
        account = audit(rig, metafiles, levels=LEVELS)
        assert "Traceback" not in rig.daemon.log.read_text()
    enter(FaultRun("vanished acquisition mount", rounds(scale), **account.counts()))
    assert not account.problems
    assert not pulse.wrong


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("below", ["read-only", "writable"])
def test_no_montage_is_lost_when_a_mipmap_mount_disappears_and_comes_back(tmp_path, scale, enter, below):
    """Even if its mount point is writable: levels that were written there are made again on the mount."""
    rig = Rig(tmp_path, settings())
    server, mountpoint = tmp_path / "server", tmp_path / "mounts" / "mipmaps"
    server.mkdir()
    mountpoint.mkdir(parents=True)
    rig.settings["watch.mipmaps.output_dir"] = str(mountpoint)
    binds = [f"--bind {mountpoint.parent} {mountpoint.parent}", f"--bind {server} {mountpoint}"]
    if below == "read-only":
        binds.insert(1, f"-o remount,bind,ro {mountpoint.parent}")
    with with_mounts(rig, *binds) as mounts, pulse_of(rig.url) as pulse:
        metafiles = break_and_repair(
            rig,
            mounts,
            rounds(scale),
            lambda: mounts.unmount(mountpoint),
            lambda: mounts.mount("--bind", str(server), str(mountpoint)),
            ("Read-only", "read-only", "lacks the marker file"),
        )
        account = audit(rig, metafiles, levels=LEVELS, inside=mounts.root)
        assert "Traceback" not in rig.daemon.log.read_text()
    row = FaultRun(f"vanished mipmap mount, {below} below it", rounds(scale), **account.counts())
    enter(replace(row, left_over=len(list(server.rglob("*.tmp")))))
    assert not account.problems
    assert not pulse.wrong


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_a_metafile_is_found_in_a_flood_of_files_that_overflows_the_event_queue(tmp_path, scale, enter, stopped):
    """With `stopped` the daemon is stopped while files are written, so that the queue of 16,384 events overflows."""
    files = scale.pick(50_000, 20_000, 20_000)
    rig = Rig(tmp_path, {"watch.scan_interval_s": SCAN_INTERVAL_S})
    (rig.acquisition / "flood").mkdir()
    with running(rig):
        ingest_from_a_flood(rig, files, asleep=stopped)
        metafiles = list(present_rows(rig))
        overflows = watch_of(rig)["overflows"]
        account = audit(rig, metafiles, levels=6)
    assert overflows >= 1 or not stopped
    name = f"flood of files, daemon {'stopped' if stopped else 'running'}"
    enter(FaultRun(name, 1, **account.counts(), note=f"{files:,} files, {overflows} overflows of the event queue"))
    assert not account.problems
