"""The same tests for every format: the daemon as a process, with the simulated microscope of the format."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from daemon.simulator.delivery import Arrival, Delivery, Written
from daemon.simulator.writers import FORMATS, write_in_format
from handlers.acquisition.formats.readers import READERS
from tests.acceptance.conftest import section_plan
from tests.acceptance.rig import Rig, digest_tree, temwatch, verify_levels, wait_for

# A growing log differs most from the other formats, which are whole files and belong to the long tests.
formats_in_full = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "sbemimage" else pytest.mark.slow) for name in FORMATS]
)
pytestmark = pytest.mark.timeout(600)  # each test starts several commands
Write = Callable[..., Written]
TIMEOUT_S = 180.0
"""Time-out of each step; long, because the machine may be busy."""


@pytest.fixture
def world(rig: Rig, name: str) -> Rig:
    """A rig whose watch has the format, with a stand-in and without a daemon."""
    lines = [line.partition(" = ") for line in FORMATS[name].watch.splitlines()]
    rig.settings |= {f"watch.{key}": float(value) for key, _, value in lines}
    rig.settings |= {"watch.format": name, "watch.z.rule": FORMATS[name].z_rule}
    rig.start_standin()
    return rig


@pytest.fixture
def write(world: Rig, name: str) -> Write:
    """A function that writes a small section in the format."""

    def write_one(grid: int = 1050, tiles: int = 4, *, below: str = "", **options: object) -> Written:
        plan = section_plan(grid, tiles)
        root = world.acquisition / below
        root.mkdir(exist_ok=True)
        return write_in_format(name, plan, root, pixels="noise", **options)  # type: ignore[arg-type]

    return write_one


def command(rig: Rig, *arguments: object) -> str:
    done = temwatch(*map(str, arguments), "--config", str(rig.config()))
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pixel_size(name: str) -> tuple[str, ...]:
    return () if READERS[name].states_pixel_size else ("--pixel-size", "4")


def levels_at(rig: Rig, name: str, *zs: int) -> int:
    """Verify the levels that the stack names at each z; return the number of files."""
    stack = f"{FORMATS[name].specimen}_mips"
    return sum(verify_levels(rig.tiles(stack, float(z))) for z in zs)


def test_every_format_has_a_simulated_microscope() -> None:
    assert FORMATS.keys() == READERS.keys()


@pytest.mark.slow
@formats_in_full
def test_sections_become_complete_and_can_be_verified_imported_replayed_and_rebuilt(
    world: Rig, write: Write, name: str
) -> None:
    before_the_start = write(1050)
    world.start()
    sections = [before_the_start, write(1051)]
    acquired = digest_tree(world.acquisition)
    paths = [section.metafile for section in sections]
    world.wait_until("complete", *paths, timeout_s=TIMEOUT_S)
    assert levels_at(world, name, 1050, 1051) == 2 * 4 * 6
    for stack in ("raw", "mips"):
        assert world.stack_state(f"{FORMATS[name].specimen}_{stack}") == "COMPLETE"
    assert command(world, "verify") == "2 montages, 8 tiles, 48 mipmap files: no difference\n"

    alone = ("--format", name, "--stack", "alone", "--z", "7", "--close", *pixel_size(name))
    assert "4 tiles are at z 7; the stack is COMPLETE" in command(world, "import", paths[0], *alone)
    assert len(world.tiles("alone", 7.0)) == 4

    level = next((world.mipmaps / "2").rglob("*.tif"))
    level.unlink()
    assert "complete" in command(world, "replay", paths[0], paths[1])
    assert level.exists()
    assert "no difference" in command(world, "verify")

    assert world.daemon is not None
    assert world.daemon.stop() == 0
    (world.root / "daemon.sqlite").unlink()
    assert "is rebuilt: 2 complete" in command(world, "journal", "rebuild")
    world.start()
    world.wait_until("complete", *paths, timeout_s=TIMEOUT_S)
    assert len(world.montages()) == 2
    assert digest_tree(world.acquisition) == acquired


@pytest.mark.slow
@formats_in_full
def test_a_daemon_that_was_killed_completes_each_section_once(world: Rig, write: Write, name: str) -> None:
    world.start()
    paths = [write(grid).metafile for grid in (1050, 1051, 1052)]

    def seen(*states: str) -> Callable[[], bool]:
        return lambda: any(row["state"] in states for row in world.montages())

    for states in (("noticed", "settled"), ("ingested", "mipmapped", "applied", "complete")):
        wait_for(seen(*states, "complete"), TIMEOUT_S)
        assert world.daemon is not None
        world.daemon.kill()
        world.start()
    world.wait_until("complete", *paths, timeout_s=TIMEOUT_S)
    assert len(world.montages()) == 3
    assert levels_at(world, name, 1050, 1051, 1052) == 3 * 4 * 6
    assert "no difference" in command(world, "verify")


@pytest.mark.slow
@formats_in_full
def test_the_daemon_waits_for_slow_writers_and_files_in_another_order(world: Rig, write: Write, name: str) -> None:
    world.start()
    paths = []
    for number, arrival in enumerate((Arrival.PIECES, Arrival.PREALLOCATED)):
        delivery = Delivery(arrival, piece_bytes=4096, piece_pause_s=0.1)
        paths.append(write(1050 + number, delivery=delivery, metafile_first=number == 1).metafile)
    world.wait_until("complete", *paths, timeout_s=TIMEOUT_S)
    assert levels_at(world, name, 1050, 1051) == 2 * 4 * 6
    assert "no difference" in command(world, "verify")


# ------------------------------------------------------------------------------------------------------------ bad input


def in_text(change: Callable[[bytes, bytes], bytes]) -> Callable[[Written], None]:
    """Return a function that changes the file that describes the section; `change` also gets an image name in it."""

    def damage(section: Written) -> None:
        path = section.metafile if section.metafile.is_file() else section.metafile.parent
        content = path.read_bytes()
        damaged = change(content, section.images[1].name.encode())
        assert damaged != content
        path.write_bytes(damaged)

    return damage


def as_image(content: bytes) -> Callable[[Written], None]:
    return lambda section: section.images[1].write_bytes(content) and None


def image_in_colours(section: Written) -> None:
    Image.new("RGB", (128, 128)).save(section.images[1])


def image_of_another_size(section: Written) -> None:
    with Image.open(section.images[1]) as image:
        smaller = image.resize((64, 64))
    smaller.save(section.images[1])


def image_is(make: Callable[[Path], object]) -> Callable[[Written], None]:
    def damage(section: Written) -> None:
        section.images[1].unlink()
        make(section.images[1])

    return damage


def zeroed(section: Written) -> None:
    section.images[1].write_bytes(bytes(section.images[1].stat().st_size))


def cut(section: Written) -> None:
    os.truncate(section.images[1], section.images[1].stat().st_size * 2 // 3)


DAMAGED_IMAGES: dict[str, Callable[[Written], None]] = {
    "image_missing": lambda section: section.images[1].unlink(),
    "image_truncated": cut,
    "image_empty": as_image(b""),
    "image_of_zeros": zeroed,
    "image_of_text": as_image(b"these are not pixels" * 1000),
    "image_in_colours": image_in_colours,
    "image_of_another_size": image_of_another_size,
    "image_is_a_directory": image_is(Path.mkdir),
    "image_is_a_pipe": image_is(os.mkfifo),
    "image_links_to_itself": image_is(lambda path: path.symlink_to(path)),
    "image_links_outside": image_is(lambda path: path.symlink_to("/usr/bin/env")),
}
"""Kinds of images that make their montage FAILED with a fault that names the image."""

DAMAGED_TEXTS: dict[str, Callable[[bytes, bytes], bytes]] = {
    "empty": lambda *_: b"",
    "zeros": lambda content, _: bytes(len(content)),
    "truncated": lambda content, _: content[: len(content) * 2 // 5],
    "of_random_bytes": lambda content, _: os.urandom(len(content)),
    "of_other_text": lambda *_: b"Dear operator,\r\nthis is not a table.\r\n" * 30,
    "that_leads_out": lambda content, image: content.replace(image, b"../../../../../../" + image),
    "of_unknown_bytes": lambda content, image: content.replace(image, b"\xff\xfe" + image),
    "with_an_escape": lambda content, image: content.replace(image, b"\x1b[2J" + image),
    "with_a_name_too_long": lambda content, image: content.replace(image, b"x" * 70_000 + image),
    "of_another_image": lambda content, image: content.replace(image, b"unknown_" + image),
    "with_huge_numbers": lambda content, _: re.sub(rb"(?<=[\t ,\[;])-?\d{3,}(?=[.\r\n\t ,\]}])", b"9" * 400, content),
}
"""Kinds of text with which the section is not ingested."""


@formats_in_full
def test_twenty_kinds_of_bad_input_fail_with_their_names_and_good_sections_become_complete(
    world: Rig, write: Write, name: str
) -> None:
    assert len(DAMAGED_IMAGES) + len(DAMAGED_TEXTS) >= 20
    world.settings |= {"watch.arrival_timeout_s": 3, "watch.stacks.raw": "raw", "watch.stacks.mipmapped": "mips"}
    bad_images, bad_texts = {}, {}
    for number, (kind, damage) in enumerate(DAMAGED_IMAGES.items()):
        bad_images[kind] = write(2000 + number, below=kind)
        damage(bad_images[kind])
    for number, (kind, change) in enumerate(DAMAGED_TEXTS.items()):
        bad_texts[kind] = write(3000 + number, below=kind)
        in_text(change)(bad_texts[kind])
    world.start()
    good = write(1050, below="good")
    world.wait_until("complete", good.metafile, timeout_s=TIMEOUT_S)

    def fault_of(section: Written) -> str:
        row = world.montage_of(section.metafile) or {"state": "unknown"}
        return f"{row['fault']}" if row["state"] == "failed" else ""

    for kind, section in bad_images.items():
        wait_for(lambda section=section: fault_of(section), TIMEOUT_S, f"the fault of {name} {kind}")
        assert section.images[1].name in fault_of(section), kind
    late = write(1051, below="late")
    world.wait_until("complete", late.metafile, timeout_s=TIMEOUT_S)
    roots = {kind: world.acquisition / kind for kind in bad_texts}

    def settled(kind: str) -> bool:
        rows = [row for row in world.montages() if Path(row["metafile"]).is_relative_to(roots[kind])]
        assert all(row["state"] != "complete" for row in rows), kind
        return all(row["state"] in ("failed", "superseded") for row in rows)

    for kind in roots:
        wait_for(lambda kind=kind: settled(kind), TIMEOUT_S, f"the end of {name} {kind}")
    assert world.tiles("mips", 1050.0)
    assert world.tiles("mips", 1051.0)
    assert world.ready()["ready"]
