"""Output disks, as directories and as small tmpfs mounts in a mount namespace."""

import asyncio
import contextlib
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from daemon.journal.journal import Journal
from daemon.montages.states import MontageState
from daemon.pipeline.gates import output_disks as disks
from daemon.pipeline.gates.output_disks import MARKER, OutputDisks, check_directory
from daemon.pipeline.health import Disk
from daemon.pipeline.steps import mipmap_step
from daemon.pipeline.steps.perform import Steps
from handlers.errors import StorageFault
from handlers.sharing import Sharing
from tests.integration.inprocess import bench, retry_fast


def mipmaps(directory: Path, min_free_bytes: int = 0) -> Any:
    return SimpleNamespace(output_dir=directory, min_free_bytes=min_free_bytes, sharing=Sharing)


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    async with Journal(tmp_path / "journal.sqlite") as opened:
        yield opened


class WatchedDisks:
    """Output disks of several directories; counts how often one became usable again."""

    def __init__(self, journal: Journal, *wanted: Any) -> None:
        self.wanted = list(wanted)
        self.usable_again = 0
        self.disks = OutputDisks(self._settings, journal, self._count)

    def _settings(self) -> Any:
        watches = [SimpleNamespace(name=f"w{number}", mipmaps=each) for number, each in enumerate(self.wanted)]
        return SimpleNamespace(watch=watches)

    def _count(self) -> None:
        self.usable_again += 1


async def until(condition: Any, what: str) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  an outcome of other tasks, not an event
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def checking(watched: WatchedDisks) -> AsyncIterator[None]:
    task = asyncio.create_task(watched.disks.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_directory_is_made_and_marked_at_its_first_use(journal, tmp_path):
    target = tmp_path / "a" / "mipmaps"
    await WatchedDisks(journal).disks.require(mipmaps(target))
    assert [path.name for path in target.iterdir()] == [MARKER]
    assert await journal.is_used_for_mipmaps(target)


async def test_a_used_directory_without_its_marker_is_refused_also_after_a_restart(journal, tmp_path):
    target = tmp_path / "mipmaps"
    await WatchedDisks(journal).disks.require(mipmaps(target))
    shutil.rmtree(target)
    target.mkdir()  # the bare mount point
    for watched in (WatchedDisks(journal), WatchedDisks(journal)):
        with pytest.raises(StorageFault, match=r"lacks the marker file .* mount it"):
            await watched.disks.require(mipmaps(target))
    assert list(target.iterdir()) == []
    (target / MARKER).touch()
    await WatchedDisks(journal).disks.require(mipmaps(target))


@pytest.mark.parametrize("there", [False, True])
async def test_a_link_in_place_of_the_marker_is_not_followed(journal, tmp_path, there):
    target, elsewhere = tmp_path / "mipmaps", tmp_path / "elsewhere"
    target.mkdir()
    (target / MARKER).symlink_to(elsewhere)
    if there:
        elsewhere.write_bytes(b"of another user")
    with pytest.raises(StorageFault, match="replace the link"):
        await WatchedDisks(journal).disks.require(mipmaps(target))
    assert elsewhere.exists() is there
    assert not await journal.is_used_for_mipmaps(target)


async def test_a_disk_below_min_free_bytes_is_refused_with_both_sizes(journal, tmp_path):
    with pytest.raises(StorageFault, match="GB free, but min_free_bytes is"):
        await WatchedDisks(journal).disks.require(mipmaps(tmp_path / "m", 10**18))


async def test_a_disk_that_runs_low_halts_only_its_own_work(journal, tmp_path, monkeypatch):
    monkeypatch.setattr(disks, "BUSY_S", 0.05)
    low, other = mipmaps(tmp_path / "low"), mipmaps(tmp_path / "other")
    watched = WatchedDisks(journal, low, other, low)
    await watched.disks.require(low)
    await watched.disks.require(other)
    halt_of = watched.disks.halt_of
    async with checking(watched):
        with halt_of(low.output_dir) as halt, halt_of(other.output_dir) as other_halt:
            low.min_free_bytes = 10**18
            await until(halt.is_set, "halt")
            assert not other_halt.is_set()
        assert not watched.disks.is_usable(low.output_dir)
        assert watched.disks.is_usable(other.output_dir)
        facts = watched.disks.facts()
        assert [(bool(disk.problem), disk.watches) for disk in facts] == [(True, ("w0", "w2")), (False, ("w1",))]
        low.min_free_bytes = 0
        await until(lambda: watched.usable_again == 1, "it is usable again")
        with halt_of(low.output_dir) as halt:
            assert not halt.is_set()


async def test_a_mount_that_disappears_during_the_work_halts_it(journal, tmp_path, monkeypatch):
    monkeypatch.setattr(disks, "BUSY_S", 0.05)
    target = mipmaps(tmp_path / "m")
    watched = WatchedDisks(journal, target)
    await watched.disks.require(target)
    async with checking(watched):
        with watched.disks.halt_of(target.output_dir) as halt:
            (target.output_dir / MARKER).unlink()
            await until(halt.is_set, "halt")


async def test_a_stop_halts_the_work_on_every_disk(journal, tmp_path):
    watched = WatchedDisks(journal)
    with watched.disks.halt_of(tmp_path) as before:
        watched.disks.stop()
        assert before.is_set()
    with watched.disks.halt_of(tmp_path) as after:
        assert after.is_set()


@pytest.mark.slow
async def test_a_disk_that_does_not_answer_is_refused_after_a_time_out(journal, tmp_path, monkeypatch):
    monkeypatch.setattr(disks, "STUCK_S", 0.1)
    release = threading.Event()
    monkeypatch.setattr(
        disks,
        "check_directory",
        lambda *arguments, **options: release.wait(30) and check_directory(*arguments, **options),
    )
    watched, target = WatchedDisks(journal), mipmaps(tmp_path / "m")
    try:
        with pytest.raises(StorageFault, match="does not answer"):
            await watched.disks.require(target)
    finally:
        release.set()
    monkeypatch.setattr(disks, "STUCK_S", 10.0)
    await watched.disks.require(target)


FULL_DISK = """
    import sys
    from pathlib import Path
    import numpy as np
    from PIL import Image
    from handlers.mipmaps.job import MipmapJob
    from handlers.mipmaps.make import make_mipmaps

    target, level0 = Path(sys.argv[1]), Path(sys.argv[2])
    pixels = np.random.default_rng(0).integers(0, 256, (2048, 2048), np.uint8)
    Image.fromarray(pixels).save(level0)
    outputs = tuple((level, target / str(level) / "a.tif") for level in (1, 2, 3))
    report = make_mipmaps(MipmapJob("a", level0, outputs, 2048, 2048))
    print(report.fault.kind if report.fault else "made", report.fault.hint if report.fault else "")
    for path in sorted(target.rglob("*")):
        if path.is_file():
            with Image.open(path) as image:
                image.load()
            print("whole" if not path.name.startswith(".") else "temporary", path.name)
"""


@pytest.mark.parametrize(("size", "whole"), [("256k", 0), ("1100k", 1)])
def test_a_disk_that_fills_during_a_write_keeps_only_complete_files(tmp_path, size, whole):
    """Level 1 takes 1 MiB, level 2 a quarter of it."""
    target, script = tmp_path / "small", tmp_path / "script.py"
    target.mkdir()
    script.write_text(textwrap.dedent(FULL_DISK))
    mount = f"mount -t tmpfs -o size={size} tmpfs {target}"
    command = f"{mount} && exec {sys.executable} {script} {target} {tmp_path / 'a.tif'}"
    if subprocess.run(["unshare", "-Urm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("no mount namespace can be made here")
    done = subprocess.run(["unshare", "-Urm", "sh", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["StorageFault free space on the target", *["whole a.tif"] * whole], done.stderr


@pytest.mark.slow
async def test_a_montage_resumes_after_its_disk_was_unusable_for_a_short_time(tmp_path, monkeypatch):
    """The disk is usable again before the running tiles have ended."""
    retry_fast(monkeypatch)
    monkeypatch.setattr(disks, "BUSY_S", 0.01)
    real_check, real_make_all, outages = disks.check_directory, mipmap_step.make_all, []

    def check(directory: Path, needed_bytes: int, *, used: bool) -> Disk:
        return (
            Disk(str(directory), None, needed_bytes, "is gone")
            if outages == ["now"]
            else real_check(directory, needed_bytes, used=used)
        )

    async def make_all(*arguments: Any, stop: Any, **options: Any) -> None:
        if not outages:
            outages.append("now")
            await stop.wait()
            outages[:] = ["over"]
            await until(lambda: running.assembly.disks.is_usable(tmp_path / "mipmaps"), "it is usable again")
        await real_make_all(*arguments, stop=stop, **options)

    monkeypatch.setattr(disks, "check_directory", check)
    monkeypatch.setattr(mipmap_step, "make_all", make_all)
    async with bench(tmp_path) as running:
        metafile = running.write()
        await running.notice(metafile)
        montage = await running.reaches(metafile, MontageState.COMPLETE)
        attempts = [each for each in await running.assembly.journal.attempts(montage.id) if each["step"] == "mipmaps"]
        assert [each["outcome"] for each in attempts] == ["failed", "done"]
        assert "is gone" in str(attempts[0]["fault"])


async def test_levels_written_below_a_missing_mount_are_made_again(tmp_path, monkeypatch):
    """The mount disappears while tiles are made, before the next check of the disk."""
    retry_fast(monkeypatch)
    levels, mount = tmp_path / "mipmaps", tmp_path / "mount"
    real_make, real_apply, applied = Steps.make_mipmaps, Steps.apply, asyncio.Event()
    made: list[Any] = []

    async def make(self: Any, section: Any) -> None:
        await real_make(self, section)
        made.append(section)
        if len(made) == 1:
            levels.rename(mount)
            shutil.copytree(mount, levels, ignore=shutil.ignore_patterns(MARKER))
            for written in list(mount.rglob("*.tif")):
                written.unlink()

    async def apply(self: Any, section: Any) -> None:
        try:
            await real_apply(self, section)
        finally:
            applied.set()

    monkeypatch.setattr(Steps, "make_mipmaps", make)
    monkeypatch.setattr(Steps, "apply", apply)
    async with bench(tmp_path) as running:
        metafile = running.write()
        await running.notice(metafile)
        await applied.wait()
        shutil.rmtree(levels)
        mount.rename(levels)
        await running.reaches(metafile, MontageState.COMPLETE)
        assert len(list(levels.rglob("*.tif"))) == 2
        assert len(made) == 2


IN_A_READ_ONLY_MOUNT = """
mkdir {0}/out && mount -t tmpfs -o ro none {0}/out && exec {1} -c '
from pathlib import Path
from daemon.pipeline.gates.output_disks import check_directory
print(check_directory(Path("{0}/out/mipmaps"), 0, used=False).problem)
print(check_directory(Path("{0}/out"), 0, used=False).problem)
'
"""


def test_a_read_only_directory_is_reported_with_the_setting_of_the_unit(tmp_path: Path) -> None:
    script = IN_A_READ_ONLY_MOUNT.format(tmp_path, sys.executable)
    run = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True)
    if run.returncode and "not permitted" in run.stderr:
        pytest.skip("mounts need root")
    hint = "(remount it writable; a service must have it below a path of ReadWritePaths= of its unit)"
    assert run.stdout.splitlines() == [
        f"cannot be written at {tmp_path}/out: mounted read-only here {hint}",
        f"cannot be written: mounted read-only here {hint}",
    ]


def test_a_directory_that_this_user_cannot_write_is_reported_before_its_first_use(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert "by user" in check_directory(tmp_path / "mipmaps", 0, used=False).problem
    (tmp_path / MARKER).touch()
    assert check_directory(tmp_path, 0, used=True).problem == ""


def test_free_space_and_min_free_bytes_are_shown_in_distinct_units(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    problem = "has 1,000,000 bytes free, but min_free_bytes is 1,000,001 bytes: free space there"
    assert check_directory(tmp_path, 1_000_001, used=False).problem == problem
    assert (
        "has 1.00 MB free, but min_free_bytes is 268.44 MB"
        in check_directory(tmp_path, 268_435_456, used=False).problem
    )


async def test_a_disk_is_not_usable_before_its_first_check(tmp_path: Path, journal: Journal, monkeypatch: Any) -> None:
    monkeypatch.setattr("daemon.pipeline.gates.output_disks.FIRST_CHECK_S", 0.1)
    release = threading.Event()
    monkeypatch.setattr(
        "daemon.pipeline.gates.output_disks.check_directory",
        lambda *_, **__: release.wait() and Disk(str(tmp_path), 1, 0),
    )
    watched = WatchedDisks(journal, mipmaps(tmp_path))
    assert [(disk.problem, disk.watches) for disk in watched.disks.facts()] == [("has not been checked yet", ("w0",))]
    async with checking(watched):
        async with asyncio.timeout(60):
            await watched.disks.checked.wait()
        assert "does not answer" in watched.disks.facts()[0].problem
        release.set()
        await until(lambda: not watched.disks.facts()[0].problem, "it answers")
