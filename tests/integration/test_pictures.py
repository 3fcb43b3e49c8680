"""Mosaics and heatmaps of the daemon: their content, the cache, and refusals."""

import io
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from aiohttp.test_utils import TestClient, TestServer
from PIL import Image

from daemon.montages.states import MontageState
from daemon.pipeline.health import Facts
from daemon.pipeline.pictures import Pictures
from daemon.system.bounded_directory import BoundedDirectory
from daemon.web.routes import make_app
from handlers.errors import WorkerFault
from handlers.picture import STRIPES
from handlers.quality.colours import SEQUENTIAL
from handlers.quality.heatmap_numbers import Number
from handlers.quality.packing import unpack
from handlers.uris import mipmap_path
from handlers.workers.opening import open_executor
from tests.integration.inprocess import Bench, bench

COMPLETE = MontageState.COMPLETE


@asynccontextmanager
async def client_of(running: Bench) -> AsyncIterator["TestClient[Any, Any]"]:
    async def facts() -> Facts:
        return Facts((), (), None, None, None, 7200.0)

    assembly = running.assembly
    pictures = Pictures(assembly.settings, assembly.journal, lambda: assembly.pool)
    app = make_app(assembly.journal, assembly.metrics, facts, pictures=pictures)
    async with TestClient(TestServer(app)) as client:
        yield client


async def picture_at(client: "TestClient[Any, Any]", path: str) -> npt.NDArray[np.uint8]:
    answer = await client.get(path)
    assert answer.status == 200, await answer.text()
    assert answer.content_type == "image/png"
    with Image.open(io.BytesIO(await answer.read())) as picture:
        return np.asarray(picture.convert("RGB"))


async def test_the_mosaic_shows_each_tile_at_its_position_and_stripes_in_place_of_missing_levels(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path, qc={"min_focus": "off"}) as running, client_of(running) as client:
        metafile = running.write(tiles=2, size=(1280, 1024))
        await running.notice(metafile)
        montage = await running.reaches(metafile, COMPLETE)
        # Two tiles beside each other: 2,470 pixels, more than 2,000, so that level 1 is drawn.
        mosaic = await picture_at(client, f"/api/montages/{montage.id}/mosaic.png")
        assert mosaic.shape[:2] == (512, 1235)
        tiles = sorted(metafile.parent.glob("*.tif"))
        levels = [mipmap_path(tmp_path / "mipmaps", 1, tile, "tif") for tile in tiles]
        with Image.open(levels[0]) as left, Image.open(levels[1]) as right:
            assert (mosaic[:, :500, 0] == np.asarray(left)[:, :500]).all()
            # 2,560 pixels less the overlap of 89.6, halved: its left edge is at 595, within the error of the stage.
            edges = [at for at in (594, 595, 596) if (mosaic[:, at : at + 639, 0] == np.asarray(right)[:, :639]).all()]
            assert len(edges) == 1

        levels[1].unlink()
        again = await picture_at(client, f"/api/montages/{montage.id}/mosaic.png")
        assert (again == mosaic).all()  # kept
        for kept in (tmp_path / "pictures").iterdir():
            kept.unlink()
        striped = await picture_at(client, f"/api/montages/{montage.id}/mosaic.png")
        assert set(np.unique(striped[:, -600:]).tolist()) == set(STRIPES)
        assert (striped[:, :500] == mosaic[:, :500]).all()


async def test_a_small_section_is_drawn_from_its_levels_and_not_from_level_0(tmp_path: Path) -> None:
    async with bench(tmp_path) as running, client_of(running) as client:
        metafile = running.write(tiles=1)
        await running.notice(metafile)
        montage = await running.reaches(metafile, COMPLETE)
        (level,) = (tmp_path / "mipmaps/1").rglob("*.tif")
        drawn = await picture_at(client, f"/api/montages/{montage.id}/mosaic.png")
        with Image.open(level) as expected:
            assert (drawn[:, :, 0] == np.asarray(expected)).all()
        level.unlink()
        for kept in (tmp_path / "pictures").iterdir():
            kept.unlink()
        striped = await picture_at(client, f"/api/montages/{montage.id}/mosaic.png")
        assert set(np.unique(striped).tolist()) == set(STRIPES)  # level 0 is there, and is not shown


async def test_heatmaps_show_the_journals_numbers_and_share_a_scale_where_sections_are_compared(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as running, client_of(running) as client:
        first, second = running.write(1050), running.write(1051, tiles=3)
        for metafile in (first, second):
            await running.notice(metafile)
        one, two = await running.reaches(first, COMPLETE), await running.reaches(second, COMPLETE)
        for number in Number:
            picture = await picture_at(client, f"/api/montages/{one.id}/heatmap/{number}.png")
            assert picture.shape[1] > 128
        block = await running.assembly.journal.quality_numbers(one.id)
        assert block is not None
        scores = unpack(block).tiles.focus_score
        low, high = min(16.0, float(scores.min())), float(scores.max())
        alone = await picture_at(client, f"/api/montages/{one.id}/heatmap/focus.png")
        for column, score in enumerate(scores):
            index = round((float(score) - low) / (high - low) * 255)
            assert (alone[32 + 20, 12 + 64 * column + 20] == SEQUENTIAL[index]).all()
        ours = f"/api/montages/{one.id}/heatmap/focus.png?compare={two.id}"
        theirs = f"/api/montages/{two.id}/heatmap/focus.png?compare={one.id}"
        bars = [(await picture_at(client, path))[-90:, 12:340] for path in (ours, theirs)]
        assert (bars[0] == bars[1]).all()  # colours, values at both ends, limit


async def test_a_picture_that_cannot_be_drawn_is_refused_with_the_reason(tmp_path: Path) -> None:
    async with bench(tmp_path) as running, client_of(running) as client:
        metafile = running.write()
        await running.notice(metafile)
        montage = await running.reaches(metafile, COMPLETE)
        base = f"/api/montages/{montage.id}"
        for path, status, problem in [
            ("/api/montages/99/mosaic.png", 404, "no such montage"),
            ("/api/montages/x/mosaic.png", 404, "no such montage"),
            ("/api/montages/99/heatmap/focus.png", 404, "no such montage"),
            (f"{base}/heatmap/beauty.png", 404, "focus, std_dev"),
            (f"{base}/heatmap/focus.png?compare=a", 400, "compare: must be whole numbers"),
            (f"{base}/heatmap/focus.png?compare={','.join(['1'] * 101)}", 400, "at most 100"),
        ]:
            answer = await client.get(path)
            assert (answer.status, problem in (await answer.json())["error"]) == (status, True), path
        metafile.rename(tmp_path / "elsewhere.json")
        answer = await client.get(f"{base}/mosaic.png")
        assert (answer.status, "was moved" in (await answer.json())["error"]) == (503, True)
        await running.assembly.journal.write(lambda connection: connection.execute("DELETE FROM quality"))
        answer = await client.get(f"{base}/heatmap/focus.png")
        assert (answer.status, "no quality numbers" in (await answer.json())["error"]) == (404, True)


# --- the workers


def niceness(_: object) -> tuple[int, int, bool]:
    """Return the priorities of this thread and of the worker's main thread, and whether they are the same thread."""
    return os.nice(0), os.getpriority(os.PRIO_PROCESS, os.getpid()), threading.get_native_id() == os.getpid()


def die(_: object) -> None:
    os._exit(9)


def refuse(job: str) -> None:
    raise ValueError(job)


@pytest.mark.slow
async def test_a_polite_job_has_the_lowest_priority_and_does_not_change_that_of_the_worker() -> None:
    with open_executor("processes", 1, job_timeout_s=60) as pool:
        of_job, of_worker, is_same = await pool.run_politely("picture", niceness, "job")
        assert (of_job, is_same) == (19, False)
        assert of_worker < 19
        assert (await pool.run_politely("picture", niceness, "job"))[1] == of_worker
        with pytest.raises(ValueError, match="job"):
            await pool.run_politely("picture", refuse, "job")
        with pytest.raises(WorkerFault, match="picture: a worker process died"):
            await pool.run_politely("picture", die, "job")
        assert (await pool.run_politely("picture", niceness, "job"))[0] == 19


# --- the directory


def test_the_directory_of_pictures_deletes_the_least_recently_requested_pictures(tmp_path: Path) -> None:
    kept = BoundedDirectory(tmp_path / "pictures", 250)
    keys = [digit * 64 for digit in "abc"]
    assert kept.get(keys[0]) is None
    for age, key in enumerate(keys[:2]):
        kept.put(key, b"x" * 100)
        os.utime(tmp_path / "pictures" / f"{key}.png", (1000 + age, 1000 + age))
    other = tmp_path / "pictures" / "notes.txt"
    other.write_bytes(b"y" * 1000)
    os.utime(other, (1, 1))
    assert kept.get(keys[0]) == b"x" * 100  # so it is newer than the second
    kept.put(keys[2], b"z" * 100)
    assert [kept.get(key) is not None for key in keys] == [True, False, True]
    assert other.exists()
    kept.put(keys[1], b"w" * 1000)  # larger than the bound: it alone is kept
    assert [kept.get(key) is not None for key in keys] == [False, True, False]
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == sorted([f"{keys[1]}.png", "notes.txt"])
