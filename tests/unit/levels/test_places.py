"""Places of level 0 and its levels: links, other directories, files that are not regular, missing mounts."""

import os
import shutil
import socket
from pathlib import Path

import pytest

from handlers.container import Container, Containers
from handlers.errors import ImageFault, ImagesMissing, StorageFault, Waiting
from handlers.images.encode import PLAIN_TIFF, Encoding
from handlers.images.header import inspect_image
from handlers.mipmaps.make import make_mipmaps
from handlers.mipmaps.plan import Level0, MipmapPlan
from handlers.mipmaps.tile_jobs import tile_job
from tests.unit.levels.files import HEIGHT, WIDTH, fault_of, job_for, save, texture


class TestPlacesOfImages:
    def test_a_link_inside_the_watched_directory_is_followed(self, level0: Path, output_dir: Path) -> None:
        link = level0.parent / "link.tif"
        link.symlink_to(level0)
        assert make_mipmaps(job_for(link, output_dir)).fault is None

    def test_a_link_out_of_the_watched_directory_is_refused(
        self, level0: Path, tmp_path: Path, output_dir: Path
    ) -> None:
        outside = save(tmp_path / "secret.tif", texture())
        (level0.parent / "link.tif").symlink_to(outside)
        (level0.parent / "up").symlink_to(tmp_path)
        for path in (level0.parent / "link.tif", level0.parent / "up" / "secret.tif"):
            fault = fault_of(job_for(path, output_dir, root=Container.of(level0.parent)))
            assert isinstance(fault, ImageFault)
            assert "lies outside" in str(fault)

    def test_a_directory_whose_name_begins_with_the_same_letters_is_outside(self, level0: Path, tmp_path: Path) -> None:
        sibling = tmp_path / "acquisition2"
        sibling.mkdir()
        with pytest.raises(ImageFault, match="lies outside"):
            inspect_image(save(sibling / "a.tif", texture()), Container.of(level0.parent))

    def test_a_watched_directory_that_is_a_link_contains_its_images(self, level0: Path, tmp_path: Path) -> None:
        root = tmp_path / "mounted"
        root.symlink_to(level0.parent)
        assert inspect_image(root / level0.name, Container.of(root)).bits == 8

    def test_a_directory_replaced_by_a_link_gives_no_levels(
        self, level0: Path, tmp_path: Path, output_dir: Path
    ) -> None:
        watched = tmp_path / "watched"
        image = watched / "section" / "a.tif"
        image.parent.mkdir(parents=True)
        shutil.copy(level0, image)
        shutil.copy(level0, level0.with_name("a.tif"))
        job = job_for(image, output_dir, root=Container.of(watched))
        assert make_mipmaps(job).fault is None
        shutil.rmtree(image.parent)
        image.parent.symlink_to(level0.parent)
        report = make_mipmaps(job)
        assert not report.made
        fault = report.fault.to_fault()
        assert isinstance(fault, ImageFault)
        assert "lies outside" in str(fault)

    @pytest.mark.parametrize("encoding", [PLAIN_TIFF, Encoding("png")])
    @pytest.mark.parametrize("part", ["1", "1/data", ""])
    def test_a_link_in_the_output_directory_is_not_followed(
        self, level0: Path, tmp_path: Path, part: str, encoding: Encoding
    ) -> None:
        output_dir, outside = tmp_path / "mipmaps", tmp_path / "outside"
        plan = MipmapPlan(output_dir, levels=1, encoding=encoding).contained(Containers())
        job = tile_job(Level0("t", level0, None, WIDTH, HEIGHT), plan)
        (path,) = (path for _, path in job.outputs)
        replaced = output_dir / (part if part != "1/data" else f"1/{level0.parts[1]}")
        target = outside / path.relative_to(replaced)
        target.parent.mkdir(parents=True)
        target.write_bytes(b"of another user")
        if replaced == output_dir:
            output_dir.rmdir()
        replaced.parent.mkdir(parents=True, exist_ok=True)
        replaced.symlink_to(outside)
        report = make_mipmaps(job)
        assert not report.made
        fault = report.fault.to_fault()
        assert isinstance(fault, StorageFault)
        assert "links below the configured directory are not followed" in str(fault)
        assert target.read_bytes() == b"of another user"
        assert [file.name for file in target.parent.iterdir()] == [target.name]

    def test_a_link_in_place_of_a_level_is_replaced_and_not_followed(self, level0: Path, tmp_path: Path) -> None:
        plan = MipmapPlan(tmp_path / "mipmaps", levels=1).contained(Containers())
        job = tile_job(Level0("t", level0, None, WIDTH, HEIGHT), plan)
        (path,) = (path for _, path in job.outputs)
        (tmp_path / "other.tif").write_bytes(b"of another user")
        path.parent.mkdir(parents=True)
        path.symlink_to(tmp_path / "other.tif")
        assert make_mipmaps(job).fault is None
        assert not path.is_symlink()
        assert (tmp_path / "other.tif").read_bytes() == b"of another user"

    def test_a_pipe_a_socket_a_directory_and_a_loop_of_links_are_refused(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "directory").mkdir()
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "socket"))
        for name in ("pipe", "directory", "loop", "socket"):
            with pytest.raises(ImageFault, match="not a regular file"):
                inspect_image(tmp_path / name)

    def test_no_file_stays_open_after_a_refusal(self, tmp_path: Path) -> None:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(5):
            with pytest.raises(ImageFault):
                inspect_image(tmp_path)
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    def test_a_deleted_image_is_missing_while_its_directory_has_others(self, level0: Path, output_dir: Path) -> None:
        fault = fault_of(job_for(level0.parent / "gone.tif", output_dir))
        assert isinstance(fault, ImagesMissing)
        with pytest.raises(FileNotFoundError):
            inspect_image(level0.parent / "gone.tif")

    @pytest.mark.parametrize("exists", [True, False])
    def test_a_missing_or_empty_image_directory_is_a_fault_that_may_pass(
        self, tmp_path: Path, output_dir: Path, exists: bool
    ) -> None:
        directory = tmp_path / "mount"
        if exists:
            directory.mkdir()
        fault = fault_of(job_for(directory / "a.tif", output_dir))
        assert isinstance(fault, StorageFault)
        assert fault.waiting_helps is Waiting.ALWAYS
