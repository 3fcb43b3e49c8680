"""Coordinate tables of a MultiSEM: positions, names, takes, missing images, rows and columns."""

import json
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sections import DATA

from handlers.acquisition.arrival import with_sizes
from handlers.acquisition.formats.multisem import MultiSem, take_of
from handlers.acquisition.retakes import is_later_take
from handlers.acquisition.tilespec import Origin, Positions, tile_specs_for, translations_for
from handlers.errors import MetafileFault, MetafilePartial
from handlers.uris import path_to_uri

HERE = DATA / "multisem"
real_data = pytest.mark.skipif(not HERE.is_dir(), reason=f"the samples are not at {HERE}")
READER = MultiSem()
REGION = Path("/data/wafer_53/imaging/msem/scan_003/wafer_53_scan_003_20220501_08-46-34/012_")
TABLE = REGION / READER.pattern


def line(beam: int = 1, x: object = 2014641.672, y: object = 915550.882, *, mfov: int = 1, time: str = "1711") -> str:
    return f"{mfov:06d}\\001_{mfov:06d}_{beam:03d}_2022-04-27T23{time}1235567.png\t{x}\t{y}\t0\r\n"


def read(*lines: str, path: Path = TABLE) -> Any:
    return READER.parse("".join(lines).encode(), path)


def expected() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((HERE / "expected.json").read_text())
    return found


def slab() -> Path:
    return next((HERE / "wafer_99").rglob("full_image_coordinates.txt"))


# ---------------------------------------------------------------------------------------------------------- the samples


def from_first_beam(wanted: list[dict[str, Any]], spec: dict[str, Any]) -> tuple[int, int]:
    """Return the row and column of a tile, relative to those of the first beam of its mFOV."""
    first = next(each for each in wanted if each["tileId"].startswith(spec["tileId"][:11] + "001_"))
    row, col = (spec["layout"][name] - first["layout"][name] for name in ("imageRow", "imageCol"))
    return row, col


@real_data
def test_tile_specs_equal_those_of_janelia_except_for_its_margin_and_scan_correction() -> None:
    path, sample = slab(), expected()
    found = with_sizes(READER.parse(path.read_bytes(), path), path.parent)
    specs = {spec["tileId"]: spec for spec in tile_specs_for(found, 1, path.parent)}
    wanted = sample["janelia_run"]["tilespecs"]
    assert len(specs) == len(wanted) == 14
    for wanted_spec in wanted:
        spec = specs[wanted_spec["tileId"]]
        for key in ("tileId", "z", "width", "height", "minIntensity", "maxIntensity"):
            assert spec[key] == wanted_spec[key], key
        layout, (row, col) = dict(wanted_spec["layout"]), from_first_beam(wanted, wanted_spec)
        first_id = next(tile_id for tile_id in specs if tile_id.startswith(wanted_spec["tileId"][:11] + "001_"))
        first = specs[first_id]["layout"]
        layout |= {"imageRow": first["imageRow"] + row, "imageCol": first["imageCol"] + col}
        assert spec["layout"] == layout
        image = (
            wanted_spec["mipmapLevels"]["0"]["imageUrl"].removeprefix("file:").replace("{sample}", path_to_uri(HERE))
        )
        assert spec["mipmapLevels"]["0"]["imageUrl"] == image
        *_, x, y = map(float, wanted_spec["transforms"]["specList"][-1]["dataString"].split())
        ((transform),) = spec["transforms"]["specList"]
        assert [float(each) for each in transform["dataString"].split()] == [
            *(1, 0, 0, 1),
            *(x - sample["janelia_margin_px"], y - sample["janelia_margin_px"]),
        ]


@real_data
@pytest.mark.parametrize("generation", ["path_b", "path_c"])
def test_positions_of_both_generations_are_exact(generation: str) -> None:
    path = slab() if generation == "path_b" else next((HERE / "ibeam").rglob("full_image_coordinates.txt"))
    found = READER.parse(path.read_bytes(), path)
    wanted = expected()["tiles"]
    assert [tile.img_path for tile in found.tiles] == [tile[generation] for tile in wanted]
    exact = translations_for(found.tiles, Positions.EXACT, Origin.ROI)
    for place, tile in zip(exact, wanted, strict=True):
        assert place == pytest.approx(tile["exact_translation_origin_roi"], abs=1e-3)
    assert found.facts["z_index"] == (1 if generation == "path_b" else 9)


@real_data
def test_positions_around_zero_are_truncated_like_those_of_janelia() -> None:
    found = READER.parse((HERE / "traps" / "around_zero.txt").read_bytes(), TABLE)
    (truncated,) = (each for each in expected()["around_zero"]["results"] if each["rule"] == "truncate")
    made = translations_for(found.tiles, Positions.INTEGER, Origin.ROI)
    assert [list(axis) for axis in zip(*made, strict=True)] == [truncated["x"], truncated["y"]]


@real_data
@pytest.mark.parametrize("trap", ["lf_only", "blank_line_at_end", "lines_doubled"])
def test_line_ends_blank_lines_and_doubled_lines_change_nothing(trap: str) -> None:
    path = slab()
    found = READER.parse((HERE / "traps" / f"{trap}.txt").read_bytes(), path)
    assert found == READER.parse(path.read_bytes(), path)


@real_data
def test_the_later_take_of_an_image_is_used() -> None:
    found = READER.parse((HERE / "traps" / "retaken_sfov.txt").read_bytes(), TABLE)
    (tile,) = (tile for tile in found.tiles if "_000001_004_" in tile.img_path)
    assert tile.img_path.endswith("T2318591238567.png")
    assert tile.position_px == (2014615.107, 915499.569)
    assert len(found.tiles) == 14


@real_data
def test_a_missing_image_is_a_warning_that_names_it() -> None:
    found = READER.parse((HERE / "traps" / "missing_sfov.txt").read_bytes(), TABLE)
    (finding,) = READER.check(found, TABLE)
    assert finding.text == "1 images of the region are not listed: mFOV 000001 beam 5"


@real_data
@pytest.mark.parametrize(("trap", "fault"), [("cut_off", MetafilePartial), ("nan", MetafileFault)])
def test_a_truncated_table_is_partial_and_one_with_nan_is_refused(trap: str, fault: type[Exception]) -> None:
    with pytest.raises(fault, match="line"):
        READER.parse((HERE / "traps" / f"{trap}.txt").read_bytes(), TABLE)


# ---------------------------------------------------------------------------------------------- tables of single lines


def test_a_table_without_a_complete_line_is_partial() -> None:
    with pytest.raises(MetafilePartial, match="is truncated in line 1"):
        read(line()[:30])


def test_a_table_without_a_last_line_end_is_read() -> None:
    assert len(read(line(1), line(2).rstrip()).tiles) == 2


def test_the_order_of_two_takes_in_the_table_does_not_matter() -> None:
    early, late = line(1, 1, 1, time="1711"), line(1, 2, 2, time="1712")
    assert read(early, late).tiles[0].position_px == read(late, early).tiles[0].position_px == (2.0, 2.0)


def test_thumbnails_are_not_tiles() -> None:
    name = "000001\\thumbnail_001_000001_001_2022-04-27T2317111235567.png"
    assert len(read(line(), f"{name}\t1\t2\t0\r\n").tiles) == 1


@pytest.mark.parametrize(
    ("directory", "facts"),
    [
        (REGION, {"specimen_id": "wafer_53", "session_id": REGION.parent.name, "z_index": 3, "grid": "012"}),
        (
            Path("/data/Plate_13_20210525_21-38-12/008_s_4"),
            {"specimen_id": "Plate_13", "session_id": "Plate_13_20210525_21-38-12", "z_index": 4, "grid": "008"},
        ),
        (
            Path("/data/H01_20210525_21-38-12/090_S90R1"),
            {"specimen_id": "H01", "session_id": "H01_20210525_21-38-12", "z_index": 90, "roi_index": 1, "grid": "090"},
        ),
        (
            Path("/data/w60/scans/scan_010/slabs/slab_0399/mfovs"),
            {"specimen_id": "w60", "z_index": 10, "grid": "0399"},
        ),
        (Path("/somewhere/else"), {}),
    ],
)
def test_wafer_scan_slab_and_section_come_from_the_directories(directory: Path, facts: dict[str, Any]) -> None:
    found = read(line(), path=directory / READER.pattern).facts
    assert {key: value for key, value in found.items() if value is not None} == facts


@pytest.mark.parametrize(
    ("invalid", "problem"),
    [
        (line(x="NaN"), "line 2: x should be a number of pixels, is 'NaN'"),
        (line(y="inf"), "line 2: y should be a number of pixels, is 'inf'"),
        (line(x="1e300"), "line 2: x should be a number of pixels, is '1e300'"),
        (line(x=""), "line 2: x should be a number of pixels, is ''"),
        ("a\tb\r\n" + line(2), "line 2: should have 4 columns between tabs, has 2"),
        ("..\\a.png\t1\t2\t0\r\n", "leads out of"),
        ("C:\\a.png\t1\t2\t0\r\n", "line 2"),
        ("\\\\server\\a.png\t1\t2\t0\r\n", "is absolute"),
        ("\t1\t2\t0\r\n", "line 2"),
    ],
)
def test_an_invalid_line_is_named(invalid: str, problem: str) -> None:
    with pytest.raises(MetafileFault, match=re.escape(problem)):
        read(line(3), invalid)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("H01_20210525_21-38-12/090_S90R1", "H01_20210601_08-00-00/003_S90R1"),
        ("Plate_13_20210525_21-38-12/008_s_4", "Plate_13_20210525_22-00-00/001_s_4"),
        ("scan_003/wafer_53_scan_003_20220501_08-46-34/012_", "scan_003/wafer_53_scan_003_20220502_01-00-00/012_"),
    ],
)
def test_a_region_in_a_later_workflow_of_the_wafer_is_a_later_take(earlier: str, later: str) -> None:
    one, two = (Path("/data") / each / READER.pattern for each in (earlier, later))
    assert is_later_take(two, one)
    assert not is_later_take(one, two)
    assert not is_later_take(one, one)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("H01_20210525_21-38-12/090_S90R1", "H01_20210601_08-00-00/090_S90R2"),
        ("H01_20210525_21-38-12/090_S90R1", "H01_20210601_08-00-00/090_S91R1"),
        ("H01_20210525_21-38-12/090_S90R1", "H02_20210601_08-00-00/090_S90R1"),
        ("a/H01_20210525_21-38-12/090_S90R1", "b/H01_20210601_08-00-00/090_S90R1"),
        ("scan_003/w_scan_003_20220501_08-46-34/012_", "scan_004/w_scan_004_20220502_01-00-00/012_"),
        ("scan_003/w_scan_003_20220501_08-46-34/012_", "scan_003/w_scan_003_20220502_01-00-00/013_"),
        ("scans/scan_010/slabs/slab_0399/mfovs", "scans/scan_011/slabs/slab_0399/mfovs"),
        ("somewhere/else", "somewhere/other"),
    ],
)
def test_other_regions_scans_and_wafers_are_not_later_takes(one: str, two: str) -> None:
    paths = [Path("/data") / each / READER.pattern for each in (one, two)]
    assert not is_later_take(*paths)
    assert not is_later_take(*reversed(paths))


def test_a_file_of_another_name_has_no_take() -> None:
    assert take_of(Path("/data/H01_20210525_21-38-12/090_S90R1/_metadata_.json")) is None


def test_a_corrected_or_numbered_image_of_an_ion_beam_system_has_its_mfov_and_beam() -> None:
    names = ["mFOV_0032\\sfov_001.png", "mfov_0032\\corrected_sfov_083.png", "mfov_0033\\thumbnail_001.png"]
    found = read(*(f"{name}\t1.5\t2.5\t0\r\n" for name in names))
    assert [(tile.img_path, tile.name) for tile in found.tiles] == [
        ("mFOV_0032/sfov_001.png", "012_m0032_s001"),
        ("mfov_0032/corrected_sfov_083.png", "012_m0032_s083"),
    ]


def test_numbered_images_of_two_slabs_have_different_names() -> None:
    slabs = [Path(f"/data/w60/scans/scan_010/slabs/slab_{slab}/mfovs/{READER.pattern}") for slab in ("0399", "0400")]
    names = [read("mfov_0022\\sfov_001.png\t1.5\t2.5\t0\r\n", path=table).tiles[0].name for table in slabs]
    assert names == ["0399_m0022_s001", "0400_m0022_s001"]
    (alone,) = read(
        "mFOV_0022\\sfov_001.png\t1.5\t2.5\t0\r\n", path=Path("/data/scan_009/mFOVs") / READER.pattern
    ).tiles
    assert alone.name == "m0022_s001"


def test_a_bitmap_of_2021_has_a_name_with_its_time() -> None:
    (tile,) = read("000007\\008_000007_055_2021-05-25T2146499297643.bmp\t-372876.505\t2.5\t0\r\n").tiles
    assert (tile.img_path, tile.name) == (
        "000007/008_000007_055_2021-05-25T2146499297643.bmp",
        "008_000007_055_20210525_214649",
    )
    assert tile.position_px == (-372876.505, 2.5)
    assert (tile.stage_x, tile.stage_y) == (-372876, 2)


def hexagon(*, mfovs: int = 2, shift: float = 0.0, scatter: float = 0.0) -> list[str]:
    """Return the lines of mFOVs of seven beams, 200 px apart in x and 174 px in y; each mFOV is three rows lower.

    Parameters
    ----------
    shift : additional distance of each mFOV from the one before, along x.
    scatter : largest deviation of a beam from its place, in x and y.
    """
    random = Random(5)
    around = [(0, 0), (200, 0), (100, -174), (-100, -174), (-200, 0), (-100, 174), (100, 174)]
    return [
        line(
            beam + 1,
            1000 + x + mfov * (100 + shift) + random.uniform(-scatter, scatter),
            1000 + y + mfov * 522 + random.uniform(-scatter, scatter),
            mfov=mfov + 1,
        )
        for mfov in range(mfovs)
        for beam, (x, y) in enumerate(around)
    ]


def test_beams_have_the_rows_and_columns_of_a_hexagonal_lattice() -> None:
    found = [(tile.raster_col, tile.raster_row) for tile in read(*hexagon()).tiles]
    assert found[:7] == [(2, 1), (4, 1), (3, 0), (1, 0), (0, 1), (1, 2), (3, 2)]
    assert found[7:] == [(col + 1, row + 3) for col, row in [(2, 1), (4, 1), (3, 0), (1, 0), (0, 1), (1, 2), (3, 2)]]


def test_scattered_beams_have_the_rows_and_columns_of_the_lattice() -> None:
    even, scattered = (read(*hexagon(mfovs=40, scatter=scatter)).tiles for scatter in (0, 5))
    assert [(tile.raster_col, tile.raster_row) for tile in scattered] == [
        (tile.raster_col, tile.raster_row) for tile in even
    ]
    assert even[-1].raster_row == 3 * 39 + 2


@pytest.mark.parametrize("lines", [hexagon(shift=40), hexagon(shift=100), [line(1), line(2)], [line(1)]])
def test_beams_without_a_lattice_have_no_rows_and_columns(lines: list[str]) -> None:
    assert {tile.raster_col for tile in read(*lines).tiles} == {None}
