"""Damaged metafiles: each is FAILED with its name, IGNORED or COMPLETE, and good metafiles among them are COMPLETE."""

import json
import random
import secrets
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from daemon.simulator.temca import write_section
from tests.acceptance.conftest import SHARED_DATA, section_plan
from tests.acceptance.faults.accounts import (
    ENDED,
    audit,
    left_over,
    stack_lacks,
    tiles_twice,
    wait_until_ended,
)
from tests.acceptance.faults.mutations import damage_metafile
from tests.acceptance.faults.pulse import pulse_of
from tests.acceptance.faults.rows import FaultRun
from tests.acceptance.rig import Rig, fetch, running
from tests.tiles_of_metafile import write_tiles_for

LEVELS = 2
SIZE = (64, 64)
GOOD_EVERY = 50
ROUND = 100
GOOD_WITHIN_S = 120


def base_documents() -> list[Any]:
    """Return real metafiles with their first four tiles; none if they are not available."""
    real = [json.loads(path.read_bytes()) for path in sorted(SHARED_DATA.glob("_metadata_*.json"))]
    for content in real:
        del content[1]["data"][4:]
        camera = content[0]["metadata"]["camera_info"]
        camera["width"], camera["height"] = SIZE
    return real


def write_damaged(rng: random.Random, root: Path, number: int, documents: list[Any]) -> Path:
    """Write a damaged metafile with valid images, in a new directory."""
    if documents and number % 2:
        content = rng.choice(documents)
        content[0]["metadata"]["grid"] = f"{5000 + number:06d}"
        directory = root / f"real_{number}"
        write_tiles_for(json.dumps(content).encode(), directory, SIZE)
        metafile = directory / f"_metadata_20170829130146_295434_5LC_0064_01_{number:06d}_0_.json"
    else:
        plan = section_plan(5000 + number, 4, size=SIZE, session_id=f"fuzz_{number}")
        section = write_section(plan, root / "staged", pixels="flat")
        content = json.loads(section.metafile.read_bytes())
        directory = root / f"made_{number}"
        section.directory.rename(directory)
        metafile = directory / section.metafile.name
    damaged = directory / "damaged"
    damaged.write_bytes(damage_metafile(rng, content))
    damaged.rename(metafile)
    return metafile


def problem_of(rig: Rig, path: Path, row: dict[str, Any] | None) -> str:
    """Return how the end of a damaged metafile differs from the expected one; empty if it does not."""
    if row is None or row["state"] not in ENDED:
        return f"did not end: {row and (row['state'], row['waiting_for'], row['fault'])}"
    if row["state"] == "complete":
        return stack_lacks(rig, row, LEVELS)
    if row["state"] == "failed":
        said = f"{row['fault']['subject']}: {row['fault']['problem']}"
        if path.name not in said and str(path.parent) not in said:
            return f"FAILED without its name: {said[:300]}"
    return ""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_damaged_metafile_crashes_the_daemon_or_delays_the_others(tmp_path, scale, enter):
    count, seed = scale.pick(1000, 150, 40), secrets.randbelow(10**6)
    rng = random.Random(seed)
    settings = {"watch.mipmaps.levels": LEVELS, "watch.arrival_timeout_s": 2, "watch.settle_s": 0.1, "workers.count": 1}
    rig = Rig(tmp_path, settings)
    documents = base_documents()
    damaged: list[Path] = []
    good: list[Path] = []
    staging = tmp_path / "staging"
    ends: dict[Path, dict[str, Any]] = {}
    with running(rig), pulse_of(rig.url) as pulse:
        for first in range(0, count, ROUND):
            these = []
            for number in range(first, min(count, first + ROUND)):
                path = write_damaged(rng, staging, number, documents)
                place = rig.acquisition / path.parent.name
                path.parent.rename(place)
                these.append(place / path.name)
                if number % GOOD_EVERY == GOOD_EVERY // 2:
                    good.append(write_section(section_plan(1000 + number), rig.acquisition, pixels="noise").metafile)
            rig.wait_until("complete", *good, timeout_s=GOOD_WITHIN_S)
            ends |= wait_until_ended(rig, these, 120)
            damaged += these
        problems = {
            f"{path.parent.name}/{path.name}": problem
            for path in damaged
            if (problem := problem_of(rig, path, ends.get(path)))
        }
        account = audit(rig, good, levels=LEVELS)
        twice = tiles_twice(rig)
        assert fetch(f"{rig.url}/healthz") == {"alive": True}
        assert "Traceback" not in rig.daemon.log.read_text()
    states = Counter(row["state"] for row in ends.values())
    note = f"seed {seed}; damaged ones by state {dict(states)}; {len(good)} good ones among them; healthz answered "
    note += f"{pulse.answers} times, at the latest after {pulse.slowest_s:.1f} s"
    row = FaultRun(
        "damaged metafiles",
        count,
        montages=count + len(good),
        complete=states["complete"] + account.complete,
        failed=states["failed"],
        lost=account.lost + len(problems),
        duplicated=len(twice),
        left_over=len(left_over(rig)),
        note=note,
    )
    for problem in problems.items():
        print(*problem)  # noqa: T201  pytest shows it after a failure
    enter(row)
    assert not pulse.wrong
