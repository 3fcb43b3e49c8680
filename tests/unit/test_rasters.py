"""Several grids of one section: the cells of their tiles, their neighbours and their overlap."""

from pathlib import Path

import numpy as np
import pytest

from handlers.acquisition.acquisition import Acquisition, Tile
from handlers.acquisition.formats.rasters import section_cells
from handlers.mipmaps.overlap import Side
from handlers.mipmaps.plan import Level0, MipmapPlan
from handlers.quality.from_metafile import quality_of
from handlers.quality.heatmap_numbers import Number, heatmap_of
from handlers.quality.neighbours import neighbours_of

WIDTH, HEIGHT, STEP_X, STEP_Y = 200, 100, 180.0, 80.0


def tile(grid: str, col: int | None, row: int | None, **options: float) -> Tile:
    name, place = f"{grid}.{col}.{row}", ((col or 0) * STEP_X, (row or 0) * STEP_Y)
    return Tile(f"{name}.tif", name, place, WIDTH, HEIGHT, raster_col=col, raster_row=row, grid=grid, **options)


TWO_GRIDS = [tile("b", 0, 0), tile("b", 1, 0), tile("a", 0, 0), tile("a", 0, 1)]


def neighbours(tiles: list[Tile]) -> dict[str, set[Side]]:
    images = [Level0(each.name, Path(f"/d/{each.img_path}"), None, WIDTH, HEIGHT) for each in tiles]
    found = neighbours_of(tiles, images, [each.position_px for each in tiles], MipmapPlan(Path("/m"), levels=3))
    return {tile_id: {each.side for each in adjacent} for tile_id, adjacent in found.items()}


def test_grids_are_side_by_side_with_an_empty_column_between_them() -> None:
    assert section_cells(TWO_GRIDS) == [(0, 0), (1, 0), (3, 0), (3, 1)]


def test_one_grid_keeps_its_columns_and_tiles_without_columns_have_no_cell() -> None:
    assert section_cells([tile("a", 88, 7), tile("a", None, None), tile("a", 90, 7)]) == [(88, 7), None, (90, 7)]


def test_tiles_of_two_grids_are_not_neighbours() -> None:
    assert neighbours(TWO_GRIDS) == {
        "b.0.0": {Side.RIGHT},
        "b.1.0": {Side.LEFT},
        "a.0.0": {Side.BOTTOM},
        "a.0.1": {Side.TOP},
    }


def test_rotated_and_scaled_grids_have_no_neighbours_and_others_have() -> None:
    turned = [tile("b", col, 0, rotation_deg=3.0) for col in (0, 1)]
    scaled = [tile("c", col, 0, scale=2.0) for col in (0, 1)]
    assert neighbours([*turned, tile("a", 0, 0), tile("a", 1, 0), *scaled]).keys() == {"a.0.0", "a.1.0"}


def test_a_heatmap_shows_the_tiles_of_all_grids() -> None:
    tiles = tuple(TWO_GRIDS)
    found = quality_of(Acquisition("x", tiles, {}, (1.0, 1.0)), [each.name for each in tiles]).tiles
    heatmap = heatmap_of(Number.MEASURED_FOCUS, found, {}, title="z 1")
    assert list(zip(heatmap.columns, heatmap.rows, strict=True)) == [(0, 0), (1, 0), (3, 0), (3, 1)]
    assert "no grid" not in heatmap.title


@pytest.mark.parametrize(
    ("tiles", "overlap"),
    [
        (TWO_GRIDS, 0.2),  # 20 px of the shorter side, 100 px
        ([tile("a", 0, 0), tile("a", 1, 0)], 0.2),
        ([tile("a", 0, 0), tile("a", 0, 1)], 0.2),
        ([tile("a", 0, 0), tile("a", 1, 1)], None),
        ([tile("a", 0, 0, rotation_deg=3.0), tile("a", 1, 0, rotation_deg=3.0)], None),
        ([tile("a", None, None), tile("a", None, None)], None),
    ],
)
def test_the_overlap_of_a_section_is_that_of_its_neighbours(tiles: list[Tile], overlap: float | None) -> None:
    found = quality_of(Acquisition("x", tuple(tiles), {}, (1.0, 1.0)), [f"{n}" for n in range(len(tiles))])
    assert found.section.overlap == (overlap if overlap is None else pytest.approx(overlap))


def test_neighbours_that_do_not_touch_have_no_overlap() -> None:
    apart = [Tile(f"{n}", f"{n}", (n * 250.0, 0.0), 200, 100, raster_col=n, raster_row=0) for n in range(3)]
    found = quality_of(Acquisition("x", tuple(apart), {}, (1.0, 1.0)), ["0", "1", "2"])
    assert found.section.overlap is None
    assert np.isfinite(found.tiles.raster_col).all()
