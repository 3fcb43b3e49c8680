"""Tile specs: equal to those of asap-modules by default, and geometry that is correct for any stage position."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import asap
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sections import DATA, LENS_SET, MONTAGE, NAME, NO_DATA, acquisition, metafile, section

from handlers.acquisition.acquisition import Acquisition
from handlers.acquisition.formats.pytemca import acquisition_of
from handlers.acquisition.formats.pytemca_consistency import check_metafile
from handlers.acquisition.formats.pytemca_parse import parse_metafile
from handlers.acquisition.geometry import Point, stage_to_pixel
from handlers.acquisition.metafile import Metafile, TileRecord
from handlers.acquisition.tilespec import (
    Origin,
    Positions,
    TileSpecOptions,
    shared_transform_for,
    tile_ids_for,
    tile_specs_for,
    translations_for,
)
from handlers.errors import Fault, MetafileFault, SettingsFault

real_data = pytest.mark.skipif(not DATA.is_dir(), reason=NO_DATA)
ROI = Path("/data/temca2/000042/0")


def real(path: Path) -> Acquisition:
    return acquisition_of(parse_metafile(path.read_bytes(), path.name))


def specs(found: Acquisition | None = None, z: float = 42, **options: Any) -> list[dict[str, Any]]:
    return list(tile_specs_for(found or acquisition(), z, ROI, TileSpecOptions(**options)))


# ------------------------------------------------------------------------------------------------- comparison with asap


@pytest.mark.parametrize(
    ("region", "options", "expected"),
    [
        (asap.MONTAGE, {}, {}),
        (asap.LENS_SET, {}, {}),
        (
            asap.MONTAGE,
            {"minimum_intensity": 10, "maximum_intensity": 60000, "section_id": "5LC_1050"},
            {"minIntensity": 10, "maxIntensity": 60000, "sectionId": "5LC_1050"},
        ),
        (asap.MONTAGE, {"mask": Path("/masks/camera 3.png")}, {"mask": {"maskUrl": "file:///masks/camera%203.png"}}),
        (asap.MONTAGE, {"positions": Positions.EXACT}, {"translation": "exact"}),
        (asap.MONTAGE, {"positions": Positions.EXACT, "origin": Origin.STAGE}, {"translation": "on_stage"}),
    ],
    ids=["montage", "lens set", "options", "mask", "exact", "on the stage"],
)
def test_tile_specs_equal_those_calculated_by_hand(
    region: asap.Region, options: dict[str, Any], expected: dict[str, Any]
) -> None:
    found = acquisition_of(parse_metafile(region.raw(), region.name))
    made = tile_specs_for(found, region.z, Path(asap.IMAGES), TileSpecOptions(**options))
    for one, wanted in zip(made, region.expected(**expected), strict=True):
        assert one == wanted


@pytest.mark.parametrize("region", [asap.MONTAGE, asap.LENS_SET], ids=["montage", "lens set"])
def test_the_regions_calculated_by_hand_have_no_other_findings_than_about_pixel_sizes(region: asap.Region) -> None:
    """All pixel sizes differ, so that the tile specs show which one is used."""
    texts = [finding.text for finding in check_metafile(parse_metafile(region.raw(), region.name), region.name)]
    assert [text for text in texts if "pixel" not in text and "off the grid" not in text] == []


@real_data
@pytest.mark.parametrize(
    ("path", "z", "directory", "options", "expected"),
    [
        (MONTAGE, 1050, "/acquisitions/temca2/001050/0", TileSpecOptions(), "asap_tilespecs_001050.json"),
        (
            MONTAGE,
            1050,
            "/acquisitions/temca2/001050/0",
            TileSpecOptions(10, 60000, "5LC_1050"),
            "asap_tilespecs_001050_options.json",
        ),
        (LENS_SET, 7, "/acquisitions/temca2/reference", TileSpecOptions(), "asap_tilespecs_reference.json"),
    ],
    ids=["montage", "options", "lens set"],
)
def test_tile_specs_equal_those_of_asap_field_by_field(
    path: Path, z: float, directory: str, options: TileSpecOptions, expected: str
) -> None:
    made = list(tile_specs_for(real(path), z, Path(directory), options))
    wanted = json.loads((DATA / expected).read_text())
    assert made[: len(wanted)] == wanted
    assert len(made) == len(real(path).tiles)


@real_data
@pytest.mark.parametrize("path", [MONTAGE, LENS_SET], ids=["montage", "lens set"])
def test_exact_positions_of_a_real_section_are_within_a_pixel_of_the_integer_ones(path: Path) -> None:
    tiles = real(path).tiles
    exact = translations_for(tiles, Positions.EXACT, Origin.ROI)
    whole = translations_for(tiles, Positions.INTEGER, Origin.ROI)
    assert max(abs(a - b) for p, q in zip(exact, whole, strict=True) for a, b in zip(p, q, strict=True)) < 1


# ------------------------------------------------------------------------------------------------------------- geometry

stage_nm = st.floats(-1e7, 1e7)
points = st.tuples(stage_nm, stage_nm)
sizes = st.tuples(st.floats(1, 300), st.floats(1, 300))
angles = st.floats(-360, 360)
TILE = metafile().tiles[0]


def on_stage(places: list[Point], angle_deg: float = 0.0, size: Point = (4.0, 4.0)) -> tuple[TileRecord, ...]:
    return tuple(
        replace(
            TILE,
            stage_x_nm=x,
            stage_y_nm=y,
            angle_deg=angle_deg,
            pixel_size_x_move_nm=size[0],
            pixel_size_y_move_nm=size[1],
        )
        for x, y in places
    )


def moved(places: list[Point], shift: Point) -> list[Point]:
    return [(x + shift[0], y + shift[1]) for x, y in places]


def near(one: Point, other: Point) -> bool:
    return math.dist(one, other) <= 1e-6 * (1 + math.hypot(*one))


@given(points, sizes)
def test_without_rotation_a_position_is_the_stage_over_the_pixel_size(stage: Point, size: Point) -> None:
    assert stage_to_pixel(stage, size, 0.0) == (stage[0] / size[0], stage[1] / size[1])


@given(points, st.floats(1, 300), angles)
def test_rotation_keeps_distances(stage: Point, size: float, angle: float) -> None:
    x, y = stage_to_pixel(stage, (size, size), angle)
    assert math.isclose(math.hypot(x, y), math.hypot(*stage) / size, rel_tol=1e-9, abs_tol=1e-9)


@given(points, angles, angles)
def test_two_rotations_equal_one_by_the_sum_of_their_angles(stage: Point, first: float, second: float) -> None:
    rotated = stage_to_pixel(stage_to_pixel(stage, (4.0, 4.0), first), (1.0, 1.0), second)
    assert near(stage_to_pixel(stage, (4.0, 4.0), first + second), rotated)


@given(points, sizes, angles)
def test_a_full_turn_changes_nothing(stage: Point, size: Point, angle: float) -> None:
    assert near(stage_to_pixel(stage, size, angle), stage_to_pixel(stage, size, angle + 360))


@given(points, sizes, angles)
def test_half_a_turn_changes_both_signs(stage: Point, size: Point, angle: float) -> None:
    x, y = stage_to_pixel(stage, size, angle)
    assert near((-x, -y), stage_to_pixel(stage, size, angle + 180))


@given(points, points, sizes, angles)
def test_a_shift_of_the_stage_moves_all_positions_by_the_same_distance(
    stage: Point, shift: Point, size: Point, angle: float
) -> None:
    (after,) = moved([stage], shift)
    here, step = stage_to_pixel(stage, size, angle), stage_to_pixel(shift, size, angle)
    assert math.dist(stage_to_pixel(after, size, angle), (here[0] + step[0], here[1] + step[1])) < 1e-6


@pytest.mark.parametrize(
    ("angle", "expected"), [(0, (250, -500)), (90, (-500, -250)), (180, (-250, 500)), (270, (500, 250))]
)
def test_the_axes_are_rotated_as_in_the_metafiles(angle: float, expected: Point) -> None:
    assert near(stage_to_pixel((1000.0, -2000.0), (4.0, 4.0), angle), expected)


many = st.lists(points, min_size=1, max_size=12)
policies = st.sampled_from(Positions)


@given(many, angles, sizes, policies)
def test_the_smallest_x_and_y_of_a_region_are_zero(
    places: list[Point], angle: float, size: Point, positions: Positions
) -> None:
    made = translations_for(on_stage(places, angle, size), positions, Origin.ROI)
    assert min(x for x, _ in made) == 0
    assert min(y for _, y in made) == 0


@given(many, angles, policies)
def test_positions_with_the_two_origins_differ_by_one_shift(
    places: list[Point], angle: float, positions: Positions
) -> None:
    tiles = on_stage(places, angle)
    roi, stage = (translations_for(tiles, positions, origin) for origin in (Origin.ROI, Origin.STAGE))
    left, top = min(x for x, _ in stage), min(y for _, y in stage)
    assert roi == tuple((x - left, y - top) for x, y in stage)


@given(many, points, angles)
def test_exact_positions_of_a_region_do_not_depend_on_its_place_on_the_stage(
    places: list[Point], shift: Point, angle: float
) -> None:
    here = translations_for(on_stage(places, angle), Positions.EXACT, Origin.ROI)
    there = translations_for(on_stage(moved(places, shift), angle), Positions.EXACT, Origin.ROI)
    assert all(math.dist(a, b) < 1e-5 for a, b in zip(here, there, strict=True))


@given(many, points, angles)
def test_integer_positions_shift_by_less_than_two_pixels_with_the_place_on_the_stage(
    places: list[Point], shift: Point, angle: float
) -> None:
    exact = translations_for(on_stage(places, angle), Positions.EXACT, Origin.ROI)
    whole = translations_for(on_stage(moved(places, shift), angle), Positions.INTEGER, Origin.ROI)
    assert all(abs(a - b) < 2 + 1e-5 for p, q in zip(exact, whole, strict=True) for a, b in zip(p, q, strict=True))


@given(st.lists(points, min_size=1, max_size=12), st.randoms(use_true_random=False), policies, st.sampled_from(Origin))
def test_the_order_of_the_tiles_does_not_matter(
    places: list[Point], random: Any, positions: Positions, origin: Origin
) -> None:
    order = list(range(len(places)))
    random.shuffle(order)
    made = translations_for(on_stage(places), positions, origin)
    shuffled = translations_for(on_stage([places[number] for number in order]), positions, origin)
    assert shuffled == tuple(made[number] for number in order)


@given(points, angles, st.floats(1, 50), st.floats(0.01, 0.9), st.integers(500, 6000))
def test_neighbours_on_a_regular_grid_are_one_step_apart(
    origin: Point, angle: float, size: float, overlap: float, width: int
) -> None:
    step, angle_rad = width * (1 - overlap), math.radians(angle)
    grid = [(col * step * size, row * step * size) for row in range(2) for col in range(2)]
    places = [
        (
            origin[0] + x * math.cos(angle_rad) - y * math.sin(angle_rad),
            origin[1] + x * math.sin(angle_rad) + y * math.cos(angle_rad),
        )
        for x, y in grid
    ]
    tiles = on_stage(places, angle, (size, size))
    first, right, below, corner = translations_for(tiles, Positions.EXACT, Origin.ROI)
    expected = ((0, 0), (step, 0), (0, step), (step, step))
    assert all(math.dist(a, b) < 1e-4 for a, b in zip((first, right, below, corner), expected, strict=True))


@given(many, angles, st.sampled_from(Origin))
def test_integer_positions_are_whole_numbers(places: list[Point], angle: float, origin: Origin) -> None:
    made = translations_for(on_stage(places, angle), Positions.INTEGER, origin)
    assert all(x.is_integer() and y.is_integer() for x, y in made)


def test_positions_are_truncated_toward_zero_before_the_minimum_is_subtracted() -> None:
    tiles = on_stage([(-7.0, 0.0), (-1.0, 0.0), (3.0, 0.0), (7.0, 0.0)])
    assert [x for x, _ in translations_for(tiles, Positions.INTEGER, Origin.STAGE)] == [-1, 0, 0, 1]
    assert [x for x, _ in translations_for(tiles, Positions.INTEGER, Origin.ROI)] == [0, 1, 1, 2]
    assert [x for x, _ in translations_for(tiles, Positions.EXACT, Origin.ROI)] == [0, 1.5, 2.5, 3.5]


def test_two_regions_of_one_z_are_separate_only_with_the_stage_origin() -> None:
    one, other = on_stage([(0.0, 0.0)]), on_stage([(40000.0, -8000.0)])
    for origin, apart in ((Origin.ROI, (0.0, 0.0)), (Origin.STAGE, (10000.0, -2000.0))):
        (here,), (there,) = (translations_for(tiles, Positions.EXACT, origin) for tiles in (one, other))
        assert (there[0] - here[0], there[1] - here[1]) == apart


def test_pixel_sizes_in_x_and_y_are_used_each_for_its_own_motion() -> None:
    (_, there) = translations_for(on_stage([(0.0, 0.0), (420.0, 420.0)], 0.0, (4.2, 4.0)), Positions.EXACT, Origin.ROI)
    assert there == (100.0, 105.0)


# --------------------------------------------------------------------------------------------------------------- fields


def test_a_tile_spec_contains_the_facts_of_its_tile() -> None:
    made = specs()[4]
    assert made["tileId"] == "20180601120104000_17797_1R_151_000042_0_1_1.42.0"
    assert made["mipmapLevels"] == {"0": {"imageUrl": f"file://{ROI}/{made['tileId'][:-5]}.tif"}}
    assert made["layout"] == {
        "sectionId": "42.0",
        "temca": "temca2",
        "camera": "A5",
        "imageRow": 1,
        "imageCol": 1,
        "stageX": -19594.0,
        "stageY": 19594.0,
        "rotation": 90.0,
        "pixelsize": 4.0,
    }
    assert (made["z"], made["width"], made["minIntensity"], made["maxIntensity"]) == (42.0, 5504, 0, 255)
    assert set(made) == {
        *("tileId", "z", "width", "height", "minIntensity", "maxIntensity"),
        *("layout", "mipmapLevels", "transforms"),
    }


def test_the_pixel_size_of_the_layout_is_that_of_the_calibration_in_x() -> None:
    found = acquisition(lambda head, _: head["calibration"]["highmag"].update(x_nm_per_pix=3.9, y_nm_per_pix=4.1))
    assert {spec["layout"]["pixelsize"] for spec in specs(found)} == {3.9}


def test_tile_specs_are_json_without_nulls_or_nan() -> None:
    text = json.dumps(specs(), allow_nan=False)
    assert "null" not in text


def test_a_fractional_z_is_kept() -> None:
    made = specs(z=5.5)[0]
    assert made["z"] == 5.5
    assert made["tileId"].endswith(".5.5")
    assert made["layout"]["sectionId"] == "5.5"


def test_a_mask_is_on_every_tile() -> None:
    made = specs(mask=Path("/masks/camera 3.png"))
    assert {spec["mipmapLevels"]["0"]["maskUrl"] for spec in made} == {"file:///masks/camera%203.png"}


def test_a_number_sign_in_an_image_name_is_quoted_in_its_url() -> None:
    found = acquisition(lambda _, tiles: tiles[0].update(img_path="a#1 b.tif"))
    made = specs(found)[0]
    assert made["mipmapLevels"]["0"]["imageUrl"] == f"file://{ROI}/a%231%20b.tif"
    assert made["tileId"] == "a#1 b.42.0"


def test_a_relative_image_directory_is_refused() -> None:
    with pytest.raises(Fault, match="absolute"):
        tile_specs_for(acquisition(), 1, Path("data"))


# ------------------------------------------------------------------------------------------------------------- tile ids


def test_a_tile_id_without_z_is_independent_of_z() -> None:
    options = TileSpecOptions(tile_id="{basename}")
    assert tile_ids_for(acquisition(), 1, options) == tile_ids_for(acquisition(), 2.5, options)


def test_a_tile_id_template_has_fields_of_header_and_tile() -> None:
    template = (
        "{specimen_id}-{session_id}-{grid}-{roi_index}-{raster_col:03d}-{raster_row}-{raster_index}-{section_id}-{z}"
    )
    made = tile_ids_for(acquisition(), 7, TileSpecOptions(tile_id=template, section_id="S7"))
    assert made[3] == "17797_1R-17797_1R_151-000042-0-000-1-3-S7-7.0"


def test_ids_are_those_of_the_tile_specs() -> None:
    options = TileSpecOptions(tile_id="{grid}.{raster_index}")
    assert [spec["tileId"] for spec in specs(tile_id=options.tile_id)] == list(tile_ids_for(acquisition(), 42, options))


@pytest.mark.parametrize(
    "template", ["{basename", "{tile}", "{}", "{0}", "{basename.__class__}", "{grid[0]}", "{z!q}{", "{basename}}"]
)
def test_a_template_of_unknown_fields_is_refused(template: str) -> None:
    with pytest.raises(SettingsFault, match=r"^tilespecs\.tile_id: "):
        TileSpecOptions(tile_id=template)


@pytest.mark.parametrize(
    "template", ["", "{grid}/{raster_index}", "{basename:d}", "{basename:{foo}}", "{raster_index}\n"]
)
def test_a_template_that_gives_an_invalid_id_is_refused(template: str) -> None:
    with pytest.raises(SettingsFault, match=r"^tilespecs\.tile_id: "):
        tile_ids_for(acquisition(), 1, TileSpecOptions(tile_id=template))


def test_tiles_with_the_same_id_are_refused() -> None:
    with pytest.raises(MetafileFault, match="several tiles would have 000042"):
        tile_ids_for(acquisition(), 1, TileSpecOptions(tile_id="{grid}"))
    twice = acquisition(lambda _, tiles: tiles[4].update(img_path=tiles[3]["img_path"]))
    with pytest.raises(MetafileFault, match="several tiles"):
        tile_specs_for(twice, 1, ROI)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"minimum_intensity": 255, "maximum_intensity": 0}, "tilespecs.minimum_intensity"),
        ({"minimum_intensity": 5, "maximum_intensity": 5}, "tilespecs.minimum_intensity"),
        ({"mask": Path("mask.png")}, "tilespecs.mask"),
    ],
)
def test_invalid_options_name_their_setting(options: dict[str, Any], key: str) -> None:
    with pytest.raises(SettingsFault, match=f"^{key}: "):
        TileSpecOptions(**options)


# ----------------------------------------------------------------------------------------------------- shared transform

LENS = {"type": "leaf", "className": "lenscorrection.NonLinearTransform", "dataString": "5 21 1.0"}


def with_lens(lens: object) -> Acquisition:
    return acquisition_of(parse_metafile(json.dumps([*section(), {"sharedTransform": lens}]).encode(), NAME))


def test_a_shared_transform_keeps_its_id_and_comes_before_the_translation() -> None:
    found = with_lens({**LENS, "id": "LENS_1", "metaData": {"labels": ["lens"]}})
    transform = shared_transform_for(found)
    assert transform == {**LENS, "id": "LENS_1", "metaData": {"labels": ["lens"]}}
    (first, *_) = tile_specs_for(found, 1, ROI, shared_transform_id="LENS_1")
    ref, translation = first["transforms"]["specList"]
    assert ref == {"type": "ref", "refId": "LENS_1"}
    assert translation["className"].endswith("AffineModel2D")


def test_a_shared_transform_without_id_gets_an_id_from_its_content() -> None:
    one, same, other = (
        shared_transform_for(with_lens(lens)) for lens in (LENS, {**LENS, "new": 1}, {**LENS, "dataString": "5 21 2.0"})
    )
    assert one is not None
    assert same is not None
    assert other is not None
    assert one["id"] == same["id"] != other["id"]


def test_a_metafile_without_lens_has_no_shared_transform() -> None:
    assert shared_transform_for(acquisition()) is None
    assert all(len(spec["transforms"]["specList"]) == 1 for spec in specs())


@pytest.mark.parametrize(
    "change", [{"className": None}, {"dataString": ""}, {"dataString": 5}, {"type": "ref"}], ids=repr
)
def test_an_invalid_shared_transform_is_refused_when_it_is_used(change: dict[str, Any]) -> None:
    found = with_lens({**LENS, **change})
    with pytest.raises(MetafileFault, match="sharedTransform"):
        shared_transform_for(found)
    assert tile_specs_for(found, 1, ROI)


@given(many, angles)
def test_the_translation_is_written_with_ten_decimals(places: list[Point], angle: float) -> None:
    assume(len(set(places)) == len(places))
    tiles = tuple(replace(tile, img_path=f"{number}.tif") for number, tile in enumerate(on_stage(places, angle)))
    made = tile_specs_for(
        acquisition_of(Metafile(metafile().header, tiles)), 1, ROI, TileSpecOptions(positions=Positions.EXACT)
    )
    for spec, (x, y) in zip(made, translations_for(tiles, Positions.EXACT, Origin.ROI), strict=True):
        numbers = spec["transforms"]["specList"][-1]["dataString"].split()
        assert [float(number) for number in numbers[:4]] == [1, 0, 0, 1]
        assert abs(float(numbers[4]) - x) < 1e-9
        assert abs(float(numbers[5]) - y) < 1e-9
        assert all(len(number.partition(".")[2]) == 10 for number in numbers)
