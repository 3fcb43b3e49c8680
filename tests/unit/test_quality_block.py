"""The block of quality numbers in the journal, and the columns of numbers that workers measured."""

import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.web.quality import encode_quality, quality_json
from handlers.acquisition.acquisition import Acquisition, Tile
from handlers.mipmaps.measure import Measured
from handlers.quality.from_metafile import quality_of
from handlers.quality.measured import MadeTile, level_digests, measured_columns, repeats
from handlers.quality.numbers import UNITS, SectionNumbers, TileNumbers
from handlers.quality.packing import Quality, pack, unpack

TILES = 2772
"""Number of tiles of a full section."""


def numbers(**columns: list[float]) -> TileNumbers:
    count = len(next(iter(columns.values())))
    ids = tuple(f"t{number}" for number in range(count))
    return TileNumbers.of(ids, {name: np.array(column, float) for name, column in columns.items()})


def full_section(seed: int = 1) -> Quality:
    """Return a section with all numbers, which vary as much as those of a real section."""
    chance, generator = random.Random(seed), np.random.default_rng(seed)
    ids = tuple(
        f"2017082913{number // 160:02}{10_000 + number % 160 * 370 + chance.randrange(300):05}"
        f"_295434_5LC_0064_01_redo_001050_0_{number % 54}_{number // 54}.1050.0"
        for number in range(TILES)
    )
    normal: dict[str, tuple[float, float]] = {
        "focus_score": (21, 1),
        "mean": (33_000, 800),
        "std_dev": (12, 1),
        "interval": (0.36, 0.02),
        "raster_offset_x": (0, 0.5),
        "raster_offset_y": (0, 0.5),
        "darkest": (20, 8),
        "sharpness": (60, 8),
        "stage_x": (0, 6),
        "stage_y": (0, 6),
    }
    for side in ("left", "top"):
        normal |= {f"{side}_{name}": (0, 8) for name in ("dx", "dy", "distance", "stage_x", "stage_y")}
        normal |= {f"{side}_quality": (8, 1), f"{side}_rotation": (0, 0.002), f"{side}_stage_error": (0.4, 0.1)}
    columns = {name: generator.normal(*values, TILES) for name, values in normal.items()}
    columns["minimum"] = generator.normal(14_000, 500, TILES) // 16 * 16
    columns["maximum"], columns["bits"] = np.full(TILES, 65_520.0), np.full(TILES, 8.0)
    columns["dark_share"], columns["saturated_share"] = (
        generator.exponential(1e-5, TILES),
        generator.exponential(3e-4, TILES),
    )
    columns["raster_index"] = np.arange(TILES, dtype=float)
    columns["raster_col"], columns["raster_row"] = columns["raster_index"] % 54, columns["raster_index"] // 54
    digests = {tile_id: chance.randbytes(16) for tile_id in ids}
    return Quality(TileNumbers.of(ids, columns), SectionNumbers(overlap=0.07), 6, digests)


def require_same(found: Quality, expected: Quality) -> None:
    assert (found.section, found.levels) == (expected.section, expected.levels)
    assert found.level_digests == expected.level_digests
    assert found.tiles.tile_ids == expected.tiles.tile_ids
    for name, column in expected.tiles.columns.items():
        step = UNITS[name].step
        np.testing.assert_allclose(found.tiles.columns[name], column, rtol=1e-15, atol=step / 2 * (1 + 1e-9))


def test_a_full_section_is_packed_into_less_than_150_kilobytes_and_unpacked() -> None:
    quality = full_section()
    block = pack(quality)
    assert len(block) < 150_000
    require_same(unpack(block), quality)


def test_multiples_of_a_step_are_unpacked_exactly() -> None:
    found = unpack(pack(Quality(numbers(focus_score=[17.25, 20.01, math.nan], mean=[3, 4, 5]), SectionNumbers())))
    assert found.tiles.focus_score.tolist()[:2] == [17.25, 20.01]
    assert math.isnan(found.tiles.focus_score[2])
    assert found.tiles.mean.tolist() == [3, 4, 5]
    assert np.isnan(found.tiles.std_dev).all()


values = st.one_of(st.just(math.nan), st.integers(-(2**60), 2**60).map(float), st.floats(allow_infinity=False))


@given(st.lists(st.tuples(values, values, values), min_size=1, max_size=12))
def test_any_numbers_are_unpacked_within_half_a_step(rows: list[tuple[float, float, float]]) -> None:
    focus, mean, rotation = map(list, zip(*rows, strict=True))
    quality = Quality(numbers(focus_score=focus, mean=mean, left_rotation=rotation), SectionNumbers())
    require_same(unpack(pack(quality)), quality)


def test_a_tile_without_a_digest_has_none_after_it_is_unpacked() -> None:
    quality = Quality(
        numbers(mean=[1, 2, 3]), SectionNumbers(0.1, beam_center_active=True), 4, {"t1": bytes(range(16))}
    )
    require_same(unpack(pack(quality)), quality)


def test_a_block_of_another_layout_is_refused() -> None:
    with pytest.raises(ValueError, match="layout 1 expected"):
        unpack(b"\x07" + pack(Quality(numbers(mean=[1]), SectionNumbers()))[1:])


def test_the_json_has_null_for_unknown_and_whole_numbers_without_a_point() -> None:
    quality = Quality(
        numbers(mean=[1, math.nan], focus_score=[1.5, 2]), SectionNumbers(0.07), 2, {"t0": bytes([1] * 16)}
    )
    body = quality_json(quality)
    assert body["tiles"] == ["t0", "t1"]
    assert body["numbers"]["mean"] == [1, None]
    assert isinstance(body["numbers"]["mean"][0], int)
    assert body["numbers"]["focus_score"] == [1.5, 2.0]
    assert body["numbers"]["sharpness"] == [None, None]
    assert body["units"]["raster_offset_x"] == "px"
    assert body["section"]["overlap"] == 0.07
    assert body["level_digests"] == ["01" * 16, None]
    assert b"NaN" not in encode_quality(pack(quality))


# --- measured numbers


def measured(**changes: Any) -> Measured:
    return Measured(**{"bits": 8, "darkest": 1, "brightest": 200, "sharpness": 10.0, **changes})


def test_measured_numbers_are_in_the_columns_of_their_tiles() -> None:
    made = {"a": MadeTile(None, measured(dark_share=0.25)), "c": MadeTile(None, None)}
    columns = measured_columns(("a", "b", "c"), made, None)
    assert [columns["darkest"][0], columns["brightest"][0], columns["dark_share"][0]] == [1, 200, 0.25]
    assert np.isnan([columns["darkest"][1:], columns["saturated_share"][1:]]).all()


def test_tiles_that_were_not_measured_again_keep_their_numbers_and_digests() -> None:
    old = numbers(darkest=[5, 6], sharpness=[1, 2])
    former = Quality(old, SectionNumbers(), 6, {"t0": b"0" * 16, "t1": b"1" * 16})
    made = {"t0": MadeTile(b"x", None), "t1": MadeTile(b"y", measured(levels=6, levels_digest=b"2" * 16))}
    columns = measured_columns(("t0", "t1"), made, former)
    assert columns["darkest"].tolist() == [5, 1]
    assert level_digests(made, former, 6) == {"t0": b"0" * 16, "t1": b"2" * 16}
    assert level_digests(made, former, 4) == {}


def test_an_image_with_the_bytes_of_others_refers_to_the_one_acquired_first() -> None:
    of_tiles = numbers(raster_index=[3, 1, 2, 0])
    made = {f"t{number}": MadeTile(digest, None) for number, digest in enumerate([b"p", b"p", b"q", b"r"])}
    assert repeats(of_tiles, made).tolist() == pytest.approx([1, math.nan, math.nan, math.nan], nan_ok=True)


def test_an_image_with_the_numbers_of_another_is_a_repeat_unless_both_are_blank() -> None:
    of_tiles = numbers(raster_index=[0, 1, 2, 3])
    frame, blank = measured(dark_share=1 / 3), measured(sharpness=0.0)
    made = {
        "t0": MadeTile(b"0", frame),
        "t1": MadeTile(b"1", blank),
        "t2": MadeTile(b"2", frame),
        "t3": MadeTile(b"3", blank),
    }
    assert repeats(of_tiles, made).tolist() == pytest.approx([math.nan, math.nan, 0, math.nan], nan_ok=True)


def test_the_numbers_of_other_formats_are_those_of_their_tiles() -> None:
    tiles = (
        Tile("a.tif", "a", (0.0, 0.0), 10, 10, raster_col=0, raster_row=1, numbers={"mean": 12.0, "unknown": 1.0}),
        Tile("b.tif", "b", (9.0, 0.0), 10, 10),
    )
    found = quality_of(Acquisition("x", tiles, {}, (1.0, 1.0)), ["a", "b"]).tiles
    assert found.mean.tolist() == pytest.approx([12, math.nan], nan_ok=True)
    assert found.raster_row.tolist() == pytest.approx([1, math.nan], nan_ok=True)
