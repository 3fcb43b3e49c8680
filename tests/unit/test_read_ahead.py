"""Images that are read ahead: each once, within a limit of bytes, and only below the watched directory."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from handlers.container import Container
from handlers.images.mrc_header import StackSection
from handlers.images.read_ahead import UpcomingImage, announce, announce_image
from handlers.images.render_source import RenderSource
from handlers.mipmaps.job import MipmapJob
from handlers.place import parse_object
from handlers.regular_file import NotContained
from handlers.workers.upcoming import (
    BYTES_PER_WORKER,
    MAX_EXTRA_BYTES,
    ReadAheadLimit,
    UpcomingImages,
    max_read_ahead,
)
from tests.page_cache import cached_share, drop, until_read_ahead

IMAGE_BYTES = 2 * 100 * 100 + MAX_EXTRA_BYTES
"""Bytes that are reserved for one image of `jobs`."""


def jobs(count: int) -> list[MipmapJob]:
    return [MipmapJob(f"t{n}", Path(f"/data/{n}.tif"), (), 100, 100) for n in range(count)]


def announced(job: MipmapJob) -> list[str]:
    return [image.path.stem for image in job.upcoming]


def test_each_image_is_announced_once_by_an_earlier_job_as_far_as_the_limit_allows():
    limit = ReadAheadLimit(2 * IMAGE_BYTES)
    upcoming = UpcomingImages(jobs(5), limit)
    assert announced(upcoming.before(0)) == ["1", "2"]
    assert announced(upcoming.before(1)) == []  # neither of the two has been used
    upcoming.done(0)  # its own image was not announced
    assert announced(upcoming.before(2)) == []
    upcoming.done(1)
    upcoming.done(2)
    assert announced(upcoming.before(3)) == ["4"]  # 3 begins now
    assert announced(upcoming.before(4)) == []


def test_an_image_that_an_earlier_job_announced_is_not_announced_again():
    upcoming = UpcomingImages(jobs(4), ReadAheadLimit(99 * IMAGE_BYTES))
    assert announced(upcoming.before(0)) == ["1", "2", "3"]
    assert [announced(upcoming.before(number)) for number in (1, 2, 3)] == [[], [], []]


def test_the_first_jobs_share_the_images():
    """Otherwise one worker would open all images, one after the other."""
    upcoming = UpcomingImages(jobs(11), ReadAheadLimit(99 * IMAGE_BYTES))
    assert announced(upcoming.before(0)) == ["1", "2", "3", "4"]
    assert announced(upcoming.before(1)) == ["5", "6", "7", "8"]
    assert announced(upcoming.before(2)) == ["9", "10"]


def test_a_job_that_ends_twice_returns_its_bytes_once():
    limit = ReadAheadLimit(IMAGE_BYTES)
    upcoming = UpcomingImages(jobs(2), limit)
    upcoming.before(0)
    for _ in range(2):
        upcoming.done(1)
    assert limit.take(IMAGE_BYTES)
    assert not limit.take(1)


def test_users_of_a_pool_share_the_limit_and_a_stopped_one_returns_its_bytes():
    limit = ReadAheadLimit(3 * IMAGE_BYTES)
    first, second = UpcomingImages(jobs(9), limit), UpcomingImages(jobs(9), limit)
    assert announced(first.before(0)) == ["1", "2", "3"]
    assert announced(second.before(0)) == []
    first.end()
    assert announced(second.before(1)) == ["2", "3", "4"]


def test_an_image_above_the_whole_limit_is_not_announced():
    upcoming = UpcomingImages(jobs(3), ReadAheadLimit(IMAGE_BYTES - 1))
    assert [announced(upcoming.before(number)) for number in range(3)] == [[], [], []]


def test_an_image_is_announced_with_the_directory_that_must_contain_it_and_the_bytes_of_its_pixels(tmp_path):
    root = Container.of(tmp_path)
    first, second = jobs(2)
    job = UpcomingImages([first, replace(second, root=root)], ReadAheadLimit(IMAGE_BYTES)).before(0)
    assert job.upcoming == (UpcomingImage(second.level0, root, IMAGE_BYTES),)


def test_only_files_are_announced():
    stack = StackSection(Path("/data/a.mrc"), 0)
    mixed = [
        *jobs(1),
        MipmapJob("object", parse_object("s3://bucket/a.tif"), (), 100, 100),
        MipmapJob("section", Path("/data/a.tif"), (), 100, 100, stack=stack),
        MipmapJob("served", Path("/data/a.tif"), (), 100, 100, source=RenderSource("http://render/a", 8)),
        *jobs(1),
    ]
    assert announced(UpcomingImages(mixed, ReadAheadLimit(9 * IMAGE_BYTES)).before(0)) == ["0"]


def test_the_limit_grows_with_the_workers_up_to_a_share_of_the_memory():
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert max_read_ahead(1) == min(BYTES_PER_WORKER, memory // 8)
    assert max_read_ahead(10_000) == memory // 8


@pytest.fixture
def cold(tmp_path: Path) -> Path:
    """A file of 4 MiB on a disk that is not in the page cache."""
    path = tmp_path / "cold.tif"
    path.write_bytes(os.urandom(4 << 20))
    drop(path)
    if cached_share(path):
        pytest.skip("this file system keeps its files in memory")
    return path


def test_an_announced_file_is_read_into_the_cache_up_to_the_limit(cold):
    descriptor = os.open(cold, os.O_RDONLY)

    try:
        for _ in until_read_ahead(cold, 3 << 20):
            announce(descriptor, 3 << 20)
    finally:
        os.close(descriptor)
    assert cached_share(cold, 3 << 20) == 0


def test_a_file_outside_of_the_directory_is_not_read_ahead(cold, tmp_path):
    (inside := tmp_path / "inside").mkdir()
    (link := inside / "link.tif").symlink_to(cold)
    with pytest.raises(NotContained):
        announce_image(UpcomingImage(link, Container.of(inside), 8 << 20))
    assert cached_share(cold) == 0
