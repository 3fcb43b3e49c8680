"""Positions of tiles in the stack: the bounds follow from the transforms, also of rotated and scaled tiles."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.simulator.standin.transforms import derive_bounds
from handlers.acquisition.acquisition import Acquisition, Tile
from handlers.acquisition.geometry import Point
from handlers.acquisition.placement import affine_of, bounds_of
from handlers.acquisition.tilespec import Origin, Positions, TileSpecOptions, tile_specs_for, translations_for

coordinates = st.floats(-1e6, 1e6)
tiles = st.builds(
    Tile,
    img_path=st.just("a.tif"),
    name=st.just("a"),
    position_px=st.tuples(coordinates, coordinates),
    width=st.integers(1, 10_000),
    height=st.integers(1, 10_000),
    rotation_deg=st.sampled_from([0.0, 90.0, -90.0, 180.0, 360.0]) | st.floats(-360, 360),
    scale=st.just(1.0) | st.floats(0.1, 10),
)


def step_by_step(tile: Tile, place: Point, corner: Point) -> Point:
    """Rotate a point about the tile's centre, scale it from the upper left corner, and move it."""
    angle = math.radians(tile.rotation_deg)
    centre_x, centre_y = (tile.width or 0) / 2, (tile.height or 0) / 2
    x, y = corner[0] - centre_x, corner[1] - centre_y
    rotated_x = x * math.cos(angle) - y * math.sin(angle) + centre_x
    rotated_y = x * math.sin(angle) + y * math.cos(angle) + centre_y
    return tile.scale * rotated_x + place[0], tile.scale * rotated_y + place[1]


@given(tile=tiles, place=st.tuples(coordinates, coordinates), corner=st.tuples(coordinates, coordinates))
def test_a_tile_is_rotated_about_its_centre_then_scaled_then_moved(tile: Tile, place: Point, corner: Point) -> None:
    m00, m10, m01, m11, m02, m12 = affine_of(tile, place)
    x, y = corner
    expected = step_by_step(tile, place, corner)
    assert (m00 * x + m01 * y + m02, m10 * x + m11 * y + m12) == pytest.approx(expected, abs=1e-4)


@given(several=st.lists(tiles, min_size=1, max_size=6), origin=st.sampled_from(Origin))
def test_bounds_equal_those_that_render_derives_from_the_tile_specs(several: list[Tile], origin: Origin) -> None:
    options = TileSpecOptions(positions=Positions.EXACT, origin=origin, tile_id="{raster_index}")
    numbered = tuple(
        Tile(f"{index}.tif", f"{index}", each.position_px, each.width, each.height,
             rotation_deg=each.rotation_deg, scale=each.scale, raster_index=index)
        for index, each in enumerate(several)
    )  # fmt: skip
    found = bounds_of(numbered, translations_for(numbered, options.positions, options.origin))
    specs = [dict(spec) for spec in tile_specs_for(Acquisition("a", numbered, {}, None), 1, Path("/data"), options)]
    for spec in specs:
        derive_bounds(spec, {})
    derived = [pick(spec[side] for spec in specs) for pick, side in
               ((min, "minX"), (min, "minY"), (max, "maxX"), (max, "maxY"))]  # fmt: skip
    assert found is not None
    assert found == pytest.approx(derived, abs=2)  # render truncates the least corner and rounds the extent up


def test_the_bounds_of_a_tile_rotated_by_90_degrees_have_exchanged_sides() -> None:
    tile = Tile("a.tif", "a", (0, 0), 200, 100, rotation_deg=90.0, scale=2.0)
    assert bounds_of([tile], [(10.0, 20.0)]) == (110.0, -80.0, 310.0, 320.0)


def test_without_tiles_there_are_no_bounds() -> None:
    assert bounds_of([], []) is None
