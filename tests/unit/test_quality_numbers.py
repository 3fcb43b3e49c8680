"""Quality numbers of a section that its metafile contains."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.acquisition.formats.pytemca_parse import parse_metafile
from handlers.acquisition.metafile import Metafile
from handlers.quality.from_metafile import section_numbers, tile_numbers
from handlers.quality.numbers import UNITS, SectionNumbers, TileNumbers
from tests.unit.sections import MONTAGE, NAME, NO_DATA, Change, section


def parsed(change: Change | None = None, **size: int) -> Metafile:
    return parse_metafile(json.dumps(section(change, **size)).encode(), NAME)


def numbers_of(change: Change | None = None, **size: int) -> TileNumbers:
    metafile = parsed(change, **size)
    return tile_numbers(metafile, [tile.basename for tile in metafile.tiles])


def test_numbers_of_the_metafile_are_in_the_columns_of_their_tiles() -> None:
    def change(_: dict[str, Any], tiles: list[dict[str, Any]]) -> None:
        tiles[2] |= {"focus_score": 17.25, "mean": 30000, "min": 16, "max": 60000, "std_dev": 9}
        tiles[2]["matcher"][1] |= {"dX": -3.5, "dY": 2.25, "distance": 4.2, "rotation": -0.002, "match_quality": 10}

    found = numbers_of(change)
    assert len(found.tile_ids) == 11
    row = {name: column[2] for name, column in found.columns.items()}
    assert (row["raster_col"], row["raster_row"], row["raster_index"]) == (3, 0, 2)
    assert (row["focus_score"], row["mean"], row["minimum"], row["maximum"], row["std_dev"]) == (
        *(17.25, 30000, 16, 60000, 9),
    )
    left = [row[f"left_{name}"] for name in ("quality", "dx", "dy", "distance", "rotation")]
    assert left == [10, -3.5, 2.25, 4.2, -0.002]


def test_an_edge_without_a_neighbour_is_unknown_and_one_without_a_match_has_no_shift() -> None:
    def change(_: dict[str, Any], tiles: list[dict[str, Any]]) -> None:
        tiles[3]["matcher"] = None
        tiles[7]["matcher"][0] |= {"match_quality": 0, "dX": 0, "dY": 0, "distance": 0, "rotation": 0}

    found = numbers_of(change)
    # Row 0 has no tile at column 0. No tile is above the row, and none is to the left of its first tile.
    assert np.isnan(found.top_quality[:3]).all()
    assert np.isnan(found.left_quality[0])
    assert found.left_quality[1:3].tolist() == [7, 7]
    assert np.isnan([found.left_quality[3], found.top_quality[3], found.left_dx[3]]).all()  # without a matcher
    assert found.top_quality[7] == 0
    assert np.isnan([found.top_dx[7], found.top_dy[7], found.top_distance[7], found.top_rotation[7]]).all()
    assert np.isnan(found.right_quality).all()


def test_a_match_with_the_right_neighbour_has_its_own_columns() -> None:
    def change(_: dict[str, Any], tiles: list[dict[str, Any]]) -> None:
        tiles[4]["matcher"][1] |= {"position": 4, "dX": 8.5, "match_quality": 3}

    found = numbers_of(change)
    assert (found.right_quality[4], found.right_dx[4]) == (3, 8.5)
    assert np.isnan(found.left_quality[4])


def test_the_offset_from_the_ideal_raster_is_the_deviation_of_the_stage() -> None:
    def change(_: dict[str, Any], tiles: list[dict[str, Any]]) -> None:
        # The camera is rotated by 90 degrees: pixel x is stage y, pixel y is minus stage x. A pixel has 4 nm.
        tiles[5]["img_meta"]["stage_pos"][1] += 80
        tiles[5]["img_meta"]["stage_pos"][0] += 40

    found = numbers_of(change)
    assert found.raster_offset_x[5] == pytest.approx(20, abs=0.3)
    assert found.raster_offset_y[5] == pytest.approx(-10, abs=0.3)
    others = np.arange(11) != 5
    assert np.abs(found.raster_offset_x[others]).max() < 0.3
    assert np.abs(found.raster_offset_y[others]).max() < 0.3


def test_the_interval_is_the_time_since_the_tile_before_in_order_of_acquisition() -> None:
    def change(_: dict[str, Any], tiles: list[dict[str, Any]]) -> None:
        name = tiles[1]["img_path"]
        tiles[1]["img_path"] = name.replace("20180601120101000", "20180601120101250")
        tiles.reverse()

    found = numbers_of(change)
    assert found.interval[::-1][1:4].tolist() == [1.25, 0.75, 1.0]
    assert math.isnan(found.interval[-1])


def test_names_without_a_time_have_no_interval() -> None:
    def change(_: dict[str, Any], tiles: list[dict[str, Any]]) -> None:
        for index in (0, 4):
            tiles[index]["img_path"] = f"tile_{index}.tif"

    assert np.flatnonzero(np.isnan(numbers_of(change).interval)).tolist() == [0, 1, 4, 5]


def test_numbers_of_the_section_are_read_from_the_header() -> None:
    def change(head: dict[str, Any], _: list[dict[str, Any]]) -> None:
        head |= {"aperture_centroid": {"x": 1500, "y": -200}, "autofocus_value": 3.5}

    assert section_numbers(parsed(change)) == SectionNumbers(0.11, 1500, -200, 3.5, True, False, 0.1, -0.2)


@pytest.mark.parametrize("beam", [None, {}, {"offset": None}, {"offset": [1]}, {"offset": ["a", True]}, {"offset": {}}])
def test_a_section_without_numbers_has_unknown_ones(beam: object) -> None:
    def change(head: dict[str, Any], _: list[dict[str, Any]]) -> None:
        head |= {"beam_centering": beam, "overlap": None, "autofocus_value": "off"}

    metafile = parsed(change)
    assert section_numbers(metafile) == SectionNumbers()
    found = tile_numbers(metafile, [tile.basename for tile in metafile.tiles])
    assert np.isnan(found.raster_offset_x).all()


def test_columns_of_another_length_or_name_are_refused() -> None:
    with pytest.raises(ValueError, match="known columns of 2"):
        TileNumbers.of(("a", "b"), {"mean": np.zeros(3)})
    with pytest.raises(ValueError, match="known columns of 1"):
        TileNumbers.of(("a",), {"meen": np.zeros(1)})


def test_other_columns_replace_unknown_ones() -> None:
    before = TileNumbers.of(("a", "b"), {"mean": np.array([1.0, 2.0])})
    after = before.replaced({"darkest": np.array([3.0, 4.0]), "brightest": np.array([3.0, 5.0])})
    assert after.mean.tolist() == [1, 2]
    assert after.is_blank.tolist() == [True, False]
    assert np.isnan(before.darkest).all()
    assert before.is_blank.tolist() == [False, False]


any_value = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=3), st.lists(st.none())
)


@given(
    width=st.integers(1, 4),
    height=st.integers(1, 3),
    places=st.lists(
        st.tuples(st.integers(0, 10), st.sampled_from(("focus_score", "min", "std_dev", "matcher")), any_value)
    ),
    matches=st.lists(st.tuples(st.integers(0, 10), st.sampled_from(("match_quality", "dX", "position")), any_value)),
)
def test_any_values_in_a_metafile_give_finite_or_unknown_numbers(
    width: int, height: int, places: list[tuple[int, str, object]], matches: list[tuple[int, str, object]]
) -> None:
    def change(_: dict[str, Any], tiles: list[dict[str, Any]]) -> None:
        for index, key, value in matches:
            tiles[index % len(tiles)]["matcher"][0][key] = value
        for index, key, value in places:
            tiles[index % len(tiles)][key] = value

    if width * height == 1:
        width = 2  # a section of one cell has no tile
    found = numbers_of(change, width=width, height=height)
    assert set(found.columns) == set(UNITS)
    for name, column in found.columns.items():
        assert column.shape == (width * height - 1,), name
        assert not np.isinf(column).any(), name


@pytest.mark.skipif(not MONTAGE.exists(), reason=NO_DATA)
def test_the_numbers_of_the_real_metafile_are_those_of_its_text() -> None:
    metafile = parse_metafile(MONTAGE.read_bytes(), MONTAGE.name)
    found = tile_numbers(metafile, [tile.basename for tile in metafile.tiles])
    data = next(part["data"] for part in json.loads(MONTAGE.read_text()) if "data" in part)
    for key, name in (("mean", "mean"), ("min", "minimum"), ("max", "maximum"), ("focus_score", "focus_score")):
        assert found.columns[name].tolist() == [row[key] for row in data]
    assert found.interval[1] == pytest.approx(0.344)  # 13:02:24.998 to 13:02:25.342
    assert found.raster_col[:2].tolist() == [88, 89]
    # A column step is 3840 px less 7 %: 3571.2 px. The stage moved 12,495 nm in x: 3570 px of 3.5 nm, 1.2 px less.
    assert found.raster_offset_x[1] - found.raster_offset_x[0] == pytest.approx(-1.2)
    assert section_numbers(metafile).autofocus_value == pytest.approx(22.789662043253582)
    assert np.median(found.raster_offset_x) == pytest.approx(0, abs=1e-9)
    assert np.abs(found.raster_offset_x).max() < 5504
