"""Bad input: its montage is FAILED with a fault that names the file, and other montages are not affected."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon.simulator.delivery import Written
from daemon.simulator.temca import write_section
from tests.acceptance.conftest import section_plan
from tests.acceptance.rig import Rig, wait_for

Content = list[dict[str, Any]]


def edited(change: Callable[[dict[str, Any], list[dict[str, Any]]], object]) -> Callable[[Written], None]:
    """Return a function that changes the header or the tiles of the metafile."""

    def damage(section: Written) -> None:
        content: Content = json.loads(section.metafile.read_bytes())
        change(content[0]["metadata"], content[1]["data"])
        section.metafile.write_text(json.dumps(content))

    return damage


def text(content: str) -> Callable[[Written], None]:
    """Return a function that replaces the content of the metafile."""
    return lambda section: section.metafile.write_text(content) and None


def truncated(section: Written) -> None:
    section.metafile.write_bytes(section.metafile.read_bytes()[:1000])


def without_data(section: Written) -> None:
    section.metafile.write_text(json.dumps(json.loads(section.metafile.read_bytes())[:1]))


def one_gigabyte(section: Written) -> None:
    os.truncate(section.metafile, 1 << 30)


def image_missing(section: Written) -> None:
    section.images[1].unlink()


def image_truncated(section: Written) -> None:
    os.truncate(section.images[1], 5000)


def image_of_another_size(section: Written) -> None:
    plan = section_plan(9, 4, size=(64, 64))
    small = write_section(plan, section.directory.parent / "small_one", pixels="flat")
    section.images[1].write_bytes(small.images[0].read_bytes())
    small.metafile.unlink()


def not_an_image(section: Written) -> None:
    section.images[1].write_text("these are not pixels" * 1000)


def symlink_out(section: Written) -> None:
    outside = section.metafile.parents[6] / "outside.tif"
    section.images[1].rename(outside)
    section.images[1].symlink_to(outside)


def set_pixel_size(value: float) -> Callable[[Written], None]:
    return edited(lambda _, tiles: tiles[2]["img_meta"].update(pixel_size_x_move=value))


CASES: dict[str, tuple[Callable[[Written], None], str]] = {
    "an empty file": (text(""), "empty"),
    "truncated JSON": (truncated, "is truncated"),
    "not JSON": (text("this is not JSON"), "JSON"),
    "no data": (without_data, "data"),
    "empty data": (edited(lambda _, tiles: tiles.clear()), "data"),
    "a missing key": (edited(lambda _, tiles: tiles[2]["img_meta"].pop("stage_pos")), "data[2].img_meta.stage_pos"),
    "a wrong type": (edited(lambda _, tiles: tiles[2].update(img_path=7)), "data[2].img_path"),
    "NaN": (edited(lambda _, tiles: tiles[2]["img_meta"].update(angle=float("nan"))), "data[2].img_meta.angle"),
    "a negative pixel size": (set_pixel_size(-4.0), "data[2].img_meta.pixel_size_x_move"),
    "a pixel size of zero": (set_pixel_size(0), "data[2].img_meta.pixel_size_x_move"),
    "duplicate names": (
        edited(lambda _, tiles: tiles[2].update(img_path=tiles[1]["img_path"])),
        "img_path",
    ),
    "a path upwards": (edited(lambda _, tiles: tiles[2].update(img_path="../x.tif")), "data[2].img_path"),
    "an absolute path": (edited(lambda _, tiles: tiles[2].update(img_path="/etc/passwd")), "data[2].img_path"),
    "a gigabyte": (one_gigabyte, "at most 96 MiB"),
    "a name that render refuses": (edited(lambda header, _: header.update(specimen_id="x" * 120)), "characters"),
    "no z": (edited(lambda header, _: header.update(grid="nonsense")), "grid"),
    "a missing image": (image_missing, "missing"),
    "a truncated image": (image_truncated, "truncated"),
    "an image of another size": (image_of_another_size, "64x64"),
    "no image": (not_an_image, "no image"),
    "a link out of the directory": (symlink_out, "when links are followed"),
}


def test_each_bad_input_fails_with_its_name_and_the_good_sections_become_complete(rig: Rig):
    rig.settings |= {"watch.arrival_timeout_s": 3, "watch.settle_s": 0.1}
    bad: dict[str, Path] = {}
    good: list[Path] = []
    for number, (name, (damage, _)) in enumerate(CASES.items()):
        section = write_section(section_plan(2000 + number), rig.acquisition / "bad", pixels="flat")
        damage(section)
        bad[name] = section.metafile
        if number % 5 == 0:
            good.append(write_section(section_plan(3000 + number), rig.acquisition / "good", pixels="flat").metafile)
    rig.start_standin()
    rig.start()
    rig.wait_until("failed", *bad.values(), timeout_s=120)
    rig.wait_until("complete", *good)
    for name, metafile in bad.items():
        montage = rig.montage_of(metafile)
        fault = montage["fault"]
        said = f"{fault['subject']}: {fault['problem']}"
        assert CASES[name][1] in said, (name, said)
        assert metafile.name in said or str(metafile.parent) in said, (name, said)
    log = rig.daemon.log.read_text()
    assert "Traceback" not in log
    assert rig.daemon.process.poll() is None


def test_a_failed_montage_is_retried_when_its_metafile_is_replaced(running_rig, write):
    section = write()
    running_rig.wait_until("complete", section.metafile)
    content = section.metafile.read_bytes()
    damaged = json.loads(content)
    damaged[1]["data"][0]["img_meta"].pop("stage_pos")
    section.metafile.write_text(json.dumps(damaged))
    wait_for(lambda: any(row["state"] == "failed" for row in running_rig.montages()), 60)
    section.metafile.write_bytes(content)
    wait_for(lambda: not any(row["state"] == "failed" for row in running_rig.montages()), 60)
    running_rig.wait_until("complete", section.metafile)
