"""Other programs change files and stacks between and during the steps of a montage."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.rig import Rig, digest_tree, fetch, temwatch, verify_levels, wait_for


def row_at(rig: Rig, metafile: Path) -> dict[str, Any]:
    """Return the newest montage of a path, SUPERSEDED or not."""
    return max((row for row in rig.montages() if row["metafile"] == str(metafile)), key=lambda row: row["id"])


def events(rig: Rig, row: dict[str, Any]) -> list[dict[str, Any]]:
    return rig.montage(row["id"])["events"]


@pytest.fixture
def started(rig: Rig) -> Rig:
    rig.settings |= {"watch.scan_interval_s": 0.5, "watch.arrival_timeout_s": 3.0}
    rig.start_standin()
    rig.start()
    return rig


def attempts(rig: Rig, row: dict[str, Any]) -> list[dict[str, Any]]:
    return rig.montage(row["id"])["attempts"]


def hold_apply(rig: Rig) -> None:
    """Make the apply step fail until the stand-in's faults end."""
    rig.tell_standin(match="s_mips", kind="status", status=500)


def test_a_directory_renamed_while_its_images_are_read_is_completed_under_its_new_name(started, write):
    rig = started
    with rig.held_at_mipmaps(lambda: write(tiles=40, specimen_id="s"), first=4) as (written, lease):
        new = written.metafile.parent.rename(written.metafile.parent.with_name("renamed"))
        lease.give_back()
    moved = new / written.metafile.name
    rig.wait_until("complete", moved)
    wait_for(lambda: row_at(rig, written.metafile)["state"] == "superseded", 60, "the old path is superseded")
    assert f"moved to {moved}" in str(events(rig, row_at(rig, written.metafile))[-1]["detail"])
    tiles = rig.tiles("s_mips", 1050.0)
    assert all("/renamed/" in tile["mipmapLevels"]["0"]["imageUrl"] for tile in tiles.values())
    verify_levels(tiles)
    assert rig.stack_state("s_mips") == "COMPLETE"


@pytest.mark.slow
def test_a_completed_directory_moved_away_and_back_is_completed_under_each_path(started, write):
    rig = started
    written = write(specimen_id="s")
    rig.wait_until("complete", written.metafile)
    there = written.metafile.parent.with_name("elsewhere")
    written.metafile.parent.rename(there)
    rig.wait_until("complete", there / written.metafile.name)
    assert row_at(rig, written.metafile)["state"] == "superseded"
    there.rename(written.metafile.parent)
    rig.wait_until("complete", written.metafile)
    assert row_at(rig, there / written.metafile.name)["state"] == "superseded"
    urls = [tile["mipmapLevels"]["0"]["imageUrl"] for tile in rig.tiles("s_mips", 1050.0).values()]
    assert not [url for url in urls if "elsewhere" in url]


@pytest.mark.slow
def test_a_directory_moved_out_of_the_watch_fails_with_a_hint_delays_no_stack_and_continues_when_it_is_back(
    started, write
):
    rig = started
    hold_apply(rig)
    written = write(specimen_id="s")
    rig.wait_until("mipmapped", written.metafile)
    # An attempt that is running has read the metafile; the next one has not.
    row = row_at(rig, written.metafile)
    wait_for(lambda: (last := attempts(rig, row)[-1])["step"] == "apply" and last["ended_at"], 60, "apply failed once")
    away = rig.root / "away"
    written.metafile.parent.rename(away)
    rig.tell_standin()
    wait_for(lambda: row_at(rig, written.metafile)["state"] == "failed", 60, lambda: str(rig.montages()))
    fault = row_at(rig, written.metafile)["fault"]
    assert "moved, renamed or deleted" in fault["problem"]
    assert "another path" in fault["hint"]
    other = write(1051, specimen_id="s")
    rig.wait_until("complete", other.metafile)
    assert rig.stack_state("s_raw") == "COMPLETE"
    away.rename(written.metafile.parent)
    wait_for(lambda: row_at(rig, written.metafile)["state"] == "complete", 60, lambda: str(rig.montages()))
    assert len(rig.tiles("s_mips", 1050.0)) == 4


def test_the_same_files_under_a_second_path_are_processed_once(started, write):
    """Hard links look like a bind mount, or like a watch that overlaps another through a link."""
    rig = started
    written = write(specimen_id="s")
    rig.wait_until("complete", written.metafile)
    files = digest_tree(rig.mipmaps)
    second = written.metafile.parent.with_name("second_path")
    shutil.copytree(written.metafile.parent, second, copy_function=os.link)
    alias = second / written.metafile.name
    rig.wait_until("ignored", alias)
    assert str(written.metafile) in row_at(rig, alias)["waiting_for"]
    rig.wait_until("complete", written.metafile)  # a new link changes the ctime, so the file is read again
    assert digest_tree(rig.mipmaps) == files


@pytest.mark.parametrize("apply", ["tiles", "path_builder"])
def test_a_copy_is_refused_with_both_names_and_replaces_its_original_when_that_is_deleted(rig, write, apply):
    rig.settings |= {"watch.scan_interval_s": 0.5, "watch.mipmaps.apply": apply}
    rig.start_standin()
    rig.start()
    written = write(specimen_id="s")
    rig.wait_until("complete", written.metafile)
    directory = written.metafile.parent.with_name("copy")
    shutil.copytree(written.metafile.parent, directory)
    copy = directory / written.metafile.name
    rig.wait_until("failed", copy)
    fault = row_at(rig, copy)["fault"]
    assert (fault["kind"], fault["subject"]) == ("MetafileFault", str(copy))
    assert str(written.metafile) in fault["problem"]
    assert "remove one of the two metafiles" in fault["hint"]
    assert row_at(rig, written.metafile)["state"] == "complete"
    shutil.rmtree(written.metafile.parent)
    wait_for(lambda: row_at(rig, copy)["state"] == "complete", 60, lambda: str(rig.montages()))
    assert row_at(rig, written.metafile)["state"] == "superseded"
    tiles = rig.tiles("s_mips", 1050.0)
    assert all("/copy/" in tile["mipmapLevels"]["0"]["imageUrl"] for tile in tiles.values())
    assert len(tiles) == 4


@pytest.mark.slow
def test_two_paths_of_the_same_files_that_arrive_together_are_processed_once(rig, write):
    rig.start_standin()
    written = write(specimen_id="s")
    shutil.copytree(written.metafile.parent, written.metafile.parent.with_name("other"), copy_function=os.link)
    rig.start()
    wait_for(lambda: sorted(row["state"] for row in rig.montages()) == ["complete", "ignored"], 60, "one of them")


def with_second_watch(rig: Rig, directory: Path) -> None:
    """Add another watch of the same kind to the rig's configuration."""
    alone = rig.config_text()
    watch = alone[alone.index("[[watch]]") :].replace(f'"{rig.acquisition}"', f'"{directory}"')
    whole = alone + watch.replace('name = "daemon"', 'name = "linked"')
    rig.config_text = lambda: whole  # type: ignore[method-assign]


def test_a_watch_that_contains_directories_of_another_through_a_link_processes_nothing_twice(rig, write):
    rig.start_standin()
    written = write(specimen_id="s")
    link = rig.root / "link"
    link.symlink_to(rig.acquisition / "demo")
    with_second_watch(rig, link)
    _done_once(rig, written.metafile)


def test_a_second_watch_of_a_directory_through_a_link_is_refused(rig):
    rig.start_standin()
    link = rig.root / "link"
    link.symlink_to(rig.acquisition)
    with_second_watch(rig, link)
    with pytest.raises(AssertionError, match="another watch of this one under a second name"):
        rig.start()
    assert rig.daemon.process.wait(60) == 1


def test_files_under_a_bind_mount_in_the_same_tree_are_processed_once(rig, write, tmp_path):
    script = tmp_path / "mounted"
    script.write_text('#!/bin/sh\nmkdir -p "$A/again" && mount --bind "$A/demo" "$A/again" && exec "$@"\n')
    script.chmod(0o755)
    probe = subprocess.run(["unshare", "-rm", "true"], capture_output=True)
    if probe.returncode:
        pytest.skip(f"a mount namespace cannot be created here: {probe.stderr.decode()}")
    rig.prefix = ("unshare", "-rm", "env", f"A={rig.acquisition}", str(script))
    rig.start_standin()
    written = write(specimen_id="s")
    _done_once(rig, written.metafile)


def _done_once(rig: Rig, metafile: Path) -> None:
    """Check that one of the two paths to the files is COMPLETE and the other IGNORED."""
    rig.start()
    wait_for(
        lambda: sorted(row["state"] for row in rig.montages()) == ["complete", "ignored"],
        60,
        lambda: str(rig.montages()),
    )
    tiles = rig.tiles("s_mips", 1050.0)
    assert verify_levels(tiles) == 4 * 6
    assert {row["metafile"].rpartition("/")[2] for row in rig.montages()} == {metafile.name}


@pytest.mark.parametrize("deleted", ["s_raw", pytest.param("s_mips", marks=pytest.mark.slow)])
def test_a_stack_deleted_before_levels_are_applied_is_created_again(started, write, deleted):
    rig = started
    hold_apply(rig)
    written = write(specimen_id="s")
    rig.wait_until("mipmapped", written.metafile)
    rig.tell_standin()
    fetch(rig.stack_url(deleted), method="DELETE")
    rig.wait_until("complete", written.metafile)
    assert len(rig.tiles("s_raw", 1050.0)) == 4
    assert verify_levels(rig.tiles("s_mips", 1050.0)) == 24


@pytest.mark.parametrize("deleted", ["s_raw", pytest.param("s_mips", marks=pytest.mark.slow)])
def test_a_stack_deleted_before_it_is_closed_is_filled_again_and_no_level_is_made_twice(rig, write, deleted):
    rig.settings["watch.stacks.close_after_s"] = 3600.0
    rig.start_standin()
    rig.start()
    written = write(specimen_id="s")
    rig.wait_until("applied", written.metafile)
    times = {path: path.stat().st_mtime_ns for path in rig.mipmaps.rglob("*.tif")}
    fetch(rig.stack_url(deleted), method="DELETE")
    rig.settings["watch.stacks.close_after_s"] = 0.5
    assert temwatch("reload", "--config", str(rig.config())).returncode == 0
    rig.wait_until("complete", written.metafile)
    assert len(rig.tiles("s_raw", 1050.0)) == 4
    assert verify_levels(rig.tiles("s_mips", 1050.0)) == 24
    assert rig.stack_state("s_mips") == rig.stack_state("s_raw") == "COMPLETE"
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert "tiles_lost" in [event["event"] for event in events(rig, row_at(rig, written.metafile))]


@pytest.mark.slow
def test_a_stack_that_another_program_closes_at_each_step_is_reopened(started, write):
    rig = started
    sections = [write(1050 + number, specimen_id="s") for number in range(3)]

    def close_and_look() -> bool:
        for stack in ("s_raw", "s_mips"):
            fetch(f"{rig.stack_url(stack)}/state/COMPLETE", method="PUT")
        return all((rig.montage_of(section.metafile) or {}).get("state") == "complete" for section in sections)

    wait_for(close_and_look, 90, lambda: str(rig.montages()))
    assert all(verify_levels(rig.tiles("s_mips", 1050.0 + number)) == 24 for number in range(3))


@pytest.mark.parametrize("locked", ["s_raw", pytest.param("s_mips", marks=pytest.mark.slow)])
def test_a_stack_set_read_only_fails_the_montages_that_would_write_to_it(rig, write, locked):
    rig.start_standin()
    rig.start()
    first = write(1050, specimen_id="s")
    rig.wait_until("complete", first.metafile)
    fetch(f"{rig.stack_url(locked)}/state/READ_ONLY", method="PUT")
    second, other = write(1051, specimen_id="s"), write(1052, specimen_id="another")
    rig.wait_until("failed", second.metafile)
    rig.wait_until("complete", other.metafile)
    fault = rig.montage_of(second.metafile)["fault"]
    assert locked in fault["subject"]
    assert "READ_ONLY" in fault["problem"]
    assert fault["hint"]
    assert rig.ready()["ready"]
    fetch(f"{rig.stack_url(locked)}/state/COMPLETE", method="PUT")
    config = str(rig.root / f"{rig.name}.toml")
    assert temwatch("replay", str(second.metafile), "--config", config).returncode == 0
    rig.wait_until("complete", second.metafile)
    assert verify_levels(rig.tiles("s_mips", 1051.0)) == 24
