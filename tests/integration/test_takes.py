"""A region that is imaged again, and a stack that is copied to a mirror: each section is in its stack once."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from daemon.montages.states import MontageState
from handlers.acquisition.formats.sbemimage_log import LogFollower
from tests.integration.inprocess import MIPS, Bench, bench

DEADLINE_S = 120.0
"""Longest wait for a state: a busy machine takes half a minute for a section."""
COMPLETE, IGNORED, SUPERSEDED = MontageState.COMPLETE, MontageState.IGNORED, MontageState.SUPERSEDED
MULTISEM = {"format": "multisem", "pixel_size_nm": 8.0, "z": {"rule": "header"}}
SBEMIMAGE = {"format": "sbemimage", "z": {"rule": "header"}}


def image_at(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(1).integers(9, 240, (64, 64), np.uint8)).save(path)


def region(root: Path, name: str, day: str, beams: Sequence[int]) -> Path:
    """Write section 90 of MultiSEM as imaged on a day of May 2021; return its table."""
    directory = root / "acquisition" / f"H01_202105{day}_21-38-12" / name
    lines = []
    for beam in beams:
        image = f"090_000001_{beam:03d}_2021-05-{day}T2146499297643.png"
        image_at(directory / "000001" / image)
        lines.append(f"000001\\{image}\t{beam * 60}.5\t7.25\t0\r\n")
    table = directory / "full_image_coordinates.txt"
    table.write_text("".join(lines), newline="")
    return table


def stack(base: Path) -> Path:
    """Write a slice of SBEMimage; return the path of its section."""
    log = base / "meta" / "logs" / "metadata_2020-06-0210021236.txt"
    log.parent.mkdir(parents=True)
    session = {"grids": ["0000"], "pixel_sizes": [10.0], "rotation_angles": [0.0], "slice_thickness": 50}
    name = "tiles/g0000/t0000/stack_g0000_t0000_s00002.tif"
    image_at(base / name)
    tile = {"tileid": "0000.0000.00002", "slice_counter": 2, "filename": name, "timestamp": 1591084958}
    tile |= {"tile_width": 64, "tile_height": 64, "glob_x": 0, "glob_y": 0, "glob_z": 100}
    log.write_text(f"SESSION: {session}\r\nTILE: {tile}\r\nSLICE COMPLETE: {{'timestamp': 1}}\r\n", newline="")
    ((section, _),) = LogFollower().sections(str(log))
    return Path(section)


async def tiles(running: Bench, z: float) -> list[str]:
    return sorted(each.tile_id for each in await running.assembly.client.tile_bounds(MIPS, z))


@pytest.mark.parametrize("is_later_first", [False, True])
async def test_a_region_that_is_imaged_again_replaces_all_tiles_of_the_earlier_take(
    tmp_path: Path, is_later_first: bool
) -> None:
    async with bench(tmp_path, of_format=MULTISEM) as running:
        earlier = region(tmp_path, "012_S90R1", "25", (1, 2, 3))
        later = region(tmp_path, "003_S90R1", "26", (1, 2))
        first, second = (later, earlier) if is_later_first else (earlier, later)
        await running.notice(first)
        await running.reaches(first, COMPLETE, timeout_s=DEADLINE_S)
        await running.notice(second)
        await running.reaches(later, COMPLETE, timeout_s=DEADLINE_S)
        replaced = await running.reaches(earlier, IGNORED if is_later_first else SUPERSEDED, timeout_s=DEADLINE_S)
        assert await tiles(running, 90.0) == [f"090_000001_00{beam}_20210526_214649.90.0" for beam in (1, 2)]
        if is_later_first:
            assert f"{replaced.waiting_for}".startswith("imaged again: ")
        await running.notice(earlier)  # a scan after a restart finds it again
        assert await running.montage(earlier) == replaced


async def test_an_earlier_take_that_returns_does_not_replace_the_archived_later_take(tmp_path: Path) -> None:
    async with bench(tmp_path, of_format=MULTISEM) as running:
        later = region(tmp_path, "003_S90R1", "26", (1, 2))
        await running.notice(later)
        await running.reaches(later, COMPLETE, timeout_s=DEADLINE_S)
        later.unlink()
        earlier = region(tmp_path, "012_S90R1", "25", (1, 2, 3))
        await running.notice(earlier)
        replaced = await running.reaches(earlier, IGNORED, timeout_s=DEADLINE_S)
        assert replaced.waiting_for == f"imaged again: {later}"
        assert len(await tiles(running, 90.0)) == 2


async def test_other_regions_of_the_section_are_kept(tmp_path: Path) -> None:
    async with bench(tmp_path, of_format=MULTISEM) as running:
        for name, day, beam in (("012_S90R1", "25", 1), ("013_S90R2", "26", 2)):
            table = region(tmp_path, name, day, (beam,))
            await running.notice(table)
            await running.reaches(table, COMPLETE, timeout_s=DEADLINE_S)
        assert len(await tiles(running, 90.0)) == 2


async def test_a_copy_on_a_mirror_drive_is_ignored_until_the_original_is_removed(tmp_path: Path) -> None:
    async with bench(tmp_path, of_format=SBEMIMAGE) as running:
        original, copy = (stack(tmp_path / "acquisition" / drive / "stack") for drive in ("d", "z"))
        await running.notice(original)
        await running.reaches(original, COMPLETE, timeout_s=DEADLINE_S)
        await running.notice(copy)
        replaced = await running.reaches(copy, IGNORED, timeout_s=DEADLINE_S)
        assert replaced.waiting_for == f"a copy on a mirror drive: {original}"
        assert await tiles(running, 2.0) == ["0000.0000.00002"]
        (original.parent).rename(tmp_path / "elsewhere.txt")
        await running.reaches(copy, COMPLETE, timeout_s=DEADLINE_S)
        assert await tiles(running, 2.0) == ["0000.0000.00002"]
