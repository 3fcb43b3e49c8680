"""Heatmaps: colours of the cells, outlines, the limit in the legend, scales, and colours for colour-blind people."""

import io

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from handlers.acquisition.formats.pytemca_parse import parse_metafile
from handlers.quality.colours import DIVERGING, OUTSIDE, SEQUENTIAL, UNKNOWN, Colours
from handlers.quality.from_metafile import tile_numbers
from handlers.quality.heatmap import LARGEST_CELL_PX, MAX_PX, Heatmap, common_scale, draw_heatmap
from handlers.quality.heatmap_numbers import Number, heatmap_of, values_of
from handlers.quality.numbers import TileNumbers
from handlers.quality.rules import Limits, Surroundings
from handlers.quality.verdict import judge
from tests.unit.sections import MONTAGE, NO_DATA

RASTER_TOP, RASTER_LEFT = 32, 12
"""Upper left corner of the raster in the picture, pixels: below a line of text, right of the margin."""
nan = float("nan")


def heatmap(values: list[float], **changed: object) -> Heatmap:
    count = len(values)
    facts: dict[str, object] = {
        "title": "focus",
        "columns": np.arange(count) + 60,
        "rows": np.full(count, 5),
        "values": np.array(values),
        "scale": (0.0, 10.0),
        "outside": np.zeros(count, np.bool_),
    }
    return Heatmap(**{**facts, **changed})  # type: ignore[arg-type]


def drawn(each: Heatmap) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(draw_heatmap(each))) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def cell(
    picture: npt.NDArray[np.uint8], column: int, row: int = 0, size: int = LARGEST_CELL_PX
) -> npt.NDArray[np.uint8]:
    top, left = RASTER_TOP + row * size, RASTER_LEFT + column * size
    return picture[top : top + size, left : left + size]


def middle(picture: npt.NDArray[np.uint8], column: int, row: int = 0, size: int = LARGEST_CELL_PX) -> tuple[int, ...]:
    """Colour of a cell, left of its middle, where the cross of an unknown tile is not drawn."""
    return tuple(cell(picture, column, row, size)[size // 2, size // 4].tolist())


def test_each_cell_has_the_colour_of_its_value_on_the_scale() -> None:
    picture = drawn(heatmap([0.0, 5.0, 10.0, 99.0, -1.0]))
    expected = [SEQUENTIAL[at] for at in (0, 128, 255, 255, 0)]
    assert [middle(picture, column) for column in range(5)] == [tuple(each.tolist()) for each in expected]


def test_a_tile_is_drawn_at_its_raster_position() -> None:
    picture = drawn(heatmap([10.0, 0.0], columns=np.array([3, 4]), rows=np.array([9, 7])))
    assert middle(picture, 0, 2) == tuple(SEQUENTIAL[255].tolist())
    assert middle(picture, 1, 0) == tuple(SEQUENTIAL[0].tolist())
    assert middle(picture, 0, 0) == (235, 235, 235)


def test_an_unknown_tile_is_white_and_crossed_out() -> None:
    picture = drawn(heatmap([nan, 1.0]))
    assert middle(picture, 0) == UNKNOWN
    assert (np.diagonal(cell(picture, 0)[..., 0])[16:48] == 20).all()


def test_a_tile_outside_the_limit_is_outlined_and_others_are_not() -> None:
    picture = drawn(heatmap([1.0, 9.0], outside=np.array([True, False]), limit=5.0, limit_text="at least 5"))
    outlined, other = cell(picture, 0), cell(picture, 1)
    assert {tuple(each) for each in outlined[0].tolist()} == {OUTSIDE}
    assert {tuple(each) for each in outlined[:, -1].tolist()} == {OUTSIDE}
    assert len(np.unique(other.reshape(-1, 3), axis=0)) == 1
    assert (picture[RASTER_TOP + LARGEST_CELL_PX :] == OUTSIDE).all(axis=-1).sum() > 40  # the mark in the legend


def test_the_middle_of_a_diverging_scale_is_zero() -> None:
    values = np.array([-4.0, 0.0, 2.0])
    scale = common_scale([values], is_diverging=True)
    assert scale == (-4.0, 4.0)
    picture = drawn(heatmap(values.tolist(), scale=scale, is_diverging=True))
    assert [middle(picture, at) for at in range(3)] == [tuple(DIVERGING[at].tolist()) for at in (0, 128, 191)]


def test_compared_sections_have_the_same_scale() -> None:
    low = TileNumbers.of(
        ("a",), {"focus_score": np.array([17.0]), "raster_col": np.zeros(1), "raster_row": np.zeros(1)}
    )
    high = low.replaced({"focus_score": np.array([25.0])})
    alone = heatmap_of(Number.FOCUS, low, {}, title="a")
    first = heatmap_of(Number.FOCUS, low, {}, title="a", compared=[values_of(Number.FOCUS, high)])
    second = heatmap_of(Number.FOCUS, high, {}, title="b", compared=[values_of(Number.FOCUS, low)])
    assert alone.scale != first.scale
    assert first.scale == second.scale == (17.0, 25.0)


@pytest.mark.skipif(not MONTAGE.exists(), reason=NO_DATA)
def test_the_real_section_has_the_values_of_its_metafile() -> None:
    metafile = parse_metafile(MONTAGE.read_bytes(), "metafile")
    numbers = tile_numbers(metafile, [tile.basename for tile in metafile.tiles])
    limits = Limits(min_focus=21.0)
    findings = {each.rule: each for each in judge(numbers, limits, Surroundings(268.8)).findings}
    focus = heatmap_of(Number.FOCUS, numbers, findings, title="z 1050")
    # Read from the file: the smallest focus score is 20.088, the largest 22.889.
    assert focus.scale == pytest.approx((20.08830451965332, 22.889266967773438))
    assert int(focus.outside.sum()) == sum(tile.focus_score < 21 for tile in metafile.tiles if tile.focus_score)
    picture = drawn(focus)
    across = int(focus.columns.max() - focus.columns.min()) + 1
    size = min(LARGEST_CELL_PX, MAX_PX // across)
    for index in range(len(metafile.tiles)):
        tile = metafile.tiles[index]
        assert tile.focus_score is not None
        share = (tile.focus_score - 20.08830451965332) / (22.889266967773438 - 20.08830451965332)
        column, row = tile.raster_col - int(focus.columns.min()), tile.raster_row - int(focus.rows.min())
        assert middle(picture, column, row, size) == tuple(SEQUENTIAL[round(share * 255)].tolist()), tile.img_path
    # The stage positions in this file differ from the raster by some pixels.
    offsets = heatmap_of(Number.X_OFFSET, numbers, findings, title="z 1050")
    assert 1 < offsets.scale[1] < 60
    assert np.isnan(heatmap_of(Number.STD_DEV, numbers, findings, title="z 1050").values).all()


def test_tiles_with_distant_raster_positions_are_drawn_side_by_side() -> None:
    picture = drawn(heatmap([0.0, 10.0], columns=np.array([0, 2**40]), rows=np.array([7, 7])))
    assert [middle(picture, at) for at in range(2)] == [tuple(SEQUENTIAL[at].tolist()) for at in (0, 255)]


raster = st.integers(1, 12).flatmap(
    lambda count: st.tuples(
        st.lists(st.tuples(st.integers(0, 90), st.integers(0, 60)), min_size=count, max_size=count, unique=True),
        st.lists(st.one_of(st.just(nan), st.floats(-1e9, 1e9)), min_size=count, max_size=count),
    )
)


@given(raster, st.sampled_from(list(Number)))
def test_a_heatmap_of_any_raster_is_drawn(raster: tuple[list[tuple[int, int]], list[float]], number: Number) -> None:
    places, values = raster
    columns = {"raster_col": [place[0] for place in places], "raster_row": [place[1] for place in places]}
    columns |= dict.fromkeys(
        ("focus_score", "std_dev", "left_quality", "raster_offset_x", "stage_x", "stage_y", "saturated_share"), values
    )
    numbers = TileNumbers.of(
        tuple(map(str, range(len(places)))), {name: np.array(each, np.float64) for name, each in columns.items()}
    )
    findings = {each.rule: each for each in judge(numbers, Limits(), Surroundings(72.0)).findings}
    picture = drawn(heatmap_of(number, numbers, findings, title="any"))
    assert max(picture.shape) < 2 * MAX_PX


def test_tiles_of_a_format_without_a_grid_are_drawn_in_the_order_of_the_file() -> None:
    numbers = TileNumbers.of(tuple("abcde"), {"focus_score": np.array([0.0, 1.0, 2.0, 3.0, 4.0])})
    shown = heatmap_of(Number.FOCUS, numbers, {}, title="z 1")
    assert (shown.columns.tolist(), shown.rows.tolist()) == ([0, 1, 2, 0, 1], [0, 0, 0, 1, 1])
    assert "no grid" in shown.title
    assert middle(drawn(shown), 1, 1) == tuple(SEQUENTIAL[255].tolist())


def test_without_rules_no_tile_is_outlined() -> None:
    columns = dict.fromkeys(["focus_score", "left_quality", "raster_col", "raster_row"], np.ones(1))
    numbers = TileNumbers.of(("a",), columns)
    for number in Number:
        shown = heatmap_of(number, numbers, {}, title="a")
        assert (shown.limit, shown.outside.any()) == (None, False)
    judged = {each.rule: each for each in judge(numbers, Limits(max_weak_edges=None)).findings}
    assert heatmap_of(Number.ROW_MATCH, numbers, judged, title="a").limit == 1


# --- colours


def lightness(table: Colours) -> npt.NDArray[np.float64]:
    """CIE L* of sRGB colours."""
    linear = np.where(table / 255 <= 0.04045, table / 255 / 12.92, ((table / 255 + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    lightness: npt.NDArray[np.float64] = 116 * np.cbrt(np.maximum(luminance, 0.0089)) - 16
    return lightness


# Machado, Oliveira and Fernandes 2009: linear colours as seen without red, green or blue cones.
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def seen_by(table: Colours, matrix: npt.NDArray[np.float64]) -> Colours:
    """Return the colours as people with this colour blindness see them."""
    linear = np.where(table / 255 <= 0.04045, table / 255 / 12.92, ((table / 255 + 0.055) / 1.055) ** 2.4)
    mixed = np.clip(linear @ matrix.T, 0, 1)
    encoded = np.where(mixed <= 0.0031308, 12.92 * mixed, 1.055 * mixed ** (1 / 2.4) - 0.055)
    return np.rint(encoded * 255).astype(np.uint8)


@pytest.mark.parametrize("kind", BLINDNESS)
def test_brightness_alone_distinguishes_the_values(kind: str) -> None:
    light = lightness(seen_by(SEQUENTIAL, BLINDNESS[kind]))
    assert np.diff(light[::8]).min() > 0
    assert light[-1] - light[0] > 60
    sides = lightness(seen_by(DIVERGING, BLINDNESS[kind]))
    assert np.diff(sides[:120:8]).min() > 0
    assert np.diff(sides[136::8]).max() < 0


@pytest.mark.parametrize("kind", BLINDNESS)
def test_colours_of_both_signs_differ_with_every_colour_blindness(kind: str) -> None:
    both = seen_by(DIVERGING, BLINDNESS[kind]).astype(np.int64)
    assert np.abs(both[64] - both[191]).max() > 50
