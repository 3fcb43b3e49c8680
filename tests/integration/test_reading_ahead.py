"""Workers read ahead the images of the next jobs, and their own images with concurrent requests."""

import asyncio
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handlers.container import Container
from handlers.generate_mipmaps import make_all
from handlers.images.read_ahead import UpcomingImage, announce_image, read_ahead
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.make import make_mipmaps
from handlers.workers.opening import open_executor
from tests.acceptance.passthrough import WHY_NOT, Mount
from tests.page_cache import cached_share, drop, until_read_ahead
from tests.waiting import wait_for

SIDE = 2048


def job_of(image: Path, output: Path) -> MipmapJob:
    return MipmapJob(image.stem, image, ((1, output / image.name),), SIDE, SIDE)


def write_image(path: Path, **options: str) -> Path:
    Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).save(path, **options)
    drop(path)
    if cached_share(path):
        pytest.skip("this file system keeps its files in memory")
    return path


async def test_a_worker_reads_ahead_the_image_of_the_next_job(tmp_path):
    first, second = (write_image(tmp_path / name) for name in ("a.tif", "b.tif"))
    stop = asyncio.Event()

    async def record(reports):
        assert not [report.fault for report in reports if report.fault]
        stop.set()  # so the second job does not begin

    jobs = [job_of(image, tmp_path / "mipmaps") for image in (first, second)]
    with open_executor("processes", 1) as pool:
        for _ in until_read_ahead(second):
            stop.clear()
            await make_all(pool, jobs, record, slots=asyncio.Semaphore(1), stop=stop)
            assert not (tmp_path / "mipmaps" / second.name).exists()
        assert pool.read_ahead.take(pool.read_ahead.max_bytes), "the bytes of the stopped jobs are free again"


async def test_an_image_that_cannot_be_opened_does_not_prevent_reading_another_one_ahead(tmp_path):
    image = write_image(tmp_path / "a.tif")
    os.mkfifo(tmp_path / "pipe.tif")
    (tmp_path / "link.tif").symlink_to("/etc/hostname")
    bad = [tmp_path / name for name in ("absent.tif", "pipe.tif", "link.tif")] * 2  # more than there are threads
    images = [UpcomingImage(path, Container.of(tmp_path), 8 << 20) for path in (*bad, image)]
    with open_executor("processes", 1) as pool:
        for _ in until_read_ahead(image):
            pool.executor.submit(read_ahead, images).result(30)


@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
def test_an_image_on_a_slow_server_is_read_with_concurrent_requests(tmp_path):
    (tmp_path / "source").mkdir()
    write_image(tmp_path / "source" / "a.tif")
    mount = Mount(tmp_path / "source", tmp_path / "mount", delay_s=0.1)
    image = tmp_path / "mount" / "a.tif"

    def is_read_with_concurrent_requests() -> bool:
        drop(image)
        assert make_mipmaps(job_of(image, tmp_path / "mipmaps")).fault is None
        return mount.max_reads_at_once() >= 8

    try:
        # The read-ahead of the kernel alone causes two. It ignores the announcement while it has no free memory.
        wait_for(is_read_with_concurrent_requests, "eight requests at once")
    finally:
        mount.close()


@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}], ids=["streamed", "decoded"])
def test_an_image_that_was_read_ahead_costs_two_requests_to_the_server(tmp_path, options):
    """Once to open it, and once to check that it is still the same file."""
    (tmp_path / "source").mkdir()
    write_image(tmp_path / "source" / "a.tif", **options)
    mount = Mount(tmp_path / "source", tmp_path / "mount", delay_s=0.001, cached_s=600)
    try:
        image = tmp_path / "mount" / "a.tif"
        for _ in until_read_ahead(image):
            announce_image(UpcomingImage(image, None, 8 << 20))
        before = mount.lookups()
        assert make_mipmaps(job_of(image, tmp_path / "mipmaps")).fault is None
        assert mount.lookups() - before == 2
    finally:
        mount.close()
