"""`temwatch verify --deep` and `temwatch manifest`: the bytes of images and levels are those that were recorded."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import xxhash

from daemon.simulator.delivery import Written
from tests.acceptance.rig import Rig, temwatch
from tests.acceptance.test_verify import level, whiten

WHITE_BYTES = 32 * 32
"""Pixels of level 2 of a tile of 128 x 128, at the end of its file."""


@pytest.fixture
def complete(running_rig: Rig, write) -> Written:
    section = write()
    running_rig.wait_until("complete", section.metafile)
    return section


def deep(rig: Rig) -> list[dict[str, Any]]:
    done = temwatch("verify", "--deep", "--json", "--config", str(rig.config()))
    assert "Traceback" not in done.stderr, done.stderr
    said = json.loads(done.stdout)
    assert done.returncode == (1 if said["differences"] else 0)
    return said["differences"]


def flip_a_byte(path: Path, at: int) -> None:
    """Change one byte and restore the times."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def whiten_in_place(path: Path) -> None:
    """Replace only the pixels, by white ones; the size and the text of the file stay the same."""
    content = path.read_bytes()
    path.write_bytes(content[:-WHITE_BYTES] + b"\xff" * WHITE_BYTES)


def test_deep_finds_nothing_in_an_intact_montage(running_rig: Rig, complete: Written) -> None:
    assert deep(running_rig) == []


def test_deep_finds_every_replaced_byte_and_names_the_tile(running_rig: Rig, complete: Written) -> None:
    rig, images = running_rig, complete.images
    assert rig.daemon is not None
    assert rig.daemon.stop() == 0  # it would notice the changed image and make its mipmaps again
    whiten(level(rig, complete, 2, tile=0))
    flip_a_byte(images[1], -5)
    shutil.copyfile(level(rig, complete, 3, tile=0), level(rig, complete, 3, tile=2))
    found = deep(rig)
    assert {(each["tile"].split(".")[0], each["kind"]) for each in found} == {
        (images[0].stem, "level_broken"),
        (images[1].stem, "source_changed"),
        (images[2].stem, "source_changed"),
    }
    assert {each["from"] for each in found} == {"mipmaps"}


def test_deep_finds_replaced_pixels_in_a_file_with_its_former_text_and_size(
    running_rig: Rig, complete: Written
) -> None:
    path = level(running_rig, complete, 2)
    size = path.stat().st_size
    whiten_in_place(path)
    assert path.stat().st_size == size
    (found,) = deep(running_rig)
    assert (found["kind"], found["where"]) == ("level_broken", str(path))


def test_deep_finds_a_level_that_differs_only_in_its_digest(running_rig: Rig, complete: Written) -> None:
    path = level(running_rig, complete, 4)
    path.write_bytes(path.read_bytes() + b"\0")  # readers of TIFF ignore it
    assert temwatch("verify", "--config", str(running_rig.config())).returncode == 0
    (found,) = deep(running_rig)
    assert (found["kind"], found["what"]) == (
        "level_broken",
        "one of its levels 1 to 6 holds other bytes than were written",
    )


def manifest(rig: Rig, *arguments: object) -> subprocess.CompletedProcess[str]:
    done = temwatch("manifest", *map(str, arguments), "--config", str(rig.config()))
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_the_manifest_has_the_digest_of_every_image_and_level(running_rig: Rig, complete: Written) -> None:
    done = manifest(running_rig, complete.metafile.parent)
    assert (done.returncode, done.stderr) == (0, "")
    lines = dict(line.split("  ", 1)[::-1] for line in done.stdout.splitlines())
    levels = [level(running_rig, complete, number, tile=tile) for number in range(1, 7) for tile in range(4)]
    assert lines.keys() == {str(path) for path in (*complete.images, *levels)}
    for path, digest in lines.items():
        assert digest == xxhash.xxh3_128(Path(path).read_bytes()).hexdigest()


@pytest.mark.skipif(shutil.which("xxhsum") is None, reason="xxhsum (package xxhash) is not installed")
def test_xxhsum_checks_the_manifest(running_rig: Rig, complete: Written, tmp_path: Path) -> None:
    listed = tmp_path / "manifest.xxh128"
    listed.write_text(manifest(running_rig).stdout)
    check = ["xxhsum", "-c", str(listed)]
    assert subprocess.run(check, capture_output=True).returncode == 0
    flip_a_byte(complete.images[2], -1)
    damaged = subprocess.run(check, capture_output=True, text=True)
    assert damaged.returncode != 0
    assert [line for line in damaged.stdout.splitlines() if "FAILED" in line] == [f"{complete.images[2]}: FAILED"]


def test_a_tile_whose_levels_were_replaced_is_left_out_of_the_manifest(running_rig: Rig, complete: Written) -> None:
    whiten(level(running_rig, complete, 2, tile=1))
    done = manifest(running_rig)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 21
    assert complete.images[1].stem not in done.stdout
    assert f"tile {complete.images[1].stem}" in done.stderr
    assert "do not match the recorded digest" in done.stderr
