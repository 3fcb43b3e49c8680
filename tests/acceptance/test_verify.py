"""`temwatch verify` reports each kind of damage with its tile and the step that repairs it, and replay repairs it."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from daemon.simulator.delivery import Written
from tests.acceptance.rig import Rig, digest_tree, fetch, temwatch, verify_levels

Z = 1050.0
ABSENT = "no COMPLETE montage matches the selection"
NOTHING_CHECKED = f"{ABSENT}: nothing was checked\n"
NOTHING_PRINTED = f"{ABSENT}: no digest was printed\n"


def verify(rig: Rig, *arguments: object) -> subprocess.CompletedProcess[str]:
    done = temwatch("verify", *map(str, arguments), "--config", str(rig.config()))
    assert "Traceback" not in done.stderr, done.stderr
    return done


def report(rig: Rig, *arguments: object) -> dict:
    done = verify(rig, "--json", *arguments)
    said = json.loads(done.stdout)
    assert done.returncode == (1 if said["differences"] or said["not_judged"] else 0)
    return said


@pytest.fixture
def complete(running_rig: Rig, write) -> Written:
    section = write()
    running_rig.wait_until("complete", section.metafile)
    return section


def stacks(rig: Rig, section: Written) -> tuple[str, str]:
    row = rig.montage_of(section.metafile)
    return row["raw_stack"].rsplit("/", 1)[1], row["mipmapped_stack"].rsplit("/", 1)[1]


def level(rig: Rig, section: Written, number: int, *, tile: int = 0) -> Path:
    return rig.mipmaps / str(number) / f"{str(section.images[tile]).lstrip('/')}.tif"


def flip_last_byte(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def whiten(path: Path) -> None:
    with Image.open(path) as image:
        white = Image.new(image.mode, image.size, 255)
    white.save(path)


def put(rig: Rig, stack: str, edit: Callable[[dict], object], z: float = Z) -> None:
    """Change one tile of a stack, as another client does."""
    url = rig.stack_url(stack)
    whole = fetch(f"{url}/z/{Z}/resolvedTiles")
    tile_id = min(whole["tileIdToSpecMap"])
    spec = whole["tileIdToSpecMap"][tile_id]
    edit(spec)
    fetch(f"{url}/state/LOADING", method="PUT")
    body = {"tileIdToSpecMap": {tile_id: spec}, "transformIdToSpecMap": {}}
    fetch(f"{url}/z/{z}/resolvedTiles", method="PUT", body=body)
    fetch(f"{url}/state/COMPLETE", method="PUT")


def delete(rig: Rig, stack: str) -> None:
    """Delete one tile of a stack, as another client does."""
    url = rig.stack_url(stack)
    tile_id = min(rig.tiles(stack, Z))
    fetch(f"{url}/state/LOADING", method="PUT")
    fetch(f"{url}/tile/{tile_id}", method="DELETE")
    fetch(f"{url}/state/COMPLETE", method="PUT")


def test_an_intact_montage_has_no_difference_and_nothing_is_changed(running_rig: Rig, complete):
    before = digest_tree(running_rig.root / "mipmaps"), running_rig.requests()
    done = verify(running_rig)
    assert (done.returncode, done.stdout) == (0, "1 montage, 4 tiles, 24 mipmap files: no difference\n")
    assert digest_tree(running_rig.root / "mipmaps") == before[0]
    asked = running_rig.requests()[len(before[1]) :]
    assert {each["method"] for each in asked} == {"GET"}
    assert running_rig.daemon.stop() == 0
    assert verify(running_rig).stdout == done.stdout


def test_each_named_section_or_path_without_a_complete_montage_is_reported(running_rig: Rig, complete, write):
    absent = verify(running_rig, "--z", 99)
    assert (absent.returncode, absent.stdout) == (1, f"z 99: {ABSENT}\n")
    digests = temwatch("manifest", "--z", "99", "--config", str(running_rig.config()))
    assert (digests.returncode, digests.stdout) == (1, "")
    assert digests.stderr == f"z 99: {ABSENT}\n"

    partly = verify(running_rig, "--z", Z, "--z", 99.5)
    expected = f"z 99.5: {ABSENT}\n1 montage, 4 tiles, 24 mipmap files: no difference\n"
    assert (partly.returncode, partly.stdout) == (1, expected)
    assert json.loads(verify(running_rig, "--json", "--z", Z, "--z", 99.5).stdout)["absent"] == ["z 99.5"]

    failed = write(1051)
    failed.images[0].write_bytes(b"no image")
    running_rig.wait_until("failed", failed.metafile)
    directories = [complete.metafile.parent, failed.metafile.parent]
    found = verify(running_rig, *directories)
    assert found.returncode == 1
    assert found.stdout.startswith(f"{failed.metafile.parent}: {ABSENT}\n1 montage, ")
    digests = temwatch("manifest", *map(str, directories), "--config", str(running_rig.config()))
    assert digests.stderr == f"{failed.metafile.parent}: {ABSENT}\n"
    whole = verify(running_rig, complete.metafile, running_rig.acquisition)
    assert (whole.returncode, whole.stdout.count(ABSENT)) == (0, 0)


def test_no_complete_montage_at_all_is_no_error(running_rig: Rig):
    nothing = verify(running_rig)
    assert (nothing.returncode, nothing.stdout) == (0, NOTHING_CHECKED)
    digests = temwatch("manifest", "--config", str(running_rig.config()))
    assert (digests.returncode, digests.stdout, digests.stderr) == (0, "", NOTHING_PRINTED)


def test_differences_with_one_cause_give_one_line_for_each_montage_and_one_for_all(running_rig: Rig, write, complete):
    second = write(1051)
    running_rig.wait_until("complete", second.metafile)
    mipmaps = running_rig.root / "mipmaps"
    for number in (1, 2):
        shutil.rmtree(mipmaps / str(number))
    lines = verify(running_rig).stdout.splitlines()
    assert [line.partition(": ")[0] for line in lines[:2]] == sorted(str(each.metafile) for each in (complete, second))
    for line in lines[:2]:
        assert f": 8 files could not be read below {mipmaps}, first {mipmaps}/1/" in line
    assert lines[2].startswith("16 files could not be read in 2 montages (")
    assert lines[3:] == ["2 montages, 8 tiles, 48 mipmap files: 16 differences in 2 montages"]
    every = verify(running_rig, "--verbose").stdout.splitlines()
    assert sum(line.startswith("/") for line in every) == 16


def replace_under_an_older_time(image: Path, other: Path) -> None:
    copy = image.with_name("copy")
    copy.write_bytes(other.read_bytes())
    os.utime(copy, (1e9, 1e9))
    copy.replace(image)


DAMAGE: dict[str, tuple[Callable[[Rig, Written], object], str, str | None]] = {
    "a level's file deleted": (lambda rig, s: level(rig, s, 2).unlink(), "level_missing", "mipmaps"),
    "a level truncated": (lambda rig, s: os.truncate(level(rig, s, 1), 900), "level_broken", "mipmaps"),
    "a level with one changed byte": (lambda rig, s: flip_last_byte(level(rig, s, 1)), "level_broken", "mipmaps"),
    "a level replaced by a white one": (lambda rig, s: whiten(level(rig, s, 2)), "level_broken", "mipmaps"),
    "a level of another tile": (
        lambda rig, s: level(rig, s, 2).write_bytes(level(rig, s, 2, tile=1).read_bytes()), "source_changed", "mipmaps",
    ),
    "a level of another level's size": (
        lambda rig, s: level(rig, s, 2).write_bytes(level(rig, s, 3).read_bytes()), "level_broken", "mipmaps",
    ),
    "level 0 replaced under an older time": (
        lambda rig, s: replace_under_an_older_time(s.images[0], s.images[1]), "source_changed", "mipmaps",
    ),
    "level 0 gone": (lambda rig, s: s.images[0].unlink(), "source_gone", None),
    "level 0 truncated": (lambda rig, s: os.truncate(s.images[0], 900), "source_changed", None),
    "metafile gone": (lambda rig, s: s.metafile.unlink(), "metafile_gone", None),
    "raw stack lacks a tile": (lambda rig, s: delete(rig, stacks(rig, s)[0]), "tile_missing", "ingest"),
    "mipmapped stack lacks a tile": (lambda rig, s: delete(rig, stacks(rig, s)[1]), "tile_missing", "apply"),
    "a tile moved to another z": (
        lambda rig, s: put(rig, stacks(rig, s)[1], lambda tile: tile.update(z=7.0), z=7.0), "tile_elsewhere", "apply",
    ),
    "a tile moved in its layer": (
        lambda rig, s: put(
            rig, stacks(rig, s)[0], lambda tile: tile["transforms"]["specList"][-1].update(dataString="1 0 0 1 500 700")
        ),
        "tile_differs",
        "ingest",
    ),
    "a changed intensity range": (
        lambda rig, s: put(rig, stacks(rig, s)[1], lambda tile: tile.update(minIntensity=10)), "tile_differs", "apply",
    ),
    "another layout": (
        lambda rig, s: put(rig, stacks(rig, s)[1], lambda tile: tile["layout"].update(imageCol=99)),
        "tile_differs",
        "apply",
    ),
    "a level not named": (
        lambda rig, s: put(rig, stacks(rig, s)[1], lambda tile: tile["mipmapLevels"].pop("3")), "url_missing", "apply",
    ),
    "a level at another URL": (
        lambda rig, s: put(
            rig, stacks(rig, s)[1], lambda tile: tile["mipmapLevels"]["3"].update(imageUrl="file:///x.tif")
        ),
        "url_differs",
        "apply",
    ),
    "a further level that is not there": (
        lambda rig, s: put(
            rig, stacks(rig, s)[1], lambda tile: tile["mipmapLevels"].update({"9": {"imageUrl": "file:///x.tif"}})
        ),
        "url_dead",
        "apply",
    ),
    "another image at level 0": (
        lambda rig, s: put(
            rig, stacks(rig, s)[0], lambda tile: tile["mipmapLevels"]["0"].update(imageUrl="file:///x.tif")
        ),
        "url_differs",
        "ingest",
    ),
    "a stack deleted": (
        lambda rig, s: fetch(rig.stack_url(stacks(rig, s)[1]), method="DELETE"), "stack_missing", "apply",
    ),
    "a stack left open": (
        lambda rig, s: fetch(f"{rig.stack_url(stacks(rig, s)[0])}/state/LOADING", method="PUT"), "stack_state", "apply",
    ),
}  # fmt: skip


@pytest.mark.slow
def test_every_damage_is_reported_with_the_step_that_repairs_it_and_can_be_repaired_from_the_report(
    rig: Rig, write, tmp_path
):
    """Each damage has its own stacks at the same z, so that one run of verify finds all of them."""
    rig.settings |= {"watch.stacks.raw": "s{grid}_raw", "watch.stacks.mipmapped": "s{grid}_mips"}
    rig.settings |= {"watch.z.rule": "fixed", "watch.z.z": Z, "watch.recheck_images_for_s": 0}
    rig.start_standin()
    sections = {name: write(2000 + number) for number, name in enumerate(DAMAGE)}
    assert temwatch("replay", str(rig.acquisition), "--config", str(rig.config())).returncode == 0
    rig.start()
    for name, (damage, _, _) in DAMAGE.items():
        damage(rig, sections[name])
    said = report(rig)
    found = {
        name: {
            (each["kind"], each["from"]) for each in said["differences"] if each["metafile"] == str(section.metafile)
        }
        for name, section in sections.items()
    }
    assert found == {name: {(kind, step)} for name, (_, kind, step) in DAMAGE.items()}
    assert all(each["hint"] for each in said["differences"])
    lines = verify(rig, "--verbose").stdout.splitlines()
    assert sum(line.startswith("/") for line in lines) == len(said["differences"])

    path = tmp_path / "report.json"
    path.write_text(json.dumps(said))
    repaired = temwatch("replay", "--from-report", str(path), "--config", str(rig.config()))
    repairable = [name for name, (_, _, step) in DAMAGE.items() if step is not None]
    assert (repaired.returncode, repaired.stdout.splitlines()[-1]) == (
        0,
        f"{len(repairable)} complete, 0 not complete",
    )
    left = {each["kind"] for each in report(rig)["differences"]}
    assert left == {"source_gone", "metafile_gone", "source_changed"}
    for name in repairable:
        assert verify_levels(rig.tiles(stacks(rig, sections[name])[1], Z)) == 4 * 6


@pytest.mark.slow
def test_levels_that_the_path_builder_derives_are_compared_with_the_stack(rig: Rig, write):
    rig.settings["watch.mipmaps.apply"] = "path_builder"
    rig.start_standin()
    rig.start()
    section = write()
    rig.wait_until("complete", section.metafile)
    assert report(rig)["differences"] == []
    url = f"{rig.stack_url(stacks(rig, section)[1])}/mipmapPathBuilder"
    fetch(url, method="PUT", body={"rootPath": "/elsewhere/", "numberOfLevels": 6, "extension": "tif"})
    (difference,) = report(rig)["differences"]
    assert (difference["kind"], difference["from"]) == ("path_builder", "apply")


@pytest.mark.slow
def test_an_open_stack_is_a_difference_unless_montages_are_unfinished(running_rig: Rig, complete, write):
    raw, _ = stacks(running_rig, complete)
    fetch(f"{running_rig.stack_url(raw)}/state/LOADING", method="PUT")
    assert [each["kind"] for each in report(running_rig)["differences"]] == ["stack_state"]
    running_rig.tell_standin(match="PUT .*/z/1051", kind="status", status=503)
    running_rig.wait_until("settled", write(1051).metafile)
    assert report(running_rig)["differences"] == []


@pytest.mark.slow
def test_masks_are_verified_too(rig: Rig, write, tmp_path):
    mask = tmp_path / "mask.tif"
    Image.new("L", (128, 128), 255).save(mask)
    rig.settings["watch.tilespecs.mask"] = str(mask)
    rig.start_standin()
    section = write()
    assert temwatch("replay", str(section.metafile), "--config", str(rig.config())).returncode == 0
    assert report(rig)["differences"] == []
    (rig.mipmaps / "2" / f"{str(mask).lstrip('/')}.tif").unlink()
    (difference,) = report(rig)["differences"]
    assert (difference["kind"], difference["tile"], difference["from"]) == ("level_missing", None, "mipmaps")


def test_an_unreachable_render_ws_is_a_fault_and_not_a_difference(running_rig: Rig, complete):
    running_rig.standin.end()
    done = verify(running_rig)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "render-ws" in done.stderr or "reach" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_bad_usage_ends_with_2(running_rig: Rig):
    for arguments, said in (
        (("--state", "failed"), "only COMPLETE"),
        (("/elsewhere",), "PATH: /elsewhere is not in a watched directory"),
    ):
        done = verify(running_rig, *arguments)
        assert done.returncode == 2
        assert said in done.stderr
