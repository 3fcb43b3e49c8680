"""Quality numbers of the daemon as a process: complete or absent, whenever it is killed."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handlers.acquisition.formats.pytemca_parse import parse_metafile
from handlers.quality.packing import unpack
from tests.acceptance.rig import Rig, fetch, wait_for
from tests.unit.test_stage_error import MARGIN, tissue

HAS_NUMBERS = ("mipmapped", "applied", "complete")


def numbers_of(rig: Rig, metafile: Path) -> dict[str, Any]:
    row = rig.montage_of(metafile)
    assert row is not None
    return fetch(f"{rig.url}/api/montages/{row['id']}/tiles")


def test_the_numbers_of_a_complete_section_are_those_of_its_images(running_rig: Rig, write) -> None:
    section = write(size=(256, 256))
    running_rig.wait_until("complete", section.metafile)
    found = numbers_of(running_rig, section.metafile)
    assert len(found["tiles"]) == 4
    for place, tile_id in enumerate(found["tiles"]):
        image = next(image for image in section.images if tile_id.startswith(image.stem))
        pixels = np.asarray(Image.open(image))
        row = {name: column[place] for name, column in found["numbers"].items()}
        assert (row["darkest"], row["brightest"]) == (pixels.min(), pixels.max())
        assert row["sharpness"] > 0
        assert row["focus_score"] is not None
    assert found["levels"] == 6
    assert len(set(found["level_digests"])) == 4
    assert None not in found["level_digests"]


@pytest.mark.slow
def test_numbers_are_complete_or_absent_whenever_the_daemon_is_killed(rig: Rig, write) -> None:
    sections = [write(1050 + number, tiles=9, size=(512, 512)) for number in range(4)]
    rig.start_standin()
    for kill in range(3):
        rig.start()
        assert rig.daemon is not None
        wait_for(lambda least=kill + 1: made(rig) >= least, what="montages with numbers")
        time.sleep(0.05 * kill)  # so that the kills come at different moments of a step
        rig.daemon.kill()
        require_whole(rig)
    rig.start()
    rig.wait_until("complete", *(section.metafile for section in sections))
    assert made(rig) == 4
    require_whole(rig)


def made(rig: Rig) -> int:
    """Return the number of montages that have numbers."""
    with closing(sqlite3.connect(rig.root / "daemon.sqlite")) as connection:
        return int(connection.execute("SELECT count(*) FROM quality").fetchone()[0])


def require_whole(rig: Rig) -> None:
    with closing(sqlite3.connect(rig.root / "daemon.sqlite")) as connection:
        rows = connection.execute("SELECT state, numbers FROM montages LEFT JOIN quality ON id = montage_id").fetchall()
    for state, numbers in rows:
        assert (numbers is not None) == (state in HAS_NUMBERS), state
        if numbers is not None:
            quality = unpack(numbers)
            assert len(quality.tiles.tile_ids) == len(quality.level_digests) == 9
            assert not np.isnan(quality.tiles.sharpness).any()


@pytest.mark.slow
def test_the_overlaps_reveal_a_tile_that_the_stage_misplaced(rig: Rig, write) -> None:
    rig.settings |= {"watch.qc.measure_stage_error": True}
    section = write(tiles=9, size=(512, 512), overlap=0.2)
    tiles = parse_metafile(section.metafile.read_bytes(), "metafile").tiles
    field = tissue(1, 2000, 3000)
    left, top = (min(tile.position_px[axis] for tile in tiles) for axis in (0, 1))
    for place, tile in enumerate(tiles):
        x, y = round(tile.position_px[0] - left) + MARGIN, round(tile.position_px[1] - top) + MARGIN
        x, y = (x + 24, y - 16) if place == 4 else (x, y)
        part = np.clip(150 + 35 * field[y : y + 512, x : x + 512], 0, 255)
        Image.fromarray(part.astype(np.uint8)).save(section.metafile.parent / tile.img_path)
    rig.start_standin()
    rig.start()
    rig.wait_until("complete", section.metafile)
    numbers = numbers_of(rig, section.metafile)["numbers"]
    assert (numbers["stage_x"][4], numbers["stage_y"][4]) == pytest.approx((24, -16), abs=1)
    for name in ("stage_x", "stage_y"):
        assert max(abs(numbers[name][place]) for place in range(9) if place != 4) < 2
    grid = set(zip(numbers["raster_col"], numbers["raster_row"], strict=True))
    for side, dcol, drow in (("left", -1, 0), ("top", 0, -1)):
        pairs = sum((col + dcol, row + drow) in grid for col, row in grid)
        assert sum(value is not None for value in numbers[f"{side}_stage_error"]) == pairs
