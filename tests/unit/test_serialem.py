"""Montages of SerialEM: positions, items, pieces without coordinates, files that grow and are rewritten."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sections import DATA

from daemon.simulator.section import plan_section
from daemon.simulator.writers import write_in_format
from handlers.acquisition.acquisition import Acquisition
from handlers.acquisition.arrival import metafile_content, with_sizes
from handlers.acquisition.formats.autodoc import read_autodoc
from handlers.acquisition.formats.serialem import SerialEM
from handlers.acquisition.formats.serialem_file import MontageFollower
from handlers.acquisition.presence import find_metafile
from handlers.acquisition.section_path import file_of, is_inside_file, montage_in, place_in_file
from handlers.acquisition.tilespec import Origin, Positions, options_for, tile_specs_for, translations_for
from handlers.acquisition.z import ZRule, ZRuleKind, z_for
from handlers.errors import MetafileFault, MetafileOpen, MetafilePartial
from handlers.quality.from_metafile import quality_of
from handlers.uris import path_to_uri

HERE = DATA / "serialem"
IDOCS = HERE / "idoc_supermont_testdata"
real_data = pytest.mark.skipif(not HERE.is_dir(), reason=f"the samples are not at {HERE}")
READER = SerialEM()
IDOC = Path("/data/block_7/run_12.idoc")
HEAD = "PixelSpacing = 16.76\nImageSize = 64 48\nMontage = 1\n\n[T = SerialEM: Talos     25-Mar-21  16:59:53]\n\n"


def piece(number: int = 0, x: object = 0, y: object = 0, section: object = 0, **values: object) -> str:
    name = values.pop("image", f"run_{number:04d}.tif")
    lines = [f"[Image = {name}]", f"PieceCoordinates = {x} {y} {section}"]
    return "".join(f"{line}\n" for line in [*lines, *(f"{key} = {value}" for key, value in values.items()), ""])


def end(section: int = 0) -> str:
    return f"[MontSection = {section}]\nFullMontNumFrames = 2 2\n\n"


def read(*texts: str, path: Path = IDOC) -> Acquisition:
    return READER.parse((HEAD + "".join(texts)).encode(), path)


# ---------------------------------------------------------------------------------------------------------- the samples

SAMPLES = ("supermont.idoc", "mont01.idoc")


def expected(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((HERE / "expected_tilespecs.json").read_text())
    return dict(found["files"][f"idoc_supermont_testdata/{name}"])


@pytest.fixture(scope="module")
def idocs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample, with links for images that are listed twice. A copy may have short text files in place of links."""
    directory = tmp_path_factory.mktemp("idocs")
    for file in IDOCS.iterdir():
        if file.suffix == ".jpg" and file.stat().st_size < 100:
            (directory / file.name).symlink_to(file.read_text())
        else:
            shutil.copy(file, directory, follow_symlinks=False)
    return directory


def montages(file: Path) -> dict[str, Acquisition]:
    """Read every montage of a file as the daemon does, by its name in the expected values."""
    found = {}
    for path, _ in MontageFollower().sections(str(file)):
        acquisition = with_sizes(READER.parse(metafile_content(Path(path)), Path(path)), file.parent)
        kind, _, number = Path(path).name.partition("@")
        found[f"nav_{number}" if kind == "supermontage" else f"mont_{int(number)}"] = acquisition
    return found


@real_data
@pytest.mark.parametrize("name", SAMPLES)
def test_tile_specs_equal_those_of_embl_except_for_marked_faults(name: str, idocs: Path) -> None:
    found, sample = montages(idocs / name), expected(name)["pieces"]
    assert found.keys() == {each["group"] for each in sample}
    compared = 0
    for group, acquisition in found.items():
        pieces = [each for each in sample if each["group"] == group]
        specs = tile_specs_for(acquisition, 7, idocs, options_for(READER))
        for made, tile, each in zip(specs, acquisition.tiles, pieces, strict=True):
            assert tile.img_path == each["name"]
            right, spec = each["right"], (each.get("tool") or {}).get("tilespec")
            if spec is None:
                assert not each["exists"]
                continue
            assert made["mipmapLevels"]["0"]["imageUrl"] == f"{path_to_uri(idocs)}/{each['name']}"
            assert made["tileId"] == f"{spec['tileId']}.7.0"
            assert [made["width"], made["height"]] == right["file_size_px"]
            ((transform,), (wanted,)) = made["transforms"]["specList"], spec["transforms"]["specList"]
            assert transform == wanted
            layout = made["layout"]
            assert layout["pixelsize"] == right["pixel_size_nm"] == pytest.approx(spec["layout"]["pixelsize"])
            assert (layout["sectionId"], layout["camera"]) == ("7.0", "0")
            assert layout["temca"] == expected(name)["titles"][0].strip()
            assert [layout["stageX"], layout["stageY"]] == pytest.approx([1000 * um for um in right["stage_um"]])
            compared += 1
    assert compared == sum(each["exists"] for each in sample)


@real_data
@pytest.mark.parametrize("name", SAMPLES)
def test_positions_rows_and_columns_equal_the_expected_ones(name: str, idocs: Path) -> None:
    sample = expected(name)["pieces"]
    for group, acquisition in montages(idocs / name).items():
        pieces = [each for each in sample if each["group"] == group]
        places = translations_for(acquisition.tiles, Positions.EXACT, Origin.ROI)
        cells: dict[int, list[tuple[int | None, int | None]]] = {}
        first_x, first_y = places[0]
        wanted_x, wanted_y = pieces[0]["right"][
            "translation_roi_px"
        ]  # an absent image does not move the expected origin
        for place, tile, each in zip(places, acquisition.tiles, pieces, strict=True):
            if each["exists"]:
                x, y = each["right"]["translation_roi_px"]
                assert place == (first_x + x - wanted_x, first_y + y - wanted_y)
            cells.setdefault(each["mont_section"], []).append((tile.raster_row, tile.raster_col))
        for section, found in cells.items():
            top, left = (min(each[axis] or 0 for each in found) for axis in (0, 1))
            right = [each["right"]["row_col_in_section"] for each in pieces if each["mont_section"] == section]
            assert [[(row or 0) - top, (column or 0) - left] for row, column in found] == right


@real_data
def test_contradictions_in_the_samples_are_warnings(idocs: Path) -> None:
    found = montages(idocs / "mont01.idoc")
    texts = {group: [finding.text for finding in READER.check(each, IDOC)] for group, each in found.items()}
    size = "images have 2000x2000 pixels, the metafile says 2048x2048"
    assert texts["mont_0"] == [size]
    assert texts["nav_6"] == ["1 of 26 images have no aligned coordinates: test_0030.jpg", size]
    assert {group: each.fact("z_index") for group, each in found.items()} == {
        "mont_0": 0,
        "mont_1": 1,
        "nav_6": 6,
        "nav_7": 7,
        "mont_17": 17,
    }
    assert found["mont_17"].pixel_size_nm == (4.489, 4.489)


@real_data
@pytest.mark.parametrize("name", ["montage_section.mdoc", "montage_section_multiple.mdoc"])
def test_positions_rows_and_columns_in_a_stack_equal_the_expected_ones(name: str) -> None:
    file = HERE / name
    sample = json.loads((HERE / "expected_mdoc.json").read_text())["files"][name]
    paths = [Path(path) for path, _ in MontageFollower().sections(str(file))]
    assert len(paths) == len(sample["sections"])
    for path, section in zip(paths, sample["sections"], strict=True):
        found = READER.parse(metafile_content(path), path)
        places = translations_for(found.tiles, Positions.EXACT, Origin.ROI)
        assert [list(place) for place in places] == [tile["translation_roi_px"] for tile in section["tiles"]]
        assert [[tile.raster_row, tile.raster_col] for tile in found.tiles] == [
            tile["row_col"] for tile in section["tiles"]
        ]
        assert [tile.section for tile in found.tiles] == [tile["zvalue"] for tile in section["tiles"]]
        assert {tile.img_path for tile in found.tiles} == {sample["image_file"]}
        assert found.fact("grid") == section["navigator_label"]
        assert found.declared_size == tuple(sample["image_size"])
        assert found.pixel_size_nm == (sample["pixel_size_nm"],) * 2


# -------------------------------------------------------------------------------------------- files of single pieces


def test_y_points_up_in_the_file_and_down_in_the_tile_specs() -> None:
    found = read(piece(0, 0, 0), piece(1, 0, 40), piece(2, 50, 40), end())
    assert [tile.position_px for tile in found.tiles] == [(0, 0), (0, -40), (50, -40)]
    assert [(tile.raster_col, tile.raster_row) for tile in found.tiles] == [(0, 1), (0, 0), (1, 0)]


def test_a_supermontage_has_its_own_coordinates_corrected_by_the_alignment() -> None:
    values = {"SuperMontCoords": "500 900", "AlignedPieceCoords": "12 37 4", "NavigatorLabel": "7-1-4"}
    found = read(piece(0, 10, 40, 4, **values), end(4))
    assert found.tiles[0].position_px == (502, -897)
    assert found.fact("grid") == "7"
    assert found.fact("z_index") == 7


def test_the_alignment_without_very_sloppy_is_preferred() -> None:
    found = read(piece(AlignedPieceCoordsVS="9 9 0", AlignedPieceCoords="1 2 0"), end())
    assert found.tiles[0].position_px == (1, -2)


def test_a_piece_without_aligned_coordinates_keeps_its_coordinates() -> None:
    unplaced = piece(1, 50, 0, AlignedPieceCoords="-1000000000 -1000000000 0")
    found = read(piece(0, 0, 0, AlignedPieceCoords="1 2 0"), unplaced, end())
    assert found.tiles[1].position_px == (50, 0)
    assert [finding.text for finding in found.findings] == ["1 of 2 images have no aligned coordinates: run_0001.tif"]


def test_a_negative_uncropped_size_changes_nothing() -> None:
    uncropped, plain = (read(piece(**values), end()) for values in ({"UncroppedSize": "-64 -48"}, {}))
    assert uncropped == plain


@pytest.mark.parametrize(
    ("values", "correlation"),
    [
        ({"XedgeDxyVS": "1 2 0.25", "YedgeDxyVS": "1 2 0.5"}, 0.25),
        ({"XedgeDxy": "1 2", "YedgeDxyVS": "1 2 0.5"}, 0.5),
        ({"XedgeDxyVS": "0 0 -1.5"}, None),
        ({"XedgeDxyVS": "0 0 nan"}, None),
        ({}, None),
    ],
)
def test_the_lower_correlation_of_the_edges_is_a_quality_number(values: dict[str, str], correlation: float) -> None:
    found = read(piece(**values), end())
    assert found.tiles[0].numbers.get("edge_correlation") == correlation
    kept = quality_of(found, ["a"]).tiles.edge_correlation[0]
    assert kept == correlation if correlation is not None else kept != kept  # NaN


@pytest.mark.parametrize(
    ("values", "item", "z"),
    [
        ({"NavigatorLabel": "109"}, "109", 109),
        ({"NavigatorLabel": "7-1-4"}, "7-1-4", None),
        ({"NavigatorLabel": "A1-2-3", "SuperMontCoords": "0 0"}, "A1", None),
        ({"SuperMontCoords": "0 0"}, None, 3),
        ({}, None, 3),
    ],
)
def test_the_item_of_the_navigator_names_the_section(values: dict[str, str], item: str | None, z: int | None) -> None:
    facts = read(piece(section=3, **values), end(3)).facts
    assert (facts["grid"], facts["z_index"]) == (item, z)
    assert (facts["specimen_id"], facts["session_id"]) == ("block_7", "run_12")


def test_z_follows_from_the_name_of_the_file() -> None:
    path = IDOC / "montage@00000"
    rule = ZRule(ZRuleKind.NAME, name_pattern=r"_(?P<z>\d+)\.idoc/")
    assert z_for(read(piece(), end(), path=path), path, rule) == 12


def test_the_scope_is_the_title_without_its_time() -> None:
    assert read(piece(), end()).scope_id == "SerialEM: Talos"


def test_an_entry_of_unusual_length_is_refused() -> None:
    with pytest.raises(MetafileFault, match=r"line 10 .*: should be a line \[Image = name\], with at most 64 KiB"):
        read(piece(0), piece(1, Notes="x" * 70_000), end())


def test_a_long_head_is_truncated() -> None:
    content = HEAD.replace("[T", "T").encode() + b"key = 1\n" * 1_000_000
    found = read_autodoc(content)
    assert not found.montages
    assert len(found.head) <= 1 << 20


def test_a_file_of_several_montages_needs_the_name_of_one() -> None:
    texts = (piece(0), end(), piece(1, section=1), end(1))
    with pytest.raises(MetafileFault, match=r"holds 2 montages: montage@00000, montage@00001") as caught:
        read(*texts)
    assert caught.value.hint == f"name one of them, as in {IDOC}/montage@00000"
    assert read(*texts, path=IDOC / "montage@00001").tiles[0].name == "run_0001"


def test_a_montage_without_its_last_entry_is_awaited() -> None:
    with pytest.raises(MetafileOpen, match=r"has no line \[MontSection = 0\]"):
        read(piece())


def test_an_unfinished_montage_ends_when_a_later_one_begins() -> None:
    found = read(piece(0), piece(1, section=1), end(1), path=IDOC / "montage@00000")
    (finding,) = found.findings
    assert finding.text == "was not finished: [MontSection] is missing for 0, and later sections follow"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            piece(x="NaN"),
            "line 7 ([Image = run_0000.tif]): PieceCoordinates should be 3 numbers up to 1e+09, is 'NaN 0 0'",
        ),
        (piece(x="1e300"), "PieceCoordinates should be 3 numbers"),
        (piece(section=-1), "should have PieceCoordinates: x, y and the number of the montage"),
        (piece(section=0.5), "should have PieceCoordinates: x, y and the number of the montage"),
        (piece(SuperMontCoords="1"), "SuperMontCoords should be 2 numbers"),
        (piece(StagePosition="1 inf"), "StagePosition should be 2 numbers"),
        (piece(AlignedPieceCoords="1 nan 0"), "AlignedPieceCoords should be 2 numbers"),
        (piece(PixelSpacing=0), "PixelSpacing should be a number of angstrom, is '0'"),
        (piece(PixelSpacing=""), "PixelSpacing should be a number of angstrom, is ''"),
        (piece(0) + piece(1, PixelSpacing=10), "all images should have one pixel size, found 1 nm, 1.676 nm"),
        (piece(image="../a.tif"), "line 7: Image: '../a.tif' leads out of"),
        (piece(image="/a.tif"), "is absolute"),
        (piece(image="C:\\a.tif"), "is absolute or has a backslash"),
        (piece(image=""), "line 7"),
        (
            piece(0) + "[Image run_0001.tif\nPieceCoordinates = 1 1 0\n",
            "line 10 ([ = ]): should be a line [Image = name]",
        ),
        ("[ZValue = 0]\nPieceCoordinates = 0 0 0\n", "ImageFile: '' is not a path of plain names"),
    ],
)
def test_an_invalid_piece_is_named(text: str, problem: str) -> None:
    with pytest.raises(MetafileFault, match=re.escape(problem)):
        read(text, end())


@pytest.mark.parametrize(
    ("image_file", "section", "problem"),
    [
        ("run.hdf", "0", "ImageFile = 'run.hdf' is not an MRC file: other stacks are not read"),
        ("run.tif", "0", "ImageFile = 'run.tif' is not an MRC file: other stacks are not read"),
        ("../run.mrc", "0", "ImageFile: '../run.mrc' leads out of"),
        ("run.mrc", "-1", "ZValue should be the number of a section, is '-1'"),
        ("run.mrc", "1e9", "ZValue should be the number of a section, is '1e9'"),
    ],
)
def test_an_invalid_place_in_a_stack_is_named(image_file: str, section: str, problem: str) -> None:
    text = f"{HEAD}ImageFile = {image_file}\n[ZValue = {section}]\nPieceCoordinates = 0 0 0\n{end()}"
    with pytest.raises(MetafileFault, match=re.escape(problem)):
        READER.parse(text.replace("[T = SerialEM: Talos     25-Mar-21  16:59:53]\n", "").encode(), IDOC)


def test_a_tile_in_a_stack_has_the_name_of_the_stack_and_its_section_and_needs_an_output_dir() -> None:
    text = "PixelSpacing = 10\nImageFile = run.mrc\n\n[ZValue = 12]\nPieceCoordinates = 0 0 0\n" + end()
    found = READER.parse(text.encode(), IDOC)
    assert (found.tiles[0].name, found.tiles[0].section) == ("run_0012", 12)
    options = options_for(READER)
    with pytest.raises(MetafileFault, match=r"run\.mrc: holds many images, and render-ws reads none of them"):
        tile_specs_for(found, 3, IDOC.parent, options)
    (spec,) = tile_specs_for(found, 3, IDOC.parent, replace(options, output_dir=Path("/mips")))
    assert spec["mipmapLevels"]["0"]["imageUrl"] == "file:///mips/0/data/block_7/run.mrc/section_00012.tif"


def test_an_invalid_size_is_refused() -> None:
    content = (HEAD + piece() + end()).replace("64 48", "64 0").encode()
    with pytest.raises(MetafileFault, match="ImageSize should be two numbers from 1 to 65536, is '64 0'"):
        READER.parse(content, IDOC)


def test_text_of_another_kind_is_refused_and_the_head_of_a_file_is_awaited() -> None:
    with pytest.raises(MetafileFault, match="should be an idoc or mdoc of SerialEM"):
        READER.parse(b"Dear operator,\nthis is something else.\n", IDOC)
    with pytest.raises(MetafilePartial, match="names no image"):
        READER.parse(HEAD.encode(), IDOC)


# --------------------------------------------------------------------------------------------- files that are rewritten


def names(found: list[tuple[str, Any]]) -> list[str]:
    return [Path(path).name for path, _ in found]


def test_a_montage_is_reported_from_its_first_image_on_and_at_each_change(tmp_path: Path) -> None:
    file, follower = tmp_path / "run.idoc", MontageFollower()
    file.write_text(HEAD)
    assert follower.sections(str(file)) == []
    reported = []
    for text in (piece(0), piece(1, 50), end(), piece(2, section=1), end(1), "\n"):
        with file.open("a") as growing:
            growing.write(text)
        reported.append(names(follower.sections(str(file))))
    assert reported == [["montage@00000"]] * 3 + [["montage@00001"]] * 2 + [[]]
    aligned = file.read_text().replace(
        "PieceCoordinates = 50 0 0\n", "PieceCoordinates = 50 0 0\nAlignedPieceCoords = 51 2 0\n"
    )
    file.write_text(aligned)
    assert names(follower.sections(str(file))) == ["montage@00000"]
    assert follower.identity(str(file / "montage@00001")) == find_metafile(file / "montage@00001").identity  # type: ignore[union-attr]


def test_an_unfinished_montage_changes_once_when_a_later_one_begins(tmp_path: Path) -> None:
    file, follower = tmp_path / "run.idoc", MontageFollower()
    file.write_text(HEAD + piece(0))
    follower.sections(str(file))
    file.write_text(HEAD + piece(0) + piece(1, section=1))
    assert names(follower.sections(str(file))) == ["montage@00000", "montage@00001"]
    file.write_text(
        HEAD + piece(0) + piece(1, section=1, AlignedPieceCoords="1 1 1") + piece(2, 50, section=1) + end(1)
    )
    assert names(follower.sections(str(file))) == ["montage@00001"]
    found = READER.parse(metafile_content(file / "montage@00000"), file / "montage@00000")
    assert len(found.tiles) == 1


def test_a_file_of_another_kind_is_reported_itself_and_links_are_not_read(tmp_path: Path) -> None:
    other, link = tmp_path / "notes.idoc", tmp_path / "link.idoc"
    other.write_text("Dear operator,\nthis is something else.\n")
    link.symlink_to(other)
    follower = MontageFollower()
    assert names(follower.sections(str(other))) == ["notes.idoc"]
    assert follower.sections(str(link)) == []
    assert follower.identity(str(other)) is not None
    assert follower.identity(str(other / "montage@00000")) is None
    assert find_metafile(other / "montage@00000") is None


def test_a_tilt_series_is_ignored_and_its_import_is_refused(tmp_path: Path) -> None:
    series = tmp_path / "tilt.mrc.mdoc"
    series.write_text("PixelSpacing = 16.76\nImageFile = tilt.mrc\n\n[ZValue = 0]\nTiltAngle = -60\n")
    assert MontageFollower().sections(str(series)) == []
    with pytest.raises(MetafileFault, match="holds no montage: its images have no PieceCoordinates"):
        READER.parse(series.read_bytes(), series)


def test_a_path_of_a_montage_names_its_file() -> None:
    path = IDOC / "supermontage@A%201"
    assert is_inside_file(path)
    assert file_of(path) == IDOC
    assert montage_in(path) == "supermontage@A%201"
    assert place_in_file(path) != place_in_file(IDOC / "montage@00000")
    assert READER.image_directory(path) == IDOC.parent


def test_special_characters_of_an_item_are_escaped_in_its_name() -> None:
    text = piece(SuperMontCoords="1 1", NavigatorLabel="../ä 1-2-3") + end()
    (name,) = read_autodoc((HEAD + text).encode()).montages
    assert montage_in(IDOC / name) == name == "supermontage@..%2F%C3%A4%201"


def test_the_positions_of_the_simulated_microscope_are_read(tmp_path: Path) -> None:
    plan = plan_section(tiles=5, size=(40, 30))
    written = write_in_format("serialem", plan, tmp_path, pixels="flat")
    found = READER.parse(metafile_content(written.metafile), written.metafile)
    places = translations_for(found.tiles, Positions.EXACT, Origin.ROI)
    left, top = min(tile.left_px for tile in plan.tiles), min(tile.top_px for tile in plan.tiles)
    assert places == tuple((tile.left_px - left, tile.top_px - top) for tile in plan.tiles)
    assert found.fact("z_index") == plan.z_index
    assert all(os.path.lexists(written.directory / tile.img_path) for tile in found.tiles)
