"""The three import commands: input files and flags, results, and the contents of the stacks afterwards."""

import asyncio
import json
import os
import pty
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from daemon.commands.imports.commands import run_command
from daemon.simulator.delivery import Written
from handlers.images.encode import Encoding
from handlers.mipmaps.plan import MipmapPlan
from handlers.render.names import StackId
from handlers.sync import apply_mipmaps_to_stack_sync, generate_mipmaps_sync, generate_tilespecs_sync
from handlers.uris import uri_to_path
from tests.acceptance.facility import APPLY, MIPMAPS, TILESPECS, Facility
from tests.acceptance.rig import OWNER, PROJECT, Rig, fetch, verify_levels
from tests.unit import asap
from tests.unit.tiffs import Kind

MONTAGE = "_metadata_20170829130146_295434_5LC_0064_01_redo_001050_0_.json"
LENS_SET = "_metadata_20170502174048_295434_5LC_0064_01_20170502174047_reference_0_.json"
IMAGES = "file:///acquisitions/temca2/001050/0"


# --- the main job


def test_the_three_commands_make_the_same_stacks_and_files_as_the_daemon(
    rig: Rig, write: Callable[..., Written], capsys: pytest.CaptureFixture[str]
) -> None:
    rig.start_standin()
    rig.start()
    section = write(1050, 6)
    rig.wait_until("complete", section.metafile)
    rig.daemon.stop()
    by_daemon = {stack: rig.tiles(f"20314_2L_{stack}", 1050.0) for stack in ("raw", "mips")}
    files = {path: path.read_bytes() for path in rig.mipmaps.rglob("*.tif")}
    shutil.rmtree(rig.mipmaps)

    facility = Facility(rig.root, rig.render_url, PROJECT, capsys)
    facility.run(TILESPECS, metafile=str(section.metafile), stack="raw", z_index=1050, close_stack=True)
    facility.run(MIPMAPS, input_stack="raw", output_dir=str(rig.mipmaps), z=1050, pool_size=2)
    facility.run(APPLY, input_stack="raw", output_stack="mips", mipmap_dir=str(rig.mipmaps), z=1050, close_stack="True")

    for stack in ("raw", "mips"):
        assert facility.tiles(stack) == by_daemon[stack]
        assert facility.state(stack) == "COMPLETE"
    assert {path: path.read_bytes() for path in rig.mipmaps.rglob("*.tif")} == files
    versions = [fetch(facility.stack_url(stack))["currentVersion"] for stack in ("20314_2L_mips", "mips")]
    assert len({(version["stackResolutionX"], version["stackResolutionZ"]) for version in versions}) == 1


@pytest.mark.parametrize(
    ("region", "given", "expected"),
    [
        (asap.MONTAGE, {"z": 1050}, {}),
        (
            asap.MONTAGE,
            {"z_index": "1050", "minimum_intensity": 10, "maximum_intensity": "60000", "sectionId": "5LC_1050"},
            {"minIntensity": 10, "maxIntensity": 60000, "sectionId": "5LC_1050"},
        ),
        (asap.LENS_SET, {"minZ": 7, "maxZ": 7}, {}),
        (asap.MONTAGE, {"zValues": [1050], "positions": "exact"}, {"translation": "exact"}),
        (asap.MONTAGE, {"z": 1050, "positions": "exact", "origin": "stage"}, {"translation": "on_stage"}),
    ],
    ids=["montage", "options", "lens set", "exact", "on the stage"],
)
def test_tile_specs_in_the_stack_equal_those_computed_by_hand(
    facility: Facility, region: asap.Region, given: dict[str, Any], expected: dict[str, Any]
) -> None:
    metafile = facility.root / region.name
    metafile.write_bytes(region.raw())
    prefix = Path(asap.IMAGES).as_uri()
    facility.run(TILESPECS, metafile=str(metafile), output_stack="raw", image_prefix=prefix, **given)
    found = facility.tiles("raw", region.z)
    wanted = {spec["tileId"]: spec for spec in region.expected(**expected)}
    assert found.keys() == wanted.keys()
    derived = {"minX", "minY", "maxX", "maxY", "meshCellSize"}
    for tile_id, spec in wanted.items():
        assert {key: value for key, value in found[tile_id].items() if key not in derived} == spec


@pytest.mark.parametrize(
    ("metafile", "given", "expected"),
    [
        (MONTAGE, {"z": 1050, "image_prefix": IMAGES}, "asap_tilespecs_001050.json"),
        (
            MONTAGE,
            {
                "z_index": "1050",
                "image_prefix": IMAGES,
                "minimum_intensity": 10,
                "maximum_intensity": "60000",
                "sectionId": "5LC_1050",
            },
            "asap_tilespecs_001050_options.json",
        ),
        (
            LENS_SET,
            {"minZ": 7, "maxZ": 7, "image_prefix": "file:///acquisitions/temca2/reference"},
            "asap_tilespecs_reference.json",
        ),
    ],
    ids=["montage", "options", "lens set"],
)
def test_tile_specs_equal_those_of_the_old_tool(
    facility: Facility, shared_data: Path, metafile: str, given: dict[str, Any], expected: str
) -> None:
    wanted = {spec["tileId"]: spec for spec in json.loads((shared_data / expected).read_text())}
    facility.run(TILESPECS, metafile_uri=(shared_data / metafile).as_uri(), output_stack="raw", **given)
    found = facility.tiles("raw", next(iter(wanted.values()))["z"])
    assert found.keys() >= wanted.keys()
    derived = {"minX", "minY", "maxX", "maxY", "meshCellSize"}
    for tile_id, spec in wanted.items():
        assert {key: value for key, value in found[tile_id].items() if key not in derived} == spec


def test_the_installed_command_prints_its_result_on_stdout_and_sets_the_exit_code(facility: Facility) -> None:
    section = facility.section()
    command = [sys.executable, "-m", "daemon", TILESPECS, "--input_json", str(facility.input(z_index=1050))]
    ended = subprocess.run(
        [*command, "--metafile", str(section.metafile), "--stack", "raw"], capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout)["stack"] == "raw"


# --- ways to give parameters, and to get the result


def test_input_files_that_were_written_for_the_old_tools_run_unchanged(facility: Facility) -> None:
    """The keys and types are those of the examples of asap-modules: booleans as strings, zstart and zend, tif, PIL."""
    section = facility.section()
    facility.run(
        TILESPECS,
        metafile=str(section.metafile),
        stack="acquired",
        overwrite_zlayer=True,
        pool_size=10,
        close_stack=True,
        z_index=1015,
    )
    shared = {"input_stack": "acquired", "imgformat": "tif", "levels": 6, "zstart": 1015, "zend": 1015}
    made = facility.run(
        MIPMAPS,
        **shared,
        method="PIL",
        output_dir=str(facility.root / "mips"),
        convert_to_8bit="False",
        force_redo="True",
        pool_size=2,
    )
    assert {key: made[key] for key in ("levels", "output_prefix")} == {
        "levels": 6,
        "output_prefix": (facility.root / "mips").as_uri(),
    }
    applied = facility.run(APPLY, **shared, output_stack="mipmapped", mipmap_dir=str(facility.root / "mips"))
    assert (applied["output_stack"], applied["missing_ts_zs"]) == ("mipmapped", [])
    assert verify_levels(facility.tiles("mipmapped", 1015)) == 24


PAIRS = [
    (TILESPECS, "metafile_uri", "metafile", "/x/dummy_metafile.json"),
    (TILESPECS, "image_prefix", "image_directory", "/x/images"),
    (TILESPECS, "maskUrl_uri", "maskUrl", "/x/mask.png"),
    (TILESPECS, "output_stack", "stack", "other"),
    (TILESPECS, "z", "z_index", 7),
    (MIPMAPS, "output_prefix", "output_dir", "/x/mips"),
    (MIPMAPS, "input_stack", "stack", "other"),
    (MIPMAPS, "zValues", "zs", [7]),
    (MIPMAPS, "minZ", "zstart", 7),
    (MIPMAPS, "maxZ", "zend", 1051),
    (APPLY, "mipmap_prefix", "mipmap_dir", "/net/scratch"),
    (APPLY, "input_stack", "inputStack", "other"),
    (APPLY, "output_stack", "outputStack", "other"),
]


@pytest.mark.parametrize(("command", "used", "ignored", "value"), PAIRS, ids=lambda value: str(value)[:20])
def test_the_more_specific_name_of_a_parameter_is_used_and_a_warning_names_the_other(
    facility: Facility, command: str, used: str, ignored: str, value: object
) -> None:
    section = facility.section()
    facility.ingest(section)
    facility.make()
    (facility.root / "mask.png").write_bytes(b"")
    mips = (facility.root / "mips").as_uri()
    given: dict[str, dict[str, Any]] = {
        TILESPECS: {
            "metafile_uri": section.metafile.as_uri(),
            "image_prefix": section.metafile.parent.as_uri(),
            "maskUrl_uri": (facility.root / "mask.png").as_uri(),
            "output_stack": "raw",
            "z": 1050,
        },
        MIPMAPS: {"input_stack": "raw", "output_prefix": mips, "minZ": 1050, "maxZ": 1050, "levels": 1, "pool_size": 1},
        APPLY: {"input_stack": "raw", "output_stack": "mips", "mipmap_prefix": mips, "z": 1050, "levels": 1},
    }
    if used == "zValues":
        given[MIPMAPS] |= {"zValues": [1050]}
    plain = facility.run(command, **given[command])
    assert facility.errors == []
    result = facility.run(command, **given[command], **{ignored: value})
    (warning,) = result.pop("warnings")
    assert warning.startswith(f"{ignored}: {value!r} is ignored, because {used} is ")
    assert facility.errors == [f"WARNING {warning}"]
    assert {**result, "warnings": []} == plain


def test_a_null_under_the_more_specific_name_counts_as_not_given(facility: Facility) -> None:
    section = facility.section()
    result = facility.run(
        TILESPECS, metafile=str(section.metafile), metafile_uri=None, output_stack=None, stack="raw", z=1050
    )
    assert (result["stack"], result["tile_count"], result["warnings"]) == ("raw", 4, [])


@pytest.mark.parametrize(
    "words", [["[1050]"], ["1050"], ["[1050,", "1051]"], ["[1050, 1051]"], ["1050", "1051"], ["1050,1051"]], ids=repr
)
def test_a_list_of_z_may_be_one_argument_or_several(facility: Facility, words: list[str]) -> None:
    for z in (1050, 1051):
        facility.ingest(facility.section(z), z=z)
    given = {"input_stack": "raw", "output_dir": str(facility.root / "mips"), "pool_size": 1, "levels": 1}
    result = facility.run(MIPMAPS, "--zValues", *words, **given)
    assert result["tile_count"] == (8 if "1051" in "".join(words) else 4)


def test_a_stack_version_sets_the_resolution_of_a_new_stack(facility: Facility) -> None:
    section = facility.section(pixel_size_nm=4.0)
    given = {"stackResolutionX": 3.5, "stackResolutionZ": 40, "versionNotes": "first"}
    result = facility.ingest(section, output_stackVersion=given)
    assert result["warnings"] == ["output_stackVersion.versionNotes: is not used"]
    facility.make(levels=1)
    values = ["--output_stackVersion.stackResolutionValues", "[3, 3, 30]"]
    facility.apply(*values, levels=1, output_stack="mips", output_stackVersion={"stackResolutionX": 2})
    for stack, expected in (("raw", (3.5, 4.0, 40.0)), ("mips", (2.0, 3.0, 30.0))):
        version = fetch(facility.stack_url(stack))["currentVersion"]
        assert tuple(version[f"stackResolution{axis}"] for axis in "XYZ") == expected


def test_links_in_paths_are_resolved_and_uris_are_taken_literally(facility: Facility) -> None:
    section = facility.section()
    real, link = section.metafile.parent, facility.root / "link"
    link.symlink_to(real)
    (facility.root / "real_mips").mkdir()
    (facility.root / "mips").symlink_to("real_mips")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(real / "mask.png")
    by_path = {"metafile": str(link / section.metafile.name), "maskUrl": str(link / "mask.png")}
    by_uri = {f"{name}_uri": Path(path).as_uri() for name, path in by_path.items()}

    def level0(**values: Any) -> set[str]:
        facility.run(TILESPECS, stack="raw", z_index=1050, **values)
        levels = [tile["mipmapLevels"]["0"] for tile in facility.tiles("raw").values()]
        return {url.rpartition("/")[0] for level in levels for url in level.values()}

    assert level0(**by_uri) == {link.as_uri()}
    assert level0(**by_path, image_directory=str(link)) == {real.as_uri()}
    assert level0(metafile=by_path["metafile"]) == {real.as_uri()}
    made = facility.make(levels=1)
    assert made["output_prefix"] == (facility.root / "real_mips").as_uri()
    facility.apply(levels=1)
    urls = [tile["mipmapLevels"]["1"]["imageUrl"] for tile in facility.tiles("raw").values()]
    assert all(url.startswith(made["output_prefix"] + "/1/") for url in urls)


def test_a_cycle_of_links_is_named(facility: Facility) -> None:
    (facility.root / "round").symlink_to("round")
    facility.run(TILESPECS, code=2, metafile=str(facility.root / "round"), stack="raw", z=1)
    assert facility.errors[0].startswith("metafile: ")


def test_flags_override_the_input_file_under_each_name_of_a_parameter(facility: Facility) -> None:
    section = facility.section()
    flags = ["--z", "7", "--output_stack", "flagged", "--close_stack", "True", "--render.project", facility.project]
    result = facility.run(
        TILESPECS, *flags, metafile=str(section.metafile), stack="filed", zValues=[1, 2], close_stack=False
    )
    assert result["stack"] == "flagged"
    assert len(facility.tiles("flagged", 7)) == 4
    assert facility.state("flagged") == "COMPLETE"


def test_a_host_may_be_given_with_its_scheme(facility: Facility) -> None:
    section = facility.section()
    assert facility.run(
        TILESPECS,
        "--render.host",
        f"http://{facility.render['host']}",
        metafile=str(section.metafile),
        stack="raw",
        z_index=5.5,
    )
    assert len(facility.tiles("raw", 5.5)) == 4


def test_the_result_goes_to_the_output_file_and_stdout_stays_empty(facility: Facility) -> None:
    output = facility.root / "output.json"
    assert facility.ingest(facility.section(), output_json=str(output)) == {}
    assert json.loads(output.read_text())["stack"] == "raw"
    assert not list(facility.root.glob(".*.tmp"))


def test_progress_is_shown_on_a_terminal_and_not_in_a_pipe(facility: Facility) -> None:
    facility.ingest(facility.section())
    facility.make()
    assert facility.errors == []
    given = facility.input(input_stack="raw", output_dir=str(facility.root / "mips"), pool_size=1, z=1050, levels=1)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "daemon", MIPMAPS, "--input_json", str(given)], stdout=subprocess.DEVNULL, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
    os.close(ours)
    assert process.returncode == 0
    assert b"4/4" in shown


# --- tile specs


def test_overwriting_a_layer_puts_the_new_tiles_before_it_deletes_the_old_ones(facility: Facility) -> None:
    old, new = facility.section(1050, 4), facility.section(1051, 6)
    facility.ingest(old)
    facility.ingest(old, z=1051)
    before = len(facility.requests())
    facility.ingest(new, overwrite_zlayer=True)
    sent = facility.requests()[before:]
    put = next(index for index, line in enumerate(sent) if line.startswith("PUT") and "resolvedTiles" in line)
    deleted = [index for index, line in enumerate(sent) if line.startswith("DELETE")]
    assert deleted
    assert min(deleted) > put
    assert not [line for line in sent if line.startswith("DELETE") and "/z/" in line]
    assert len(facility.tiles("raw")) == 6
    assert len(facility.tiles("raw", 1051)) == 4


def test_old_tiles_that_cannot_be_deleted_fail_the_command_and_an_upload_that_fails_loses_none(
    facility: Facility,
) -> None:
    old, new = facility.section(1050, 4), facility.section(1051, 6)
    facility.ingest(old)
    given = {"metafile": str(new.metafile), "stack": "raw", "z_index": 1050, "overwrite_zlayer": True}
    facility.misbehave(r"PUT .*/z/1050.0/resolvedTiles.*", "status", status=500)
    facility.run(TILESPECS, code=1, **given)
    assert len(facility.tiles("raw")) == 4
    facility.behave()
    facility.misbehave(r"DELETE .*/tile/.*", "status", status=500)
    facility.run(TILESPECS, code=1, **given)
    assert "delete tile" in facility.errors[0]
    facility.behave()
    facility.run(TILESPECS, **given)
    assert len(facility.tiles("raw")) == 6


def test_a_region_is_uploaded_in_one_request(facility: Facility) -> None:
    before = len(facility.requests())
    facility.ingest(facility.section())
    assert sum("resolvedTiles" in line and line.startswith("PUT") for line in facility.requests()[before:]) == 1


def test_commands_that_close_the_same_stack_at_the_same_time_lose_no_tiles(facility: Facility) -> None:
    commands = []
    for z in range(1050, 1054):
        flags = ["--metafile", str(facility.section(z).metafile), "--stack", "raw", "--close_stack", "true"]
        given = ["--input_json", str(facility.input()), "--z_index", str(z)]
        commands.append([sys.executable, "-m", "daemon", TILESPECS, *given, *flags])
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for command in commands]
    ends = [(process.communicate()[1].decode(), process.returncode) for process in processes]
    lost = [z for z in range(1050, 1054) if len(facility.tiles("raw", z)) != 4]
    assert not lost, ends
    # A command reports if another one reopened or closed the stack; otherwise it succeeds.
    assert all(code == 0 or "reopened" in text or "closed by others" in text for text, code in ends), ends


@pytest.mark.parametrize(("maximum", "warned"), [(255, True), (65535, False)])
def test_16_bit_images_that_render_ws_would_show_white_cause_a_warning(
    facility: Facility, maximum: int, warned: bool
) -> None:
    section = facility.section()
    for image in section.images:
        Image.fromarray(np.full((128, 128), 40_000, np.uint16)).save(image)
    result = facility.ingest(section, maximum_intensity=maximum)
    assert any("16 bits" in warning for warning in result["warnings"]) == warned


def test_every_tile_names_the_mask(facility: Facility) -> None:
    mask = facility.root / "mask.png"
    Image.new("L", (128, 128), 255).save(mask)
    facility.ingest(facility.section(), maskUrl=str(mask))
    assert {tile["mipmapLevels"]["0"]["maskUrl"] for tile in facility.tiles("raw").values()} == {mask.as_uri()}


def test_a_z_that_differs_from_the_header_and_missing_images_cause_warnings(facility: Facility) -> None:
    section = facility.section()
    for image in section.images:
        image.unlink()
    warnings = facility.ingest(section, z=3)["warnings"]
    assert any("grid 1050" in warning for warning in warnings)
    assert any("none of the 4 images" in warning for warning in warnings)


@pytest.mark.parametrize("damage", ["missing", "truncated", "other size"])
def test_one_invalid_image_fails_the_metafile_before_any_upload(facility: Facility, damage: str) -> None:
    section = facility.section()
    image = section.images[2]
    if damage == "missing":
        image.unlink()
    elif damage == "truncated":
        os.truncate(image, 1000)
    else:
        Image.new("L", (64, 64)).save(image)
    facility.run(TILESPECS, code=1, metafile=str(section.metafile), stack="raw", z_index=1050)
    assert len(facility.errors) == 1
    assert image.name in facility.errors[0]
    assert "raw" not in {entry["stackId"]["stack"] for entry in _stacks(facility)}


def test_an_unsupported_compression_is_named_with_the_supported_ones(facility: Facility) -> None:
    section = facility.section(tiles=1)
    with Image.open(section.images[0]) as image:
        pixels = np.asarray(image)
    section.images[0].write_bytes(Kind(tags={259: (3, [34712])}).file(pixels))
    facility.run(TILESPECS, code=1, metafile=str(section.metafile), stack="raw", z_index=1050)
    (error,) = facility.errors
    assert "is compressed with JPEG 2000 (34712), which is not supported (save it uncompressed, or with LZW" in error
    assert "raw" not in {entry["stackId"]["stack"] for entry in _stacks(facility)}


def test_a_complete_stack_is_complete_again_after_a_failure(facility: Facility) -> None:
    facility.ingest(facility.section(), close_stack=True)
    facility.misbehave(r"PUT .*/z/1051.0/resolvedTiles.*", "status", status=500)
    section = facility.section(1051)
    facility.run(TILESPECS, code=1, metafile=str(section.metafile), stack="raw", z_index=1051)
    assert facility.state("raw") == "COMPLETE"


# --- mipmaps


def test_a_bad_tile_is_reported_with_its_reason_and_the_others_get_their_mipmaps(facility: Facility) -> None:
    section = facility.section()
    facility.ingest(section)
    bad, colour = section.images[1], section.images[2]
    os.truncate(bad, 5000)
    Image.new("RGB", (128, 128)).save(colour)
    made = facility.make(code=1)
    assert made["tile_count"] == 2
    assert {Path(failure["subject"]).name for failure in made["failures"]} == {bad.name, colour.name}
    assert all(failure["tileId"] and failure["problem"] and failure["z"] == 1050 for failure in made["failures"])
    assert len(facility.errors) == 2

    applied = facility.apply(code=1, output_stack="mips")
    assert applied["missing_ts_zs"] == [1050]
    assert {failure["tileId"] for failure in applied["failures"]} == {failure["tileId"] for failure in made["failures"]}
    levels = sorted(len(tile["mipmapLevels"]) for tile in facility.tiles("mips").values())
    assert levels == [1, 1, 3, 3], "the bad tiles are in the stack unchanged"


def test_without_force_redo_only_missing_and_invalid_levels_are_made(facility: Facility) -> None:
    facility.ingest(facility.section())
    facility.make()
    files = sorted((facility.root / "mips").rglob("*.tif"))
    kept, broken, lost = files[0], files[1], files[2]
    os.truncate(broken, 100)
    lost.unlink()
    times = {path: path.stat().st_mtime_ns for path in files if path.exists()}
    facility.make(force_redo="false")
    assert [path for path in files if times.get(path) != path.stat().st_mtime_ns] == [broken, lost]
    facility.make(force_redo="true")
    assert kept.stat().st_mtime_ns != times[kept]


def test_a_range_takes_the_existing_layers_and_listed_ones_must_exist(facility: Facility) -> None:
    facility.ingest(facility.section(1050))
    facility.ingest(facility.section(1052), z=1052)
    assert facility.make("--zstart", "1000", "--zend", "2000")["tile_count"] == 8
    made = facility.make(code=1, z=None, zValues=[1050, 1051, 1052])
    assert (made["tile_count"], [failure["z"] for failure in made["failures"]]) == (8, [1051])
    applied = facility.apply(code=1, z=None, zValues="[1050, 1051]")
    assert applied["missing_ts_zs"] == [1051]
    facility.make(code=1, z=1)
    assert "raw" in facility.errors[0]
    assert "z 1" in facility.errors[0]


def test_masks_get_levels_and_the_stack_names_them(facility: Facility) -> None:
    mask = facility.root / "mask.png"
    Image.new("L", (128, 128), 255).save(mask)
    facility.ingest(facility.section(), maskUrl=str(mask))
    facility.make()
    facility.apply()
    tiles = facility.tiles("raw")
    assert verify_levels(tiles, 2) == 8
    masks = {urls["maskUrl"] for tile in tiles.values() for urls in tile["mipmapLevels"].values()}
    assert len(masks) == 3
    for url in masks:
        with Image.open(uri_to_path(url)) as image:
            assert image.getextrema() == (255, 255)


def test_names_with_number_signs_blanks_and_percent_signs_keep_their_tiles_apart(facility: Facility) -> None:
    section = facility.section()
    facility.ingest(section)
    layer = fetch(f"{facility.stack_url('raw')}/z/1050/resolvedTiles")
    for number, spec in enumerate(layer["tileIdToSpecMap"].values()):
        image = uri_to_path(spec["mipmapLevels"]["0"]["imageUrl"])
        strange = image.rename(image.with_name(f"a tile #{number} of 100%25.tif"))
        spec["mipmapLevels"]["0"]["imageUrl"] = strange.as_uri()
    fetch(f"{facility.stack_url('raw')}/z/1050/resolvedTiles", method="PUT", body=layer)
    assert facility.make()["tile_count"] == 4
    assert facility.apply()["tile_count"] == 4
    assert verify_levels(facility.tiles("raw"), 2) == 8
    assert len(list((facility.root / "mips").rglob("*#*.tif.tif"))) == 8


@pytest.mark.parametrize("imgformat", ["tif", "tiff", "png", "jpg"])
def test_the_apply_command_names_the_files_that_the_mipmaps_command_wrote(facility: Facility, imgformat: str) -> None:
    facility.ingest(facility.section())
    facility.make(imgformat=imgformat)
    facility.apply(imgformat=imgformat, output_stack=None)
    levels = [tile["mipmapLevels"] for tile in facility.tiles("raw").values()]
    for urls in levels:
        for level in ("1", "2"):
            with Image.open(uri_to_path(urls[level]["imageUrl"])) as image:
                assert image.size == (128 >> int(level), 128 >> int(level))


def pixels_below(directory: Path) -> dict[Path, bytes]:
    """Return the pixels of every level. The files also contain their provenance, which differs."""
    return {path: Image.open(path).tobytes() for path in directory.rglob("*.tif")}


def test_the_method_render_reads_pixels_from_render_ws(facility: Facility) -> None:
    section = facility.section()
    facility.ingest(section)
    facility.make(method="render")
    by_render = pixels_below(facility.root / "mips")
    assert len(by_render) == 8
    assert any("source" in line or "image" in line for line in facility.requests() if section.images[0].stem in line)
    facility.make(method="block_reduce")
    assert by_render == pixels_below(facility.root / "mips")


def test_the_pool_has_the_requested_size(facility: Facility, monkeypatch: pytest.MonkeyPatch) -> None:
    import handlers.workers.processes

    counts: list[int] = []
    real = handlers.workers.processes.ProcessExecutor.__init__

    def record_count(self: Any, count: int, *more: Any) -> None:
        counts.append(count)
        real(self, count, *more)

    monkeypatch.setattr(handlers.workers.processes.ProcessExecutor, "__init__", record_count)
    facility.ingest(facility.section())
    facility.make(pool_size=2)
    assert counts == [2]


# --- apply


def test_a_run_with_fewer_levels_removes_the_others_from_the_stack(facility: Facility) -> None:
    facility.ingest(facility.section())
    facility.make(levels=3)
    facility.apply(levels=3)
    facility.apply(levels=1)
    assert {len(tile["mipmapLevels"]) for tile in facility.tiles("raw").values()} == {2}


def test_a_new_output_stack_has_the_resolution_of_its_source(facility: Facility) -> None:
    facility.ingest(facility.section(pixel_size_nm=4.0), resolution_z=40)
    facility.make()
    facility.apply(output_stack="mips")
    assert fetch(f"{facility.stack_url('mips')}/resolutionValues") == [4.0, 4.0, 40.0]


def test_overwriting_layers_removes_tiles_that_the_source_no_longer_has(facility: Facility) -> None:
    facility.ingest(facility.section(1050, 4))
    facility.make()
    facility.apply(output_stack="mips")
    facility.ingest(facility.section(1051, 6), overwrite_zlayer=True)
    facility.make()
    facility.apply(output_stack="mips", overwrite_zlayer=True)
    assert facility.tiles("mips").keys() == facility.tiles("raw").keys()


def test_mipmaps_of_raw_data_that_was_moved_are_reported_as_missing(facility: Facility) -> None:
    section = facility.section()
    facility.ingest(section)
    facility.make()
    moved = shutil.move(section.directory, facility.root / "moved")
    facility.ingest(Written(moved, moved / section.metafile.name, ()))
    applied = facility.apply(code=1)
    assert applied["missing_ts_zs"] == [1050]
    assert len(applied["failures"]) == 4
    assert "moved" in applied["failures"][0]["problem"]


def test_a_mipmap_of_another_size_is_not_applied(facility: Facility) -> None:
    facility.ingest(facility.section())
    facility.make()
    wrong = min((facility.root / "mips").rglob("*.tif"))
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(wrong)
    applied = facility.apply(code=1)
    assert len(applied["failures"]) == 1
    assert "3x3" in applied["failures"][0]["problem"]


def test_a_z_whose_upload_fails_is_reported_and_the_others_are_applied(facility: Facility) -> None:
    for z in (1050, 1051):
        facility.ingest(facility.section(z), z=z)
    facility.make(z=None, zstart=1050, zend=1051)
    facility.misbehave(r"PUT .*/stack/raw/z/1051.0/resolvedTiles.*", "status", status=400)
    applied = facility.apply(code=1, z=None, minZ=1050, maxZ=1051)
    assert applied["missing_ts_zs"] == [1051]
    assert {len(tile["mipmapLevels"]) for tile in facility.tiles("raw", 1050).values()} == {3}


# --- from a script or a notebook


def test_the_sync_functions_can_be_called_while_an_event_loop_runs(facility: Facility) -> None:
    section = facility.section()
    raw, mips = StackId(OWNER, facility.project, "raw"), StackId(OWNER, facility.project, "mips")
    plan = MipmapPlan(facility.root / "mips", levels=2, encoding=Encoding("png"))

    async def notebook() -> tuple[Any, Any, Any]:
        return (
            generate_tilespecs_sync(facility.render_url, section.metafile, raw, 1050.0, close=True),
            generate_mipmaps_sync(facility.render_url, raw, (1050.0,), plan, workers=1),
            apply_mipmaps_to_stack_sync(facility.render_url, raw, mips, (1050.0,), plan, close=True),
        )

    ingested, made, applied = asyncio.run(notebook())
    assert (ingested.ingested.tile_count, made.tile_count, made.file_count, applied.tile_count) == (4, 4, 8, 4)
    assert verify_levels(facility.tiles("mips"), 2) == 8
    assert threading.active_count() < 20


# --- wrong input


def _stacks(facility: Facility) -> list[dict[str, Any]]:
    return list(fetch(f"{facility.render_url}/owner/{OWNER}/project/{facility.project}/stacks") or [])


WRONG = [
    (MIPMAPS, {"method": "nope"}, "method"),
    (MIPMAPS, {"imgformat": "bmp"}, "imgformat"),
    (MIPMAPS, {"method": "PIL", "PIL_filter": "FOO"}, "PIL_filter"),
    (MIPMAPS, {"block_func": "sum"}, "block_func"),
    (MIPMAPS, {"levels": -1}, "levels"),
    (MIPMAPS, {"levels": [1, 3]}, "levels"),
    (MIPMAPS, {"levels": "six"}, "levels"),
    (MIPMAPS, {"z": None}, "z"),
    (MIPMAPS, {"z": "nan"}, "z"),
    (MIPMAPS, {"z": None, "zstart": 3}, "zend"),
    (MIPMAPS, {"z": None, "zstart": 3, "zend": 1}, "zend"),
    (MIPMAPS, {"z": None, "zValues": []}, "zValues"),
    (MIPMAPS, {"convert_to_8bit": "perhaps"}, "convert_to_8bit"),
    (MIPMAPS, {"pool_size": 0}, "pool_size"),
    (MIPMAPS, {"poolsize": 3}, "poolsize"),
    (MIPMAPS, {"quality": 90}, "quality"),
    (MIPMAPS, {"imgformat": "jpg", "compression": "lzw"}, "compression"),
    (MIPMAPS, {"intensity_range": [9, 3]}, "intensity_range"),
    (MIPMAPS, {"output_dir": "s3://bucket//mips"}, "output_dir"),
    (MIPMAPS, {"output_prefix": "ftp://bucket/mips"}, "output_prefix"),
    (MIPMAPS, {"output_dir": 7}, "output_dir"),
    (MIPMAPS, {"z": None, "zValues": "[1, 2"}, "zValues"),
    (MIPMAPS, {"output_stackVersion": {"stackResolutionX": 4}}, "output_stackVersion"),
    (MIPMAPS, {"input_stack": "no spaces"}, "input_stack"),
    (MIPMAPS, {"render": {"host": "h", "port": 8080, "owner": "em"}}, "render.project"),
    (MIPMAPS, {"render": {"host": "h", "port": "http", "owner": "em", "project": "p"}}, "render.port"),
    (MIPMAPS, {"render": {"host": "", "port": 1, "owner": "em", "project": "p"}}, "render.host"),
    (MIPMAPS, {"log_level": "LOUD"}, "log_level"),
    (APPLY, {"mipmap_dir": "/not/there"}, "mipmap_dir"),
    (APPLY, {"mipmap_dir": "gs://bucket/mips"}, "mipmap_url"),
    (APPLY, {"mipmap_url": "s3://bucket/mips"}, "mipmap_url"),
    (APPLY, {"stack": "raw"}, "stack"),
    (APPLY, {"output_json": "/not/there/output.json"}, "output_json"),
    (TILESPECS, {"metafile": "/not/there/_metadata_1.json"}, "metafile"),
    (TILESPECS, {"image_directory": "/not/there"}, "image_directory"),
    (TILESPECS, {"maskUrl": "/not/there/mask.png"}, "maskUrl"),
    (TILESPECS, {"minimum_intensity": 300}, "minimum_intensity"),
    (TILESPECS, {"z_index": None, "zstart": 1, "zend": 2}, "zstart"),
    (TILESPECS, {"z_index": None, "zValues": [1, 2]}, "zValues"),
    (TILESPECS, {"metafile_uri": "file:///not/there/_metadata_1.json"}, "metafile_uri"),
    (TILESPECS, {"output_stackVersion": {"stackResolutionX": 0}}, "output_stackVersion.stackResolutionX"),
    (TILESPECS, {"output_stackVersion": {"resolution": 4}}, "output_stackVersion.resolution"),
]


@pytest.mark.parametrize(("command", "wrong", "named"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_value_ends_with_exit_code_2_and_one_line_that_names_it(
    facility: Facility, command: str, wrong: dict[str, Any], named: str
) -> None:
    right: dict[str, dict[str, Any]] = {
        TILESPECS: {"metafile": __file__, "stack": "raw", "z_index": 1},
        MIPMAPS: {"input_stack": "raw", "output_dir": str(facility.root), "z": 1},
        APPLY: {"input_stack": "raw", "mipmap_dir": str(facility.root), "z": 1},
    }
    facility.run(command, code=2, **right[command] | wrong)
    assert len(facility.errors) == 1, facility.errors
    assert named in facility.errors[0].partition(": ")[0].split(", ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("{", "not JSON"), ("[1]", "is not a JSON object"), ('{"z": 1, "z": 2}', "twice"), (None, "cannot be read")],
)
def test_an_invalid_input_file_ends_with_exit_code_2(
    facility: Facility, capsys: pytest.CaptureFixture[str], text: str | None, expected: str
) -> None:
    path = facility.root / "input.json"
    if text is not None:
        path.write_text(text)
    assert run_command(MIPMAPS, ["--input_json", str(path)]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("input_json: ")
    assert expected in shown


def test_an_unknown_flag_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(MIPMAPS, ["--poolsize", "3"]) == 2
    assert "poolsize" in capsys.readouterr().err


def test_an_unreachable_service_ends_with_exit_code_1_and_one_line(facility: Facility, unused_tcp_port: int) -> None:
    facility.run(
        MIPMAPS,
        code=1,
        render={**facility.render, "port": unused_tcp_port},
        input_stack="raw",
        output_dir=str(facility.root / "mips"),
        z=1,
        pool_size=1,
    )
    assert len(facility.errors) == 1
    assert str(unused_tcp_port) in facility.errors[0]


def test_the_printed_schema_has_every_parameter(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command(MIPMAPS, ["--print_schema"])
    schema = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0
    assert set(schema["required"]) == {"render", "input_stack", "output_dir"}
    documented = "input_stack output_dir method imgformat levels convert_to_8bit force_redo pool_size z zstart zend"
    assert set(f"{documented} log_level input_json output_json render".split()) <= schema["properties"].keys()
