"""The main job: a metafile arrives and its stack becomes COMPLETE, with the daemon as a process."""

import json
import shutil
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from daemon.simulator.delivery import Arrival, Delivery
from tests.acceptance.rig import Rig, fetch, verify_levels, wait_for
from tests.tiles_of_metafile import write_tiles_for

SPECIMEN = "20314_2L"


@pytest.fixture(params=["directly", pytest.param("through nginx", marks=pytest.mark.slow)])
def rig(rig: Rig, request: pytest.FixtureRequest) -> Rig:
    """The rig; in the long tests also with a real nginx between the daemon and render-ws."""
    rig.is_behind_nginx = rig.is_behind_nginx or request.param == "through nginx"
    return rig


def test_a_new_section_becomes_complete_with_every_level_at_the_url_that_the_stack_names(running_rig, write):
    section = write()
    running_rig.wait_until("complete", section.metafile)
    assert running_rig.stack_state(f"{SPECIMEN}_raw") == "COMPLETE"
    assert running_rig.stack_state(f"{SPECIMEN}_mips") == "COMPLETE"
    tiles = running_rig.tiles(f"{SPECIMEN}_mips", 1050.0)
    assert len(tiles) == len(section.images) == 4
    assert verify_levels(tiles) == 24
    assert all(list(tile["mipmapLevels"]) == ["0"] for tile in running_rig.tiles(f"{SPECIMEN}_raw", 1050.0).values())


def test_a_stack_is_closed_only_when_no_step_has_used_it_for_some_time(rig, write):
    rig.settings["watch.stacks.close_after_s"] = 3
    rig.start_standin()
    rig.start()
    section = write()
    rig.wait_until("complete", section.metafile)
    events = rig.montage(rig.montage_of(section.metafile)["id"])["events"]
    at = {event["event"]: datetime.fromisoformat(event["at"]) for event in events}
    assert (at["completed"] - at["applied"]).total_seconds() > 2.5


def test_the_stack_is_created_with_the_resolution_of_the_calibration(running_rig, write):
    section = write(pixel_size_nm=4.0)
    running_rig.wait_until("complete", section.metafile)
    assert fetch(f"{running_rig.stack_url(f'{SPECIMEN}_raw')}/resolutionValues") == [4.0, 4.0, 45.0]


def test_nothing_is_written_to_the_acquisition_directory(running_rig, write):
    section = write()
    before = sorted(running_rig.acquisition.rglob("*"))
    running_rig.wait_until("complete", section.metafile)
    assert sorted(running_rig.acquisition.rglob("*")) == before


def test_metafiles_from_before_the_start_are_processed_too(rig, write):
    sections = [write(grid) for grid in (1050, 1051, 1052)]
    rig.start_standin()
    rig.start()
    rig.wait_until("complete", *(section.metafile for section in sections))


def test_a_metafile_that_arrives_before_its_images_becomes_complete(running_rig, write):
    section = write(metafile_first=True, delivery=Delivery(tile_pause_s=0.4))
    running_rig.wait_until("complete", section.metafile)
    assert verify_levels(running_rig.tiles(f"{SPECIMEN}_mips", 1050.0)) == 24


@pytest.mark.slow
@pytest.mark.parametrize("arrival", [Arrival.PIECES, Arrival.PREALLOCATED])
def test_images_of_a_slow_writer_are_complete_when_levels_are_made(running_rig, write, arrival):
    delivery = Delivery(arrival, piece_bytes=4096, piece_pause_s=0.1)
    section = write(metafile_first=True, delivery=delivery)
    running_rig.wait_until("complete", section.metafile)
    tiles = running_rig.tiles(f"{SPECIMEN}_mips", 1050.0)
    for tile in tiles.values():
        named = tile["mipmapLevels"]
        with Image.open(named["0"]["imageUrl"].removeprefix("file://")) as level0:
            mean = sum(level0.get_flattened_data()) / (level0.width * level0.height)
        with Image.open(named["6"]["imageUrl"].removeprefix("file://")) as level6:
            assert abs(sum(level6.get_flattened_data()) / (level6.width * level6.height) - mean) < 1


def test_a_touched_metafile_is_not_processed_twice(running_rig, write):
    section = write()
    running_rig.wait_until("complete", section.metafile)
    montage = running_rig.montage_of(section.metafile)

    def seen_again() -> bool:
        # New times cause no file event that the daemon uses, and a scan lists only directories that have changed.
        section.metafile.touch()
        section.metafile.open("ab").close()
        time.sleep(3)  # each touch restarts the settle time
        events = running_rig.montage(montage["id"])["events"]
        return "seen_again" in [event["event"] for event in events]

    wait_for(seen_again, 60, lambda: str(running_rig.montage(montage["id"])["events"]))
    assert [row["state"] for row in running_rig.montages()] == ["complete"]


def test_new_content_supersedes_the_old_content_and_only_its_tiles_remain(running_rig, write):
    section = write()
    running_rig.wait_until("complete", section.metafile)
    first = running_rig.montage_of(section.metafile)
    content = json.loads(section.metafile.read_bytes())
    gone = content[1]["data"].pop()["img_path"]
    section.metafile.write_text(json.dumps(content))
    wait_for(lambda: any(row["state"] == "superseded" for row in running_rig.montages()), 60)
    running_rig.wait_until("complete", section.metafile)
    assert running_rig.montage_of(section.metafile)["id"] != first["id"]
    for stack in ("raw", "mips"):
        tiles = running_rig.tiles(f"{SPECIMEN}_{stack}", 1050.0)
        assert len(tiles) == 3
        assert not any(tile_id.startswith(Path(gone).stem) for tile_id in tiles)


def test_the_raw_stack_is_updated_in_place_if_no_other_stack_is_configured(rig, write):
    rig.settings["watch.stacks.mipmapped"] = ""
    rig.start_standin()
    rig.start()
    section = write()
    rig.wait_until("complete", section.metafile)
    assert verify_levels(rig.tiles(f"{SPECIMEN}_raw", 1050.0)) == 24
    assert rig.stack_state(f"{SPECIMEN}_mips") is None


def test_a_path_builder_is_set_instead_of_rewriting_tiles(rig, write):
    rig.settings["watch.mipmaps.apply"] = "path_builder"
    rig.start_standin()
    rig.start()
    section = write()
    rig.wait_until("complete", section.metafile)
    builder = fetch(f"{rig.stack_url(f'{SPECIMEN}_mips')}/mipmapPathBuilder")
    assert (builder["rootPath"], builder["numberOfLevels"], builder["extension"]) == (f"{rig.mipmaps}/", 6, "tif")
    for image in section.images:
        for level in range(1, 7):
            assert Path(f"{builder['rootPath']}{level}{image}.tif").is_file()


def test_every_level_names_a_mask_of_its_size(rig, write):
    mask = rig.root / "mask.png"
    Image.new("L", (128, 128), 255).save(mask)
    rig.settings["watch.tilespecs.mask"] = str(mask)
    rig.start_standin()
    rig.start()
    section = write()
    rig.wait_until("complete", section.metafile)
    for tile in rig.tiles(f"{SPECIMEN}_mips", 1050.0).values():
        for level, entry in tile["mipmapLevels"].items():
            with Image.open(entry["maskUrl"].removeprefix("file://")) as image:
                assert image.size == (128 >> int(level), 128 >> int(level))


def test_a_lens_correction_found_in_the_metafile_is_shared_by_its_tiles(rig, write):
    rig.settings["watch.tilespecs.shared_transform"] = True
    rig.start_standin()
    rig.start()
    lens = {
        "type": "leaf",
        "id": "lens_1",
        "className": "mpicbg.trakem2.transform.AffineModel2D",
        "dataString": "1.0 0.0 0.0 1.0 0.0 0.0",
    }
    section = write(appended={"sharedTransform": lens})
    rig.wait_until("complete", section.metafile)
    for stack in ("raw", "mips"):
        found = fetch(f"{rig.stack_url(f'{SPECIMEN}_{stack}')}/z/1050.0/resolvedTiles")
        assert list(found["transformIdToSpecMap"]) == ["lens_1"]
        for tile in found["tileIdToSpecMap"].values():
            assert tile["transforms"]["specList"][0] == {"type": "ref", "refId": "lens_1"}


def test_16_bit_images_that_render_ws_would_show_white_cause_a_finding(running_rig, write):
    section = write()
    for path in section.images:
        with Image.open(path) as image:
            Image.fromarray(np.asarray(image).astype(np.uint16) * 257).save(path)
    running_rig.wait_until("complete", section.metafile)
    findings = running_rig.montage_of(section.metafile)["findings"]
    assert any("16 bits" in finding for finding in findings), findings


def test_a_lens_correction_set_is_recorded_as_ignored(running_rig, write):
    section = write()
    reference = section.metafile.with_name("_metadata_20170502174048_s_20170502174047_reference_0_.json")
    shutil.copy(section.metafile, reference)
    running_rig.wait_until("complete", section.metafile)
    wait_for(lambda: (running_rig.montage_of(reference) or {}).get("state") == "ignored", 60)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_real_metafile_with_full_size_tiles_becomes_complete(rig, shared_data):
    metafile = shared_data / "_metadata_20170829130146_295434_5LC_0064_01_redo_001050_0_.json"
    directory = rig.acquisition / "001050" / "0"
    rig.start_standin()
    rig.start()
    write_tiles_for(metafile, directory)
    shutil.copy(metafile, directory)
    rig.wait_until("complete", directory / metafile.name, timeout_s=500)
    tiles = rig.tiles("295434_5LC_mips", 1050.0)
    assert len(tiles) == 200
    assert verify_levels(tiles) == 1200
    assert rig.stack_state("295434_5LC_mips") == "COMPLETE"
