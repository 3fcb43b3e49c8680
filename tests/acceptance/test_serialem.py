"""Montages of SerialEM in an MRC stack, and supermontages, with the daemon as a process and growing files."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xxhash
from PIL import Image

from daemon.simulator.delivery import Written
from daemon.simulator.frames import FrameSource, PixelSource, tiff_bytes
from daemon.simulator.serialem import head
from handlers.uris import uri_to_path
from tests.acceptance.conftest import section_plan
from tests.acceptance.rig import Rig, digest_tree, temwatch, verify_levels, wait_for
from tests.serialem_stack import HEADER_BYTES, write_stack_montage

SPECIMEN = "20314_2L"
TIMEOUT_S = 180.0
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def world(rig: Rig) -> Rig:
    """A rig whose watch has the format, with a stand-in and without a daemon."""
    rig.settings |= {"watch.format": "serialem", "watch.z.rule": "header"}
    rig.start_standin()
    return rig


@pytest.fixture
def write(world: Rig) -> Callable[[int], Written]:
    def write_one(number: int) -> Written:
        plan = section_plan(number)
        return write_stack_montage(plan, world.acquisition, FrameSource(plan, PixelSource.NOISE))

    return write_one


def command(rig: Rig, *arguments: object, code: int = 0) -> str:
    done = temwatch(*map(str, arguments), "--config", str(rig.config()))
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def level0_files(rig: Rig, z: float) -> dict[str, Path]:
    """Return the level 0 file in each tile spec."""
    tiles = rig.tiles(f"{SPECIMEN}_mips", z)
    return {name: uri_to_path(tile["mipmapLevels"]["0"]["imageUrl"]) for name, tile in tiles.items()}


@pytest.mark.slow
def test_montages_in_a_growing_mrc_stack_get_level_0_files_and_can_be_verified_replayed_and_rebuilt(
    world: Rig, write: Callable[[int], Written]
) -> None:
    first = write(1050)
    world.start()
    world.wait_until("complete", first.metafile, timeout_s=TIMEOUT_S)
    second = write(1051)
    world.wait_until("complete", first.metafile, second.metafile, timeout_s=TIMEOUT_S)
    acquired = digest_tree(world.acquisition)
    plan = section_plan(1051)
    files = level0_files(world, 1051.0)
    assert sorted(files) == [f"{plan.session_id}_{number:04d}.1051.0" for number in range(4, 8)]
    source = FrameSource(plan, PixelSource.NOISE)
    for tile, (_, file) in zip(plan.tiles, sorted(files.items()), strict=True):
        assert file.is_relative_to(world.mipmaps / "0")
        with Image.open(file) as image:
            assert np.array_equal(np.asarray(image), source.frame(tile))
    assert sum(verify_levels(world.tiles(f"{SPECIMEN}_mips", z)) for z in (1050.0, 1051.0)) == 48
    assert command(world, "verify", "--deep") == "2 montages, 8 tiles, 48 mipmap files: no difference\n"
    listed = {line.split("  ", 1)[1]: line.split("  ", 1)[0] for line in command(world, "manifest").splitlines()}
    assert all(listed[str(file)] == xxhash.xxh3_128_hexdigest(file.read_bytes()) for file in files.values())

    lost = next(iter(files.values()))
    before = lost.read_bytes()
    lost.unlink()
    assert "level 0 is missing" in command(world, "verify", code=1)
    assert "complete" in command(world, "replay", second.metafile)
    assert lost.read_bytes() == before
    assert "no difference" in command(world, "verify")

    assert world.daemon is not None
    world.daemon.kill()
    (world.root / "daemon.sqlite").unlink()
    for suffix in ("-wal", "-shm"):
        (world.root / f"daemon.sqlite{suffix}").unlink(missing_ok=True)
    assert "is rebuilt: 2 complete" in command(world, "journal", "rebuild")
    world.start()
    world.wait_until("complete", first.metafile, second.metafile, timeout_s=TIMEOUT_S)
    assert digest_tree(world.acquisition) == acquired


@pytest.mark.slow
def test_the_daemon_waits_for_a_late_mrc_stack_and_makes_a_changed_section_again(
    world: Rig, write: Callable[[int], Written]
) -> None:
    section = write(1050)
    stack = section.images[0]
    content = stack.read_bytes()
    stack.unlink()
    world.start()

    def waits_for(words: str) -> Callable[[], bool]:
        return lambda: any(words in (row["waiting_for"] or "") for row in world.montages())

    wait_for(waits_for(f"{stack.name} is missing"), TIMEOUT_S, lambda: str(world.montages()))
    stack.write_bytes(content[: len(content) * 2 // 3])
    wait_for(waits_for(f"{stack.name} is truncated"), TIMEOUT_S, lambda: str(world.montages()))
    stack.write_bytes(content)
    world.wait_until("complete", section.metafile, timeout_s=TIMEOUT_S)
    before = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in level0_files(world, 1050.0).items()}
    with stack.open("r+b") as file:
        file.seek(HEADER_BYTES)
        file.write(os.urandom(128 * 128))

    def changed() -> list[str]:
        now = {
            name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in level0_files(world, 1050.0).items()
        }
        return [name for name in before if now[name] != before[name]]

    wait_for(lambda: len(changed()) == 1, TIMEOUT_S, lambda: str(world.montages()))
    world.wait_until("complete", section.metafile, timeout_s=TIMEOUT_S)
    assert "no difference" in command(world, "verify", "--deep")


def test_the_frames_of_a_supermontage_are_one_growing_montage(world: Rig) -> None:
    plan = section_plan(1050)
    directory, source = world.acquisition / SPECIMEN, FrameSource(plan, PixelSource.NOISE)
    directory.mkdir()
    idoc = directory / "super.idoc"
    idoc.write_text(head(plan), newline="")

    def add_frame(number: int) -> None:
        text = ""
        for index, tile in enumerate(plan.tiles[2 * number : 2 * number + 2]):
            name = f"super_{2 * number + index:04d}.tif"
            (directory / name).write_bytes(tiff_bytes(source.frame(tile)))
            text += f"[Image = {name}]\r\nPieceCoordinates = {index * 119} 0 {number}\r\n"
            text += f"SuperMontCoords = {index * 119} {number * 110}\r\nNavigatorLabel = 7-1-{number + 1}\r\n"
        with idoc.open("a", newline="") as file:
            file.write(f"{text}[MontSection = {number}]\r\n")

    add_frame(0)
    world.start()
    path = idoc / "supermontage@7"
    world.wait_until("complete", path, timeout_s=TIMEOUT_S)
    assert len(world.tiles(f"{SPECIMEN}_mips", 7.0)) == 2
    add_frame(1)
    wait_for(lambda: len(world.tiles(f"{SPECIMEN}_mips", 7.0)) == 4, TIMEOUT_S, lambda: str(world.montages()))
    world.wait_until("complete", path, timeout_s=TIMEOUT_S)
    assert verify_levels(world.tiles(f"{SPECIMEN}_mips", 7.0)) == 4 * 6
    assert "1 montage, 4 tiles" in command(world, "verify")
