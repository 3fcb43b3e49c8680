"""The simulated microscope: its plans, its files, its metafiles and its tissue."""

import hashlib
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from sections import MONTAGE, NO_DATA, section

from daemon.simulator import microscope
from daemon.simulator.delivery import Arrival, Delivery
from daemon.simulator.frames import FrameSource, PixelSource, measure
from daemon.simulator.pytemca import MetafileForm
from daemon.simulator.section import SectionPlan, TileFault, TilePlan, plan_section, roi_cells
from daemon.simulator.temca import write_section
from daemon.simulator.tile_faults import spoil_tiles
from daemon.simulator.tissue.field import Tissue
from daemon.simulator.tissue.lattice import SECTION_THICKNESS
from handlers.acquisition.formats.pytemca_consistency import check_metafile
from handlers.acquisition.formats.pytemca_parse import parse_metafile
from handlers.acquisition.geometry import stage_to_pixel
from tests.tiles_of_metafile import write_tiles_for


def metafile_of(root: Path, plan: SectionPlan, **how: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Write a section; return the header and the tile records of its metafile."""
    written = write_section(plan, root, pixels=PixelSource.FLAT, **how)
    header, data = json.loads(written.metafile.read_bytes())[:2]
    return header["metadata"], data["data"]


def pixels_of(path: Path) -> Any:
    with Image.open(path) as image:
        return np.asarray(image)


def position_px(plan: SectionPlan, tile: TilePlan) -> tuple[float, float]:
    return stage_to_pixel((tile.stage_x_nm, tile.stage_y_nm), (plan.pixel_size_nm,) * 2, plan.angle_deg)


# The plan


def test_the_same_arguments_give_the_same_plan() -> None:
    assert plan_section(tiles=20, seed=3) == plan_section(tiles=20, seed=3)
    assert plan_section(tiles=20, seed=3) != plan_section(tiles=20, seed=4)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 12, 26, 200])
def test_an_roi_has_the_requested_tiles_in_rows_without_gaps(count: int) -> None:
    cells = roi_cells(count)
    assert len(set(cells)) == count
    assert cells == tuple(sorted(cells, key=lambda cell: (cell[1], cell[0])))
    for row in {row for _, row in cells}:
        columns = [col for col, its_row in cells if its_row == row]
        assert columns == list(range(columns[0], columns[0] + len(columns)))


def test_an_roi_lacks_its_corners_and_need_not_start_at_column_0() -> None:
    cells = roi_cells(12, first_col=1)
    assert {col for col, _ in cells} == {1, 2, 3, 4}
    assert not {(1, 0), (4, 0), (1, 3), (4, 3)} & set(cells)


def test_twenty_thousand_tiles_have_different_names() -> None:
    plan = plan_section(tiles=20_000, size=(5504, 5504))
    assert len({tile.image_name for tile in plan.tiles}) == 20_000


@pytest.mark.parametrize(("angle_deg", "overlap"), [(180.0, 0.07), (185.0, 0.11), (-2.5, 0.07), (90.0, 0.6)])
def test_stage_steps_deviate_by_less_than_a_pixel(angle_deg: float, overlap: float) -> None:
    plan = plan_section(tiles=60, size=(800, 600), angle_deg=angle_deg, overlap=overlap)
    for tile in plan.tiles:
        x, y = position_px(plan, tile)
        if tile.before is not None:
            left_x, left_y = position_px(plan, plan.tiles[tile.before])
            assert abs(x - left_x - 800 * (1 - overlap)) < 0.6
            assert abs(y - left_y) < 0.6
        if tile.above is not None:
            upper_x, upper_y = position_px(plan, plan.tiles[tile.above])
            assert abs(y - upper_y - 600 * (1 - overlap)) < 0.6
            assert abs(x - upper_x) < 0.6


def test_frames_are_cut_out_of_the_tissue_at_truncated_stage_positions() -> None:
    plan = plan_section(tiles=60, angle_deg=185.0)
    corners = [(tile.left_px, tile.top_px) for tile in plan.tiles]
    truncated = [tuple(int(along) for along in position_px(plan, tile)) for tile in plan.tiles]
    offsets = {(x - left, y - top) for (left, top), (x, y) in zip(corners, truncated, strict=True)}
    assert len(offsets) == 1


def test_times_increase_and_start_after_the_roi_was_created() -> None:
    plan = plan_section(tiles=100, created_at=datetime(2026, 3, 1, 23, 59, 58, tzinfo=UTC))
    times = [tile.exposed_at for tile in plan.tiles]
    assert times == sorted(set(times))
    assert timedelta(seconds=3) < times[0] - plan.created_at < timedelta(seconds=132)


def test_names_and_directory_have_the_form_of_the_microscope() -> None:
    plan = plan_section(tiles=12, grid=1050, created_at=datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC))
    first = plan.tiles[0]
    assert str(plan.directory) == "demo/TEMCA2/20314_2L_0151_07/001050/0"
    assert plan.metafile_name == "_metadata_20260301120000_20314_2L_0151_07_001050_0_.json"
    assert first.image_name == f"20260301120009{first.image_name[14:17]}_20314_2L_0151_07_001050_0_2_0.tif"


# The metafile


def test_the_metafile_has_every_key_of_the_format_of_2018(tmp_path: Path) -> None:
    header, tiles = metafile_of(tmp_path, plan_section(tiles=5, size=(32, 32)))
    expected, data = section()
    assert header.keys() == expected["metadata"].keys()
    assert all(tile.keys() == data["data"][0].keys() for tile in tiles)
    assert [tile["img_meta"]["raster_index"] for tile in tiles] == [0, 1, 2, 3, 4]
    assert isinstance(tiles[0]["img_meta"]["fps"], str)
    assert isinstance(header["camera_info"]["camera_id"], str)


@pytest.mark.parametrize("form", list(MetafileForm))
@pytest.mark.parametrize("angle_deg", [180.0, 3.7])
def test_the_metafile_passes_every_consistency_check(tmp_path: Path, form: MetafileForm, angle_deg: float) -> None:
    plan = plan_section(tiles=40, size=(32, 24), angle_deg=angle_deg, overlap=0.11)
    written = write_section(plan, tmp_path, pixels="flat", form=form)
    metafile = parse_metafile(written.metafile.read_bytes(), written.metafile.name)
    assert check_metafile(metafile, written.metafile.name) == ()
    assert len(metafile.tiles) == 40


@pytest.mark.parametrize("form", list(MetafileForm))
def test_an_appended_shared_transform_is_parsed(tmp_path: Path, form: MetafileForm) -> None:
    lens = {"type": "leaf", "id": "lens", "className": "x.Y", "dataString": "1 2"}
    plan = plan_section(tiles=2, size=(8, 8))
    written = write_section(plan, tmp_path, pixels="flat", form=form, appended={"sharedTransform": lens})
    assert parse_metafile(written.metafile.read_bytes(), "m").shared_transform == lens


def test_match_quality_is_minus_one_only_without_a_neighbour(tmp_path: Path) -> None:
    _, tiles = metafile_of(tmp_path, plan_section(tiles=26, size=(32, 32)))
    cells = {tuple(tile["img_meta"]["raster_pos"]) for tile in tiles}
    for tile in tiles:
        col, row = tile["img_meta"]["raster_pos"]
        quality = {edge["position"]: edge["match_quality"] for edge in tile["matcher"]}
        assert {(edge["col"], edge["row"]) for edge in tile["matcher"]} == {(col, row)}
        assert (quality[3] == -1) == ((col, row - 1) not in cells)
        assert (quality[2] == -1) == ((col - 1, row) not in cells)


def test_statistics_are_those_of_the_image_on_the_16_bit_scale(tmp_path: Path) -> None:
    plan = plan_section(tiles=1, size=(128, 96))
    written = write_section(plan, tmp_path)
    tile = json.loads(written.metafile.read_bytes())[1]["data"][0]
    image = pixels_of(written.images[0]).astype(float)
    assert tile["min"] == image.min() * 257
    assert tile["max"] == image.max() * 257
    assert tile["mean"] == pytest.approx(image.mean() * 257, abs=0.51)
    assert tile["std_dev"] == pytest.approx(image.std(), abs=0.51)


# The images


@pytest.mark.parametrize("pixels", list(PixelSource))
def test_images_are_uncompressed_8_bit_grey_tiffs_of_the_cameras_size(tmp_path: Path, pixels: PixelSource) -> None:
    written = write_section(plan_section(tiles=3, size=(65, 47)), tmp_path, pixels=pixels)
    for path in written.images:
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("TIFF", "L", (65, 47))
            assert image.info["compression"] == "raw"


def test_12_bit_values_are_stored_in_the_upper_bits_of_16(tmp_path: Path) -> None:
    written = write_section(plan_section(tiles=1, size=(64, 64), bits=12), tmp_path)
    camera = json.loads(written.metafile.read_bytes())[0]["metadata"]["camera_info"]
    image = pixels_of(written.images[0])
    assert (camera["camera_bpp"], camera["pixel_depth"]) == (12, 2)
    assert image.dtype == np.uint16
    assert not (image % 16).any()
    assert 20_000 < image.mean() < 50_000


def test_neighbours_show_the_same_tissue_where_they_overlap(tmp_path: Path) -> None:
    plan = plan_section(tiles=4, size=(256, 256), overlap=0.25)
    written = write_section(plan, tmp_path)
    images = [pixels_of(path).astype(float) for path in written.images]
    tile = next(tile for tile in plan.tiles if tile.before is not None)
    assert tile.before is not None
    shift = tile.left_px - plan.tiles[tile.before].left_px
    down = tile.top_px - plan.tiles[tile.before].top_px
    left = images[tile.before][max(0, down) : 256 + min(0, down), shift:]
    right = images[tile.raster_index][max(0, -down) : 256 - max(0, down), : 256 - shift]
    # Two exposures of one place differ by the noise of the camera, 5 grey values each.
    assert (left - right).std() == pytest.approx(5 * 2**0.5, rel=0.15)
    assert left.std() > 15


def test_the_noise_of_each_tile_is_different(tmp_path: Path) -> None:
    written = write_section(plan_section(tiles=80, size=(40, 40)), tmp_path, pixels="noise")
    assert len({path.read_bytes() for path in written.images}) == 80


# The delivery


def test_the_metafile_is_written_last(tmp_path: Path) -> None:
    arrived: list[Path] = []
    written = write_section(plan_section(tiles=5, size=(16, 16)), tmp_path, pixels="flat", on_file=arrived.append)
    assert arrived == [*written.images, written.metafile]
    assert sorted(written.directory.iterdir()) == sorted(arrived)


def test_a_metafile_that_is_written_first_has_the_same_content(tmp_path: Path) -> None:
    plan, arrived = plan_section(tiles=3, size=(48, 48)), list[Path]()
    first = write_section(plan, tmp_path / "metafile first", metafile_first=True, on_file=arrived.append)
    last = write_section(plan, tmp_path / "metafile last")
    assert arrived == [first.metafile, *first.images]
    assert first.metafile.read_bytes() == last.metafile.read_bytes()
    assert [path.read_bytes() for path in first.images] == [path.read_bytes() for path in last.images]


@pytest.mark.parametrize(
    ("arrival", "sizes"), [(Arrival.PIECES, [1000, 2000, 3000]), (Arrival.PREALLOCATED, [None, None, None])]
)
def test_a_slowly_copied_image_grows_or_has_its_full_size_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrival: Arrival, sizes: list[int | None]
) -> None:
    plan = plan_section(tiles=1, size=(64, 64))
    seen: list[int] = []

    def pause(seconds: float) -> None:
        if seconds == 0.25:
            seen.extend(path.stat().st_size for path in tmp_path.rglob("*.tif"))

    monkeypatch.setattr(microscope.time, "sleep", pause)
    delivery = Delivery(arrival, piece_bytes=1000, piece_pause_s=0.25)
    written = write_section(plan, tmp_path, pixels="flat", delivery=delivery)
    full = written.images[0].stat().st_size
    assert seen[:3] == [size or full for size in sizes]
    assert pixels_of(written.images[0])[63, 63] == 60


def test_tiles_for_a_real_metafile_have_its_names_and_different_pixels(tmp_path: Path) -> None:
    if not MONTAGE.exists():
        pytest.skip(NO_DATA)
    images = write_tiles_for(MONTAGE, tmp_path, size=(96, 80))
    named = [tile["img_path"] for tile in json.loads(MONTAGE.read_bytes())[1]["data"]]
    assert [path.name for path in images] == named
    assert len({hashlib.sha256(path.read_bytes()).digest() for path in images}) == len(named) == 200
    assert pixels_of(images[0]).shape == (80, 96)


def test_tiles_for_a_metafile_have_the_size_of_its_camera(tmp_path: Path) -> None:
    written = write_section(plan_section(tiles=3, size=(36, 20)), tmp_path / "section", pixels="flat")
    images = write_tiles_for(written.metafile.read_bytes(), tmp_path / "again")
    assert [path.name for path in images] == [path.name for path in written.images]
    assert pixels_of(images[2]).shape == (20, 36)


# The tissue


def test_tissue_has_the_same_pixels_in_every_window() -> None:
    whole = Tissue(5).window(-700, 12_345, 900, 640)
    part = Tissue(5).window(-333, 12_400, 401, 203)
    np.testing.assert_allclose(part, whole[55 : 55 + 203, 367 : 367 + 401], atol=0.1)


def test_the_next_section_shows_the_same_cells_and_a_distant_one_does_not() -> None:
    here, near, far = (Tissue(5, k * SECTION_THICKNESS).window(0, 0, 512, 512).ravel() for k in (0, 1, 200))
    assert np.corrcoef(here, near)[0, 1] > 0.4
    assert abs(np.corrcoef(here, far)[0, 1]) < 0.1


def test_tissue_has_the_grey_values_of_a_stained_section() -> None:
    grey = Tissue(5).window(0, 0, 1024, 1024)
    assert grey.dtype == np.float32
    assert 120 < grey.mean() < 160
    assert 15 < grey.std() < 40
    assert 0.02 < (grey < 90).mean() < 0.3
    assert Tissue(6).window(0, 0, 64, 64).tolist() != grey[:64, :64].tolist()


# The command


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "daemon.simulator.microscope", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_command_writes_sections_and_prints_every_file(tmp_path: Path) -> None:
    size = ("--tiles", "3", "--size", "32x24", "--pixels", "noise")
    done = run(str(tmp_path), "--sections", "2", *size, "--metafile-first", "2")
    assert (done.returncode, done.stderr) == (0, "")
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [fact["section"] for fact in records] == [1, 1, 1, 1, 2, 2, 2, 2]
    assert [Path(fact["file"]).suffix for fact in records] == [".tif"] * 3 + [".json", ".json"] + [".tif"] * 3
    assert sorted(path.name for path in (tmp_path / "demo/TEMCA2/20314_2L_0151_07").iterdir()) == ["001050", "001051"]


def test_the_command_reports_invalid_arguments_and_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    refused = run(str(tmp_path), "--size", "10y10")
    assert refused.returncode == 2
    assert "'10y10' is not a size such as 1024x1024" in refused.stderr
    (tmp_path / "file").touch()
    failed = run(str(tmp_path / "file"), "--tiles", "1", "--size", "8x8", "--pixels", "flat")
    assert failed.returncode == 1
    assert failed.stderr.startswith("microscope: could not write ")
    assert "Traceback" not in failed.stderr


# --- bad tiles


@pytest.mark.slow
def test_a_spoiled_section_has_one_tile_of_each_fault_and_numbers_that_show_it(tmp_path: Path) -> None:
    good = plan_section(tiles=12, size=(512, 512), overlap=0.1)
    plan = spoil_tiles(good)
    faulty = {tile.fault: tile for tile in plan.tiles if tile.fault is not None}
    assert set(faulty) == set(TileFault)
    assert [tile.stage_x_nm for tile in plan.tiles] == [tile.stage_x_nm for tile in good.tiles]
    frames = FrameSource(plan, PixelSource.TISSUE)
    sharp = FrameSource(good, PixelSource.TISSUE)

    def contrast(frame: npt.NDArray[Any]) -> float:
        """Return the contrast of structures of 8 to 16 pixels."""
        blocks = frame.reshape(64, 8, 64, 8).mean(axis=(1, 3))
        return float(np.abs(np.diff(blocks)).mean())

    blurred = faulty[TileFault.BLURRED]
    in_focus = sharp.frame(good.tiles[blurred.raster_index])
    assert contrast(frames.frame(blurred)) < 0.6 * contrast(in_focus)
    assert measure(frames.frame(blurred), blurred.fault).focus_score < 16 < measure(in_focus).focus_score
    white = [float((frames.frame(tile) == 255).mean()) for tile in plan.tiles]
    assert [at for at, share in enumerate(white) if share > 0.01] == [faulty[TileFault.SATURATED].raster_index]
    repeated = faulty[TileFault.REPEATED]
    assert (frames.frame(repeated) == frames.frame(plan.tiles[repeated.raster_index - 1])).all()
    shifted, place = faulty[TileFault.SHIFTED], good.tiles[faulty[TileFault.SHIFTED].raster_index]
    assert (shifted.left_px - place.left_px, shifted.top_px - place.top_px) == (15, -10)  # 0.3 and -0.2 of 51.2


def test_a_section_with_few_tiles_cannot_be_spoiled() -> None:
    with pytest.raises(ValueError, match="needs at least 8 tiles"):
        spoil_tiles(plan_section(tiles=7))
