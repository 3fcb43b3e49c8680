"""Two watches with two projects of one render-ws: each has its own stacks in every step and command."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from daemon.simulator.delivery import Written
from daemon.simulator.temca import write_section
from tests.acceptance.conftest import section_plan
from tests.acceptance.rig import REAL_URL, Rig, Standins, digest_tree, fetch, temwatch, wait_for

Z = 1050.0


@dataclass
class TwoWatches(Rig):
    """A rig with a second watch, whose stacks have another owner and project."""

    @property
    def second_acquisition(self) -> Path:
        return self.root / "acquisition 2"

    def config_text(self) -> str:
        second = f"""
[[watch]]
name = "second"
directory = "{self.second_acquisition}"
scan_interval_s = 1
settle_s = 0.2
[watch.z]
rule = "grid"
[watch.stacks]
owner = "lab-2"
project = "{{specimen_id}} of {{temca_id}}"
raw = "raw"
mipmapped = "mips"
close_after_s = 0.5
[watch.mipmaps]
output_dir = "{self.mipmaps}"
levels = 2
"""
        return super().config_text() + second


@pytest.fixture
def both(tmp_path: Path, standins: Standins) -> Iterator[tuple[TwoWatches, Written, Written]]:
    """The rig, and the same section in both watches, which are COMPLETE."""
    if REAL_URL:
        pytest.skip(f"writes to another owner: {REAL_URL} is left alone")
    rig = TwoWatches(tmp_path, {"watch.mipmaps.levels": 2}, standins=standins)
    rig.second_acquisition.mkdir()
    try:
        rig.start_standin()
        rig.start()
        plan = section_plan(specimen_id="17797-1R")
        first, second = (write_section(plan, place) for place in (rig.acquisition, rig.second_acquisition))
        rig.wait_until("complete", first.metafile, second.metafile)
        yield rig, first, second
    finally:
        rig.close()


def stack_url(rig: Rig, stack: str) -> str:
    owner, project, name = stack.split("/")
    return f"{rig.render_url}/owner/{owner}/project/{project}/stack/{name}"


def tiles(rig: Rig, stack: str) -> set[str]:
    answer = fetch(f"{stack_url(rig, stack)}/z/{Z}/resolvedTiles")
    return set(answer["tileIdToSpecMap"]) if isinstance(answer, dict) else set()


def run(rig: Rig, *arguments: str) -> str:
    done = temwatch(*arguments, "--config", str(rig.config()))
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


def project_of(section: Written) -> str:
    header = json.loads(section.metafile.read_bytes())[0]["metadata"]
    return f"17797_1R_of_{header['temca_id']}"


def test_each_watch_has_its_own_project_in_journal_stacks_verify_and_replay(both) -> None:
    rig, first, second = both
    stacks = {each.metafile: rig.montage_of(each.metafile) for each in (first, second)}
    project = project_of(second)
    assert {row["raw_stack"] for row in stacks.values()} == {"em/test/17797_1R_raw", f"lab_2/{project}/raw"}
    assert {row["mipmapped_stack"] for row in stacks.values()} == {"em/test/17797_1R_mips", f"lab_2/{project}/mips"}
    every = [row[key] for row in stacks.values() for key in ("raw_stack", "mipmapped_stack")]
    assert [fetch(stack_url(rig, stack))["state"] for stack in every] == ["COMPLETE"] * 4
    ids = tiles(rig, every[0])
    assert len(ids) == 4
    assert all(tiles(rig, stack) == ids for stack in every)  # the same tile ids, each in its own project

    # A tile that one project lacks, and an image that changes, are repaired in that project only.
    mips, first_id = f"lab_2/{project}/mips", min(ids)
    fetch(f"{stack_url(rig, mips)}/state/LOADING", method="PUT")
    fetch(f"{stack_url(rig, mips)}/tile/{first_id}", method="DELETE")
    fetch(f"{stack_url(rig, mips)}/state/COMPLETE", method="PUT")
    said = json.loads(run(rig, "verify", "--json"))["differences"]
    assert {(each["where"], each["tile"]) for each in said} == {(mips, first_id)}
    before = digest_tree(rig.mipmaps)
    image = min(second.directory.glob("*.tif"))
    content = bytearray(image.read_bytes())
    content[-1] ^= 255
    image.write_bytes(content)
    run(rig, "replay", str(second.metafile), "--from", "mipmaps")
    rig.wait_until("complete", first.metafile, second.metafile)
    assert tiles(rig, mips) == ids
    changed = {name for name, digest in digest_tree(rig.mipmaps).items() if digest != before[name]}
    assert {Path(name).parts[1:] for name in changed} == {Path(f"{image}.tif").parts[1:]}
    assert json.loads(run(rig, "verify", "--json"))["differences"] == []


def test_a_rebuilt_journal_finds_each_montage_in_its_own_project(both) -> None:
    rig, first, second = both
    before = {row["metafile"]: (row["raw_stack"], row["mipmapped_stack"]) for row in rig.montages()}
    assert rig.daemon.stop() == 0
    for file in rig.root.glob("daemon.sqlite*"):
        file.unlink()
    assert "2 complete" in run(rig, "journal", "rebuild")
    rig.start()
    assert {row["metafile"]: (row["raw_stack"], row["mipmapped_stack"]) for row in rig.montages()} == before
    rig.wait_until("complete", first.metafile, second.metafile)


@pytest.mark.slow
def test_status_and_the_checks_of_changed_images_are_separate_for_each_project(both) -> None:
    rig, first, second = both
    project = project_of(second)
    shown = json.loads(run(rig, "status", "--json"))
    assert {name: counts["complete"] for name, counts in shown["counts"].items()} == {"daemon": 1, "second": 1}
    before = digest_tree(rig.mipmaps)
    image = min(second.directory.glob("*.tif"))
    content = bytearray(image.read_bytes())
    content[-1] ^= 255
    image.write_bytes(content)  # noticed by the daemon itself
    seen = rig.montage_of(second.metafile)["id"]

    def is_done_again() -> bool:
        events = [each["event"] for each in rig.montage(seen)["events"]]
        return "images_changed" in events and events[-1] == "completed"

    wait_for(is_done_again, 60, lambda: str(rig.montage(seen)))
    changed = {name for name, digest in digest_tree(rig.mipmaps).items() if digest != before[name]}
    assert {Path(name).parts[1:] for name in changed} == {Path(f"{image}.tif").parts[1:]}
    assert fetch(stack_url(rig, f"lab_2/{project}/mips"))["state"] == "COMPLETE"
    first_events = rig.montage(rig.montage_of(first.metafile)["id"])["events"]
    assert [each["event"] for each in first_events].count("completed") == 1
