"""Damaged TIFFs as tiles: their montages are FAILED with a fault that names them, or COMPLETE; others are COMPLETE."""

import random
import resource
import secrets
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.simulator.delivery import Written
from daemon.simulator.temca import write_section
from tests.acceptance.conftest import section_plan
from tests.acceptance.faults.accounts import (
    all_layers,
    audit,
    left_over,
    present_rows,
    stack_lacks,
    tiles_twice,
    wait_until_ended,
)
from tests.acceptance.faults.mutations import damage_tiff
from tests.acceptance.faults.pulse import pulse_of
from tests.acceptance.faults.rows import FaultRun, scale_asked_for
from tests.acceptance.rig import Rig, running
from tests.fuzz.images import TIFFS, check_image

LEVELS = 2
SIZE = (64, 48)
TILES = 12
DAMAGED_PER_MONTAGE = (1, 2, 5, 12)
MAX_GROWTH_BYTES = 300 * 2**20
MEMORY_UNIT_BYTES = 1024
EXAMPLES = {None: 100, "tiny": 100, "short": 500, "full": 5000}[scale_asked_for()]


def damage_some(rng: random.Random, section: Written, count: int) -> set[str]:
    """Damage some images of a section; return their names."""
    chosen = rng.sample(section.images, count)
    for image in chosen:
        image.write_bytes(damage_tiff(rng, image.read_bytes()))
    return {image.name for image in chosen}


def problem_of(rig: Rig, section: Written, damaged: set[str]) -> str:
    """Return how the end of a montage with damaged tiles differs from the expected one; empty if it does not."""
    row = present_rows(rig).get(section.metafile)
    if row is None or row["state"] not in ("complete", "failed"):
        return f"did not end: {row and (row['state'], row['waiting_for'], row['fault'])}"
    if row["state"] == "complete":
        return stack_lacks(rig, row, LEVELS)
    said = f"{row['fault']['subject']}: {row['fault']['problem']}"
    named = {image.name for image in section.images if image.name in said}
    if not named & damaged:
        return f"FAILED without naming a damaged tile: {said[:300]}"
    return f"FAILED naming valid tiles {named - damaged}: {said[:300]}" if named - damaged else ""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_damaged_images_fail_only_their_own_montages_and_are_named(tmp_path, scale, enter):
    wanted, seed = scale.pick(500, 100, 20), secrets.randbelow(10**6)
    rng = random.Random(seed)
    rig = Rig(tmp_path, {"watch.mipmaps.levels": LEVELS, "watch.arrival_timeout_s": 3, "watch.settle_s": 0.1})
    damaged: dict[Written, set[str]] = {}
    good: list[Path] = []
    while (done := sum(map(len, damaged.values()))) < wanted:
        number = len(damaged)
        count = min(DAMAGED_PER_MONTAGE[number % len(DAMAGED_PER_MONTAGE)], wanted - done)
        bits = (8, 12)[number // 4 % 2]
        plan = section_plan(5000 + number, TILES, size=SIZE, bits=bits, session_id=f"damaged_{number}")
        section = write_section(plan, rig.acquisition, pixels="noise")
        damaged[section] = damage_some(rng, section, count)
        if number % 10 == 5:
            good.append(write_section(section_plan(1000 + number), rig.acquisition, pixels="noise").metafile)
    with running(rig), pulse_of(rig.url) as pulse:
        ends = wait_until_ended(rig, [section.metafile for section in damaged], 400)
        rig.wait_until("complete", *good, timeout_s=60)
        found = {each.metafile.name: problem_of(rig, each, names) for each, names in damaged.items()}
        problems = {name: problem for name, problem in found.items() if problem}
        account = audit(rig, good, levels=LEVELS)
        twice = tiles_twice(rig)
        assert all_layers(rig)
        assert "Traceback" not in rig.daemon.log.read_text()
    states = Counter(row["state"] for row in ends.values())
    row = FaultRun(
        "damaged images",
        wanted,
        montages=len(damaged) + len(good),
        complete=states["complete"] + account.complete,
        failed=states["failed"],
        lost=account.lost + len(problems),
        duplicated=len(twice),
        left_over=len(left_over(rig)),
        note=f"seed {seed}; {len(damaged)} montages with damaged tiles, {len(good)} good ones; "
        f"healthz answered {pulse.answers} times",
    )
    for problem in problems.items():
        print(*problem)  # noqa: T201  pytest shows it after a failure
    enter(row)
    assert not pulse.wrong


def peak_bytes() -> int:
    """Return the peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MEMORY_UNIT_BYTES


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


@pytest.mark.timeout(1200)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**64), base=st.sampled_from(TIFFS))
def test_a_damaged_image_gives_a_report_without_an_exception_and_takes_little_memory(place, seed, base):
    path = place / "tile.tif"
    path.write_bytes(damage_tiff(random.Random(seed), base))
    before = peak_bytes()
    check_image(path)
    assert peak_bytes() - before < MAX_GROWTH_BYTES


@pytest.mark.parametrize("compressed", [False, True])
def test_a_header_that_states_60000_by_60000_pixels_takes_no_memory(place, compressed):
    raw = bytearray(TIFFS[1 if compressed else 0])
    directory = int.from_bytes(raw[4:8], "little")
    for at in range(directory + 2, directory + 2 + 12 * int.from_bytes(raw[directory : directory + 2], "little"), 12):
        if int.from_bytes(raw[at : at + 2], "little") in (256, 257):
            raw[at + 2 : at + 12] = (
                (4).to_bytes(2, "little") + (1).to_bytes(4, "little") + (60_000).to_bytes(4, "little")
            )
    path = place / "large.tif"
    path.write_bytes(raw)
    before = peak_bytes()
    report = check_image(path)
    assert report.fault is not None
    assert "60000x60000" in report.fault.problem or "its size needs" in report.fault.problem
    assert peak_bytes() - before < MAX_GROWTH_BYTES
