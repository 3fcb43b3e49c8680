"""Stage error: the shifts of neighbours are found in their overlaps, or unknown if the overlap does not show them."""

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy import ndimage

from handlers.acquisition.acquisition import Tile
from handlers.images.pixels import Grey
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.make import make_mipmaps
from handlers.mipmaps.measure import Measured
from handlers.mipmaps.overlap import Neighbour, Overlap, Side, compare_with, displacement
from handlers.mipmaps.plan import Level0, MipmapPlan
from handlers.quality.neighbours import displacements, indices_of, neighbours_of, stage_columns
from handlers.workers.opening import open_executor
from tests.reduction import reduce_levels

SIDE, OVERLAP = 640, 0.2
STEP = round(SIDE * (1 - OVERLAP))
MARGIN = 100
Field = npt.NDArray[np.float64]


def tissue(seed: int, height: int = 4 * SIDE, width: int = 4 * SIDE) -> Field:
    """Return an image of membranes: dark lines where smooth noise crosses 0, and a fine texture."""
    generator = np.random.default_rng(seed)
    coarse, fine = (ndimage.gaussian_filter(generator.normal(size=(height // 2, width // 2)), size) for size in (9, 3))
    lines = -1.5 * np.exp(-((coarse / coarse.std() * 4) ** 2)) + 0.5 * fine / fine.std()
    return np.asarray(ndimage.zoom(lines, 2, order=1), np.float64)


@pytest.fixture(scope="module")
def field() -> Field:
    return tissue(1)


def frame(field: Field, x: float, y: float, *, depth: Any = np.uint8, noise: float = 5.0, seed: int = 0) -> Grey:
    """Return level 3 of a camera's image at x, y, which may be fractions, with shading and noise."""
    whole_x, whole_y = math.floor(x), math.floor(y)
    part = field[MARGIN + whole_y - 2 : MARGIN + whole_y + SIDE + 3, MARGIN + whole_x - 2 : MARGIN + whole_x + SIDE + 3]
    seen = ndimage.shift(part, (whole_y - y, whole_x - x), order=3, mode="nearest")[2 : 2 + SIDE, 2 : 2 + SIDE]
    rows, columns = np.mgrid[-0.5 : 0.5 : SIDE * 1j, -0.5 : 0.5 : SIDE * 1j]
    grey = (150 + 35 * seen + np.random.default_rng(seed).normal(0, noise, seen.shape)) * (
        1 - (rows**2 + columns**2) / 3
    )
    scale = 1 if depth == np.uint8 else 257
    image: Grey = np.clip(np.rint(grey * scale), 0, np.iinfo(depth).max).astype(depth)
    return dict(reduce_levels(image, [3]))[3]


def found(field: Field, shift: tuple[float, float], to: tuple[int, int], **options: Any) -> tuple[float, float, float]:
    """Return the shift in x and y that is found between two images, and its error."""
    first, second = frame(field, 0, 0, **options, seed=1), frame(field, to[0] + shift[0], to[1] + shift[1], **options)
    seen = displacement(first, second, to[0] / 8, to[1] / 8)
    assert seen is not None
    return seen[0] * 8 - to[0], seen[1] * 8 - to[1], seen[2]


SHIFTS = [(0.0, 0.0), (0.4, 0.7), (-17.3, 22.6), (40.0, -35.5)]


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("to", [(STEP, 0), (0, STEP)], ids=["right", "below"])
def test_shifts_are_found_within_a_pixel(field: Field, shift: tuple[float, float], to: tuple[int, int]) -> None:
    x, y, error = found(field, shift, to)
    assert (x, y) == pytest.approx(shift, abs=1)
    assert error < 0.6


@pytest.mark.parametrize("shift", SHIFTS)
def test_shifts_are_found_in_16_bit_images(field: Field, shift: tuple[float, float]) -> None:
    assert found(field, shift, (STEP, 0), depth=np.uint16)[:2] == pytest.approx(shift, abs=1)


@pytest.mark.parametrize("shift", SHIFTS)
def test_shifts_are_found_under_noise(field: Field, shift: tuple[float, float]) -> None:
    x, y, error = found(field, shift, (0, STEP), noise=30)
    assert (x, y) == pytest.approx(shift, abs=1)
    assert error > found(field, shift, (0, STEP))[2]


@pytest.mark.parametrize("seed", range(3))
def test_the_shift_between_images_of_different_tissue_is_unknown(field: Field, seed: int) -> None:
    first, second = frame(field, 0, 0), frame(tissue(100 + seed, SIDE + 2 * MARGIN, SIDE + 2 * MARGIN), 0, 0)
    assert displacement(first, second, STEP / 8, 0) is None


@pytest.mark.parametrize("noise", [0.0, 5.0])
def test_the_shift_is_unknown_if_the_overlap_shows_no_tissue(noise: float) -> None:
    resin = np.zeros((2 * SIDE + 2 * MARGIN, 2 * SIDE + 2 * MARGIN))
    first, second = frame(resin, 0, 0, noise=noise, seed=1), frame(resin, STEP, 0, noise=noise, seed=2)
    assert displacement(first, second, STEP / 8, 0) is None


@pytest.mark.parametrize("x", [SIDE / 8, SIDE / 8 - 7, 10_000.0, -10_000.0])
def test_the_shift_is_unknown_if_images_hardly_overlap(field: Field, x: float) -> None:
    assert displacement(frame(field, 0, 0), frame(field, STEP, 0), x, 0.0) is None


# --- in the job of a tile


def write_pair(tmp_path: Path, field: Field, shift: tuple[int, int]) -> tuple[MipmapJob, MipmapJob]:
    jobs = []
    for name, x, y in (("a", 0, 0), ("b", STEP + shift[0], shift[1])):
        part = field[MARGIN + y : MARGIN + y + SIDE, MARGIN + x : MARGIN + x + SIDE]
        Image.fromarray(np.clip(150 + 35 * part, 0, 255).astype(np.uint8)).save(tmp_path / f"{name}.tif")
        outputs = tuple((level, tmp_path / f"{level}" / f"{name}.tif") for level in range(1, 5))
        side, other, sign = (Side.RIGHT, "b", 1) if name == "a" else (Side.LEFT, "a", -1)
        neighbour = Neighbour(side, tmp_path / "3" / f"{other}.tif", SIDE, SIDE, sign * STEP, 0)
        job = MipmapJob(name, tmp_path / f"{name}.tif", outputs, SIDE, SIDE, measure=True, neighbours=(neighbour,))
        jobs.append(job)
    return jobs[0], jobs[1]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_tile_of_a_pair_that_is_made_last_is_compared(tmp_path: Path, field: Field, order: tuple[int, int]) -> None:
    jobs = write_pair(tmp_path, field, (9, -14))
    first, last = make_mipmaps(jobs[order[0]]).measured, make_mipmaps(jobs[order[1]]).measured
    assert first is not None
    assert last is not None
    assert first.overlaps == ()
    (overlap,) = last.overlaps
    sign = 1 if order == (0, 1) else -1
    # The shift is that of the neighbour against the tile that is made last.
    assert (-sign * overlap.x, -sign * overlap.y) == pytest.approx((9, -14), abs=1)
    assert Measured.from_bytes(last.to_bytes()) == last


def test_the_overlap_with_a_neighbour_that_is_not_an_image_is_unknown(tmp_path: Path, field: Field) -> None:
    (tmp_path / "level.tif").write_bytes(b"not an image")
    neighbour = Neighbour(Side.LEFT, tmp_path / "level.tif", SIDE, SIDE, -STEP, 0)
    assert compare_with(neighbour, frame(field, 0, 0)) is None


def test_a_worker_has_no_threads_of_linear_algebra() -> None:
    with open_executor("processes", 1) as pool:
        assert pool.executor.submit(os.getenv, "OPENBLAS_NUM_THREADS").result(60) == "1"


# --- columns


def grid(columns: int, rows: int) -> list[Tile]:
    return [
        Tile(
            f"{col}_{row}.tif",
            f"{col}_{row}",
            (float(col * STEP), float(row * STEP)),
            SIDE,
            SIDE,
            raster_col=col,
            raster_row=row,
        )
        for row in range(rows)
        for col in range(columns)
    ]


def test_neighbours_have_their_positions_in_the_tile_specs() -> None:
    tiles = grid(3, 2)
    images = [Level0(tile.name, Path(f"/d/{tile.img_path}"), None, SIDE, SIDE) for tile in tiles]
    positions = [(tile.position_px[0] + index, tile.position_px[1]) for index, tile in enumerate(tiles)]
    found = neighbours_of(tiles, images, positions, MipmapPlan(Path("/m"), levels=3))
    assert [(each.side, each.x, each.y) for each in found["1_0"]] == [
        (Side.LEFT, -STEP - 1, 0),
        (Side.RIGHT, STEP + 1, 0),
        (Side.BOTTOM, 3, STEP),
    ]
    assert found["1_0"][0].level3 == Path("/m/3/d/0_0.tif.tif")
    assert neighbours_of(tiles, images, positions, MipmapPlan(Path("/m"), levels=2)) == {}


def test_tiles_outside_of_a_grid_and_rotated_or_scaled_tiles_have_no_neighbours() -> None:
    images = [Level0(name, Path(f"/d/{name}"), None, SIDE, SIDE) for name in "ab"]
    plan, positions = MipmapPlan(Path("/m")), [(0.0, 0.0), (float(STEP), 0.0)]
    loose = [Tile(name, name, (0.0, 0.0), SIDE, SIDE) for name in "ab"]
    assert neighbours_of(loose, images, positions, plan) == {}
    rotated = [
        Tile(name, name, (0.0, 0.0), SIDE, SIDE, rotation_deg=3.0, raster_col=col, raster_row=0)
        for col, name in enumerate("ab")
    ]
    assert neighbours_of(rotated, images, positions, plan) == {}
    scaled = [replace(tile, rotation_deg=0.0, scale=2.0) for tile in rotated]
    assert neighbours_of(scaled, images, positions, plan) == {}


def test_an_overlap_belongs_to_the_right_or_lower_tile_and_the_later_result_is_used() -> None:
    tiles, ids = grid(2, 2), ["0_0", "1_0", "0_1", "1_1"]
    measured = {
        "0_0": Measured(overlaps=(Overlap(Side.RIGHT, 5, 1, 0.3), Overlap(Side.BOTTOM, 9, 9, 0.4))),
        "0_1": Measured(overlaps=(Overlap(Side.TOP, -2, 3, 0.5),)),
    }
    columns = stage_columns(tiles, ids, measured, {})
    assert [columns[f"left_stage_{name}"][1] for name in ("x", "y", "error")] == [5, 1, 0.3]
    assert [columns[f"top_stage_{name}"][2] for name in ("x", "y", "error")] == [2, -3, 0.5]
    assert np.isnan(columns["left_stage_x"]).sum() == 3


def test_results_of_pairs_that_were_not_made_again_are_kept() -> None:
    tiles, ids = grid(3, 1), ["0_0", "1_0", "2_0"]
    former = {"left_stage_x": np.array([np.nan, 4.0, 6.0]), "left_stage_error": np.array([np.nan, 0.1, 0.2])}
    columns = stage_columns(tiles, ids, {"2_0": Measured()}, former)
    assert columns["left_stage_x"].tolist() == pytest.approx([math.nan, 4, math.nan], nan_ok=True)
    assert columns["left_stage_error"].tolist() == pytest.approx([math.nan, 0.1, math.nan], nan_ok=True)


def errors_of_grid(columns: int, rows: int, off: dict[int, float]) -> tuple[dict[tuple[int, int], int], Any, Any]:
    """Return the cells of a grid and the errors of its overlaps, if some tiles are off by a number of pixels."""
    indices = indices_of(grid(columns, rows))
    errors = np.zeros(columns * rows)
    for index, error in off.items():
        errors[index] = error
    left, top = np.full(columns * rows, np.nan), np.full(columns * rows, np.nan)
    for (col, row), index in indices.items():
        if col:
            left[index] = errors[index] - errors[indices[col - 1, row]]
        if row:
            top[index] = errors[index] - errors[indices[col, row - 1]]
    return indices, left, top


@pytest.mark.parametrize(("columns", "rows"), [(5, 4), (6, 1), (1, 6)])
def test_only_the_tile_that_is_off_has_a_displacement(columns: int, rows: int) -> None:
    for index in range(columns * rows):
        off = displacements(*errors_of_grid(columns, rows, {index: 12.0}))
        expected = np.zeros(columns * rows)
        expected[index] = 12
        assert off.tolist() == pytest.approx(expected.tolist(), abs=1e-3)


def test_a_drift_of_the_stage_gives_no_tile_a_large_displacement() -> None:
    indices, left, top = errors_of_grid(8, 8, {})
    off = displacements(indices, left + 0.5, top)
    assert np.abs(off).max() <= 1.5


def test_groups_without_an_overlap_between_them_are_independent() -> None:
    indices, left, top = errors_of_grid(4, 1, {})
    left[2] = np.nan
    left[1], left[3] = 3.0, 5.0
    off = displacements(indices, left, top)
    assert off.tolist() == pytest.approx([-1.5, 1.5, -2.5, 2.5], abs=1e-6)


def test_the_displacement_of_a_tile_without_a_known_overlap_is_unknown() -> None:
    indices = indices_of(grid(3, 3))
    assert np.isnan(displacements(indices, np.full(9, np.nan), np.full(9, np.nan))).all()
    indices, left, top = errors_of_grid(3, 3, {})
    left[:], top[:] = np.nan, np.nan
    left[1] = 0.0
    assert np.isnan(displacements(indices, left, top)).tolist() == [False, False, *[True] * 7]
