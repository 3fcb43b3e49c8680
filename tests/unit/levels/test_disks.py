"""Disks that fail or are full: no level is incomplete, and no temporary file remains."""

import errno
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handlers.errors import StorageFault, WorkerFault
from handlers.images.decode import verify_level
from handlers.images.reduction import Reduction
from handlers.mipmaps import make
from handlers.mipmaps.make import make_mipmaps
from handlers.stores import atomic_write, temporary
from tests.unit.levels.files import fault_of, job_for, leftovers, save, texture
from tests.waiting import wait_for


def fill(file: Any) -> None:
    """Write until the disk is full, which raises an OSError."""
    while True:
        file.write(bytes(4096))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB with 64 inodes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k,nr_inodes=64", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a small tmpfs cannot be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


class TestFailingDisks:
    def test_a_full_disk_is_a_storage_fault_and_leaves_no_files(self, tmp_path: Path, small_disk: Path) -> None:
        file = save(tmp_path / "a.tif", texture(np.uint8, 1200, 1200))
        fault = fault_of(job_for(file, small_disk, width=1200, height=1200))
        assert isinstance(fault, StorageFault)
        assert "No space left" in str(fault)
        assert shutil.disk_usage(small_disk).used < 16384

    def test_a_disk_that_fills_between_two_levels_keeps_the_complete_level(
        self, tmp_path: Path, small_disk: Path
    ) -> None:
        file = save(tmp_path / "a.tif", texture(np.uint8, 800, 800))
        job = job_for(file, small_disk, levels=2, width=800, height=800)
        (small_disk / "filler").write_bytes(bytes(72 * 1024))  # level 1 of 160 kB fits, level 2 of 40 kB does not
        report = make_mipmaps(job)
        assert report.fault is not None
        assert isinstance(report.fault.to_fault(), StorageFault)
        assert [made.level for made in report.made] == [1]
        assert verify_level(report.made[0].path, 400, 400, "L").shape == (400, 400)
        assert not job.outputs[1][1].exists()
        assert not leftovers(small_disk)

    def test_a_job_that_found_the_disk_full_succeeds_after_space_is_freed(
        self, tmp_path: Path, small_disk: Path
    ) -> None:
        file = save(tmp_path / "a.tif", texture())
        job = job_for(file, small_disk)
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as out, pytest.raises(OSError, match="No space left"):
            fill(out)
        assert isinstance(fault_of(job), StorageFault)
        filler.unlink()
        assert make_mipmaps(job).fault is None

    @pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE])
    @pytest.mark.parametrize("call", ["fsync", "replace", "mkdir", "scandir"])
    def test_any_call_that_fails_is_a_storage_fault_that_names_the_level(
        self, level0: Path, output_dir: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str
    ) -> None:
        def fail(*arguments: Any, **options: Any) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(Path if call == "mkdir" else os, call, fail)
            report = make_mipmaps(job_for(level0, output_dir))
        assert [path for path in output_dir.rglob("*") if path.is_file()] == []
        assert report.fault is not None
        fault = report.fault.to_fault()
        assert isinstance(fault, StorageFault)
        assert "level 1" in fault.problem
        assert os.strerror(number) in fault.problem
        assert fault.subject.endswith("1/image.tif.tif")

    def test_levels_whose_directory_cannot_be_synced_do_not_count_as_made(
        self, level0: Path, output_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sync = os.fsync

        def fail(descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", fail)
        report = make_mipmaps(job_for(level0, output_dir))
        assert report.fault is not None
        assert report.fault.kind == "StorageFault"
        assert str(output_dir) in report.fault.subject
        assert not report.made

    def test_the_directory_of_every_level_in_place_is_synced_once_even_if_a_later_level_fails(
        self, tmp_path: Path, output_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced: list[Path] = []
        sync = os.fsync

        def watched(descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", watched)
        job = job_for(save(tmp_path / "a.tif", texture()), output_dir, levels=3)
        job.outputs[2][1].mkdir(parents=True)  # a directory that level 3 cannot replace
        report = make_mipmaps(job)
        assert [made.level for made in report.made] == [1, 2]
        assert sorted(synced) == sorted({made.path.parent for made in report.made})

    def test_a_name_appears_after_its_bytes_are_synced_and_directories_are_synced_last(
        self, tmp_path: Path, output_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[tuple[str, str]] = []
        sync, replace = os.fsync, os.replace

        def watched_sync(descriptor: int) -> None:
            sync(descriptor)
            calls.append(("sync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))

        def watched_replace(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
            calls.append(("replace", os.path.realpath(f"/proc/self/fd/{src_dir_fd}/{source}")))
            replace(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

        monkeypatch.setattr(os, "fsync", watched_sync)
        monkeypatch.setattr(os, "replace", watched_replace)
        report = make_mipmaps(job_for(save(tmp_path / "a.tif", texture()), output_dir, levels=3))
        assert [made.level for made in report.made] == [1, 2, 3]
        *files, first, second, third = calls
        assert [call for call, _ in files] == ["sync", "replace"] * 3
        assert all(files[at][1] == files[at + 1][1] for at in (0, 2, 4))
        directories = {str(made.path.parent) for made in report.made}
        assert {first, second, third} == {("sync", directory) for directory in directories}

    def test_all_levels_are_written_before_the_first_sync_waits(
        self, tmp_path: Path, output_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written: list[int] = []
        sync = os.fsync

        def watched(descriptor: int) -> None:
            written.append(sum(path.stat().st_size > 0 for path in output_dir.rglob("*.t*") if path.is_file()))
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", watched)
        assert make_mipmaps(job_for(save(tmp_path / "a.tif", texture()), output_dir, levels=3)).fault is None
        assert set(written) == {3}

    def test_a_sync_that_fails_keeps_the_levels_before_it_and_removes_the_files_of_the_others(
        self, tmp_path: Path, output_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = job_for(save(tmp_path / "a.tif", texture()), output_dir, levels=3)
        sync, opened = os.fsync, len([*Path("/proc/self/fd").iterdir()])

        def fail(descriptor: int) -> None:
            if Path(f"/proc/self/fd/{descriptor}").readlink().parent == job.outputs[1][1].parent:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", fail)
        report = make_mipmaps(job)
        assert report.fault is not None
        assert "level 2" in report.fault.problem
        assert [made.level for made in report.made] == [1]
        assert [path for path in output_dir.rglob("*") if path.is_file()] == [report.made[0].path]
        assert len([*Path("/proc/self/fd").iterdir()]) == opened

    def test_a_disk_that_returns_other_pixels_is_a_fault_and_leaves_no_level(
        self, level0: Path, output_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write = atomic_write._write
        monkeypatch.setattr(
            atomic_write,
            "_write",
            lambda path, content, *others: write(path, content[:-1] + bytes([content[-1] ^ 1]), *others),
        )
        fault = fault_of(job_for(level0, output_dir))
        assert isinstance(fault, StorageFault)
        assert "reads back differently" in str(fault)

    def test_a_write_that_is_silently_truncated_is_a_fault(
        self, level0: Path, output_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write = atomic_write._write
        monkeypatch.setattr(atomic_write, "_write", lambda path, content, *others: write(path, content[:-5], *others))
        assert "reads back differently" in str(fault_of(job_for(level0, output_dir)))

    def test_a_name_that_is_too_long_is_a_fault_of_the_settings(self, tmp_path: Path, output_dir: Path) -> None:
        report = make_mipmaps(job_for(save(tmp_path / ("x" * 252), texture(), format="TIFF"), output_dir))
        assert report.fault is not None
        assert report.fault.kind == "SettingsFault"
        assert not leftovers(output_dir)

    @pytest.mark.parametrize("function", ["mean", "max"])
    def test_memory_that_runs_out_is_reported(
        self, level0: Path, output_dir: Path, monkeypatch: pytest.MonkeyPatch, function: str
    ) -> None:
        def fail(*arguments: Any) -> None:
            raise MemoryError

        monkeypatch.setattr(make, "reduced", fail)
        job = job_for(level0, output_dir, reduction=Reduction("block_reduce", function))
        assert isinstance(fault_of(job), WorkerFault)


class TestTemporaryFiles:
    @pytest.fixture(autouse=True)
    def _forget_swept_directories(self) -> None:
        """Let the next job remove temporary files, as the first job of a process does."""
        temporary._swept.clear()

    def dead_pid(self) -> int:
        process = subprocess.Popen(["true"])
        process.wait()
        return process.pid

    def test_temporary_files_of_dead_workers_are_removed_by_the_next_job(self, level0: Path, output_dir: Path) -> None:
        job = job_for(level0, output_dir, levels=1)
        directory = job.outputs[0][1].parent
        directory.mkdir(parents=True)
        old = directory / f".other.tif.tif.{temporary.machine()}-{self.dead_pid()}-123-0.tmp"
        old.write_bytes(b"half a lev")
        assert make_mipmaps(job).fault is None
        assert [path.name for path in directory.iterdir()] == ["image.tif.tif"]

    def test_temporary_files_of_a_zombie_worker_are_removed(self, level0: Path, output_dir: Path) -> None:
        job = job_for(level0, output_dir, levels=1)
        directory = job.outputs[0][1].parent
        directory.mkdir(parents=True)
        with subprocess.Popen(["sleep", "60"]) as worker:
            old = directory / f".other.tif.tif.{temporary.maker(worker.pid)}-0.tmp"
            old.write_bytes(b"half a lev")
            worker.kill()
            stat_file = Path(f"/proc/{worker.pid}/stat")
            wait_for(lambda: stat_file.read_text().rpartition(")")[2].split()[0] == "Z", "the worker is a zombie")
            assert make_mipmaps(job).fault is None
        assert not old.exists()

    def test_temporary_files_of_running_writers_and_other_files_stay(self, level0: Path, output_dir: Path) -> None:
        job = job_for(level0, output_dir, levels=1)
        directory = job.outputs[0][1].parent
        directory.mkdir(parents=True)
        names = {
            f".a.tif.tif.{temporary.maker(os.getppid())}-0.tmp",  # of a running process
            ".b.tif.tif.00000000-1-1-0.tmp",  # of another machine
            ".hidden",
            "note.tmp",
        }
        for name in names:
            (directory / name).write_bytes(b"")
        os.utime(directory / "note.tmp", (0, 0))
        make_mipmaps(job)
        assert {path.name for path in directory.iterdir()} == names | {"image.tif.tif"}

    def test_temporary_files_of_a_program_with_any_name_stay_while_it_runs(
        self, level0: Path, output_dir: Path, tmp_path: Path
    ) -> None:
        program = tmp_path / "a) Z 1 (b"
        program.symlink_to(shutil.which("sleep") or "")
        job = job_for(level0, output_dir, levels=1)
        directory = job.outputs[0][1].parent
        directory.mkdir(parents=True)
        with subprocess.Popen([program, "60"]) as running:
            try:
                stat = Path(f"/proc/{running.pid}/stat")
                wait_for(lambda: "a) Z 1 (b" in stat.read_text(), "the program is executed")
                started = stat.read_text().rpartition(")")[2].split()[19]
                kept = directory / f".b.tif.tif.{temporary.machine()}-{running.pid}-{started}-0.tmp"
                kept.write_bytes(b"")
                make_mipmaps(job)
            finally:
                running.kill()
        assert kept.exists()
        assert temporary.is_temporary(kept.name)
        assert not temporary.is_temporary("image.tif.tif")

    def test_temporary_files_of_another_machine_are_removed_after_an_hour(self, level0: Path, output_dir: Path) -> None:
        job = job_for(level0, output_dir, levels=1)
        directory = job.outputs[0][1].parent
        directory.mkdir(parents=True)
        old = directory / ".b.tif.tif.00000000-1-1-0.tmp"
        old.write_bytes(b"")
        os.utime(old, (time.time() - 4000, time.time() - 4000))
        make_mipmaps(job)
        assert not old.exists()

    def test_temporary_files_of_a_dead_process_whose_id_was_reused_are_removed(
        self, level0: Path, output_dir: Path
    ) -> None:
        job = job_for(level0, output_dir, levels=1)
        directory = job.outputs[0][1].parent
        directory.mkdir(parents=True)
        old = directory / f".b.tif.tif.{temporary.machine()}-{os.getppid()}-1-0.tmp"
        old.write_bytes(b"")
        make_mipmaps(job)
        assert not old.exists()
