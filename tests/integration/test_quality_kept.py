"""Quality numbers in the journal: written with MIPMAPPED, whole or not at all."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from daemon.journal.journal import Journal
from daemon.montages.states import Event, MontageState, Step
from handlers.mipmaps.measure import digest_of_levels
from handlers.quality.packing import Quality, unpack
from tests.integration.inprocess import Bench, bench
from tests.integration.test_images_read import content, ingested, tile_ids

MADE = (MontageState.APPLIED, MontageState.COMPLETE)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench(tmp_path) as opened:
        yield opened


async def quality_of(running: Bench, metafile: Path) -> tuple[int, Quality]:
    montage = await running.reaches(metafile, *MADE)
    numbers = await running.assembly.journal.quality_numbers(montage.id)
    assert numbers is not None
    return montage.id, unpack(numbers)


async def test_a_section_has_quality_numbers_from_its_metafile_and_from_its_images(running: Bench) -> None:
    metafile = running.write(tiles=4)
    await running.notice(metafile)
    _, quality = await quality_of(running, metafile)
    tiles = quality.tiles
    assert len(tiles.tile_ids) == 4
    assert quality.section.overlap is not None
    assert not np.isnan(tiles.focus_score).any()
    for row, tile_id in enumerate(tiles.tile_ids):
        image = next(metafile.parent.glob(f"{tile_id.removesuffix('.1050.0')}.tif"))
        pixels = np.asarray(Image.open(image))
        assert (tiles.darkest[row], tiles.brightest[row]) == (pixels.min(), pixels.max())
        assert tiles.saturated_share[row] == pytest.approx((pixels == 255).mean(), abs=1e-5)
    assert quality.levels == 1
    assert quality.level_digests.keys() == set(tiles.tile_ids)
    assert len(set(quality.level_digests.values())) == 4
    assert np.isnan(tiles.repeat_of).all()


async def test_a_repeated_frame_names_the_first_frame(running: Bench) -> None:
    metafile = running.write(tiles=4)
    images = sorted(metafile.parent.glob("*_0_*.tif"))
    images[2].write_bytes(images[1].read_bytes())
    await running.notice(metafile)
    _, quality = await quality_of(running, metafile)
    names = [tile_id.removesuffix(".1050.0") for tile_id in quality.tiles.tile_ids]
    rows = [names.index(image.stem) for image in images]
    assert np.flatnonzero(~np.isnan(quality.tiles.repeat_of)).tolist() == [rows[2]]
    assert quality.tiles.repeat_of[rows[2]] == rows[1]


async def test_numbers_of_unchanged_images_stay_when_others_change(running: Bench) -> None:
    metafile = running.write(tiles=3)
    await running.notice(metafile)
    montage_id, before = await quality_of(running, metafile)
    await running.reaches(metafile, MontageState.COMPLETE)
    changed = before.tiles.tile_ids[1]
    image = metafile.parent / f"{changed.removesuffix('.1050.0')}.tif"
    Image.new("L", (64, 64), 9).save(image)
    journal = running.assembly.journal
    montage = await journal.change_images(montage_id, {changed: image.name})
    assert montage.state is MontageState.INGESTED
    assert await journal.quality_numbers(montage_id) is None
    await running.assembly.pipeline.enqueue(montage)
    _, after = await quality_of(running, metafile)
    for name, column in before.tiles.columns.items():
        np.testing.assert_array_equal(np.delete(after.tiles.columns[name], 1), np.delete(column, 1))
    assert (after.tiles.darkest[1], after.tiles.brightest[1]) == (9, 9)
    same = set(before.tiles.tile_ids) - {changed}
    assert {tile: after.level_digests[tile] for tile in same} == {tile: before.level_digests[tile] for tile in same}
    assert after.level_digests[changed] != before.level_digests[changed]


async def test_a_replay_measures_again_although_all_levels_are_kept(running: Bench) -> None:
    metafile = running.write(tiles=2)
    await running.notice(metafile)
    montage_id, before = await quality_of(running, metafile)
    await running.reaches(metafile, MontageState.COMPLETE)
    montage = await running.assembly.journal.replay(montage_id, Step.MIPMAPS)
    assert montage is not None
    assert await running.assembly.journal.quality_numbers(montage_id) is None
    await running.assembly.pipeline.enqueue(montage)
    _, after = await quality_of(running, metafile)
    assert after.level_digests == before.level_digests
    np.testing.assert_array_equal(after.tiles.darkest, before.tiles.darkest)


async def test_a_superseded_montage_has_no_numbers(tmp_path: Path) -> None:
    async with Journal(tmp_path / "journal.sqlite") as journal:
        montage_id = await ingested(journal)
        await journal.record_tiles(montage_id, {tile_ids(3)[0]: content(0)}, {tile_ids(3)[0]: b"numbers"})
        assert (await journal.made_tiles(montage_id)).rows[tile_ids(3)[0]].measured == b"numbers"
        await journal.record(montage_id, Event.MIPMAPPED, quality_numbers=b"block")
        assert await journal.quality_numbers(montage_id) == b"block"
        assert (await journal.made_tiles(montage_id)).rows == {}
        await journal.record(montage_id, Event.SUPERSEDED)
        assert (await journal.made_tiles(montage_id)).former is None


# --- kill -9

WRITER = """
import asyncio, itertools, sys
from pathlib import Path
from daemon.journal.journal import Journal
from daemon.montages.records import Inspection, Settled
from daemon.montages.sighting import FoundBy, Sighting
from daemon.montages.states import Event
from handlers.identity import FileIdentity

async def main():
    async with Journal(Path(sys.argv[1])) as journal:
        for number in itertools.count(int(sys.argv[2])):
            identity = FileIdentity(100, number, number, number)
            path = Path(f"/data/_metadata_{number}_.json")
            montage = await journal.notice(Sighting("w", path, identity, FoundBy.SCAN))
            tiles = tuple(f"{number}.{tile}" for tile in range(20))
            settled = Settled(str(number), 1.0, "em/v1/a", "em/v1/a", tiles, ())
            await journal.settle(Inspection(montage, identity, identity, str(number)), settled)
            await journal.record(montage, Event.INGESTED)
            for tile in tiles:
                await journal.record_tiles(montage, {tile: None}, {tile: bytes(80)})
            await journal.record(montage, Event.MIPMAPPED, quality_numbers=bytes([number % 256]) * 100_000)
            print(number, flush=True)

asyncio.run(main())
"""


def write_until_killed(path: Path, first: int, montages: int) -> None:
    """Write montages to a journal; kill the writer while it writes the next one."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(first)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        for _ in range(montages):
            writer.stdout.readline()
        writer.kill()


@pytest.mark.slow
async def test_numbers_are_complete_or_missing_after_kill_9(tmp_path: Path) -> None:
    path, chance = tmp_path / "journal.sqlite", np.random.default_rng(11)
    for run in range(3):
        await asyncio.to_thread(write_until_killed, path, run * 10_000, int(chance.integers(1, 6)))
        async with Journal(path) as journal:
            montages = await journal.montages(limit=10_000)
            for montage in montages:
                numbers, rows = await journal.quality_numbers(montage.id), (await journal.made_tiles(montage.id)).rows
                if montage.state is MontageState.MIPMAPPED:
                    assert (numbers, rows) == (bytes([int(montage.metafile.name.split("_")[2]) % 256]) * 100_000, {})
                else:
                    assert numbers is None
                    assert all(row.measured == bytes(80) for row in rows.values())
    assert sum(montage.state is MontageState.MIPMAPPED for montage in montages) >= 3


def test_the_digest_of_no_level_differs_from_that_of_one_level() -> None:
    assert digest_of_levels({}) != digest_of_levels({1: bytes(16)})
