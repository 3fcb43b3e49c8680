"""`temwatch journal backup` and `rebuild` with real files, the daemon and the stand-in as processes."""

import json
import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from daemon.commands.journal.backup import back_up
from daemon.journal.file import COMPANIONS
from daemon.pipeline.replay.lookup import NotSelectable
from tests.acceptance.rig import OWNER, PROJECT, Rig, digest_tree, fetch, temwatch, verify_levels, wait_for

Z = 1050.0


def run(rig: Rig, *arguments: object) -> subprocess.CompletedProcess[str]:
    done = temwatch(*map(str, arguments), "--config", str(rig.config()))
    assert "Traceback" not in done.stderr, done.stderr
    return done


def journal(rig: Rig) -> Path:
    return rig.root / "daemon.sqlite"


def states(rig: Rig) -> dict[str, str]:
    return {row["metafile"]: row["state"] for row in rig.montages()}


def test_a_back_up_made_while_the_daemon_writes_is_valid_and_can_be_restored(running_rig: Rig, write, tmp_path):
    first = write(1050)
    running_rig.wait_until("complete", first.metafile)
    second = write(1051)
    copy = tmp_path / "backup.sqlite"
    for _ in range(3):  # each replaces the earlier back-up of this name
        done = run(running_rig, "journal", "backup", copy)
        assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir() if "backup" in path.name] == ["backup.sqlite"]
    running_rig.wait_until("complete", second.metafile)
    assert running_rig.daemon.stop() == 0
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    for suffix in ("", "-wal", "-shm"):
        Path(f"{journal(running_rig)}{suffix}").unlink(missing_ok=True)
    shutil.copy(copy, journal(running_rig))
    running_rig.start()
    running_rig.wait_until("complete", first.metafile, second.metafile)
    assert len(running_rig.montages()) == 2


def test_a_journal_deleted_while_the_daemon_runs_is_reported_and_can_be_backed_up(running_rig: Rig, write, tmp_path):
    section = write(1050)
    running_rig.wait_until("complete", section.metafile)
    for companion in COMPANIONS:
        Path(f"{journal(running_rig)}{companion}").unlink(missing_ok=True)
    (reason,) = wait_for(lambda: running_rig.ready()["reasons"], 60, "a reason why the daemon is not ready")
    assert "was deleted or replaced" in reason
    assert "temwatch journal backup FILE" in reason
    copy = tmp_path / "saved.sqlite"
    done = run(running_rig, "journal", "backup", copy)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"1 montage is in {copy}\n", "")
    assert running_rig.daemon.stop() == 0
    shutil.move(copy, journal(running_rig))
    running_rig.start()
    assert states(running_rig) == {str(section.metafile): "complete"}
    created = [json.loads(line) for line in running_rig.daemon.lines() if '"journal.created"' in line]
    assert len(created) == 1, "only the first start created a journal"
    assert created[0]["level"] == "warning"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("precious.txt", "exists and is not a back-up"),
        ("daemon.sqlite", "is the journal itself"),
        ("daemon.sqlite-wal", "is the journal itself"),
        ("nowhere/x.sqlite", "is not a directory"),
    ],
)
def test_a_back_up_replaces_only_an_earlier_back_up(tmp_path, target, said):
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    (tmp_path / "daemon.sqlite").write_bytes(b"")
    with pytest.raises(NotSelectable, match=said):
        back_up(tmp_path / "daemon.sqlite", tmp_path / target)
    assert precious.read_text() == "mine"


def test_a_damaged_journal_is_not_backed_up(rig: Rig):
    rig.render_url = "http://127.0.0.1:1/render-ws/v1"
    journal(rig).write_bytes(b"SQLite format 3\0" + bytes(8000))
    done = run(rig, "journal", "backup", rig.root / "copy.sqlite")
    assert done.returncode == 2
    assert "temwatch journal rebuild" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (rig.root / "copy.sqlite").exists()
    assert not list(rig.root.glob(".copy*"))


def test_the_daemon_refuses_a_damaged_journal_and_runs_with_the_rebuilt_one(running_rig: Rig, write):
    sections = [write(1050), write(1051)]
    running_rig.wait_until("complete", *(section.metafile for section in sections))
    assert running_rig.daemon.stop() == 0
    os.truncate(journal(running_rig), 5000)
    damaged = journal(running_rig).read_bytes()
    refused = run(running_rig, "run")
    assert refused.returncode == 2, "systemd would start it again and again"
    assert len(refused.stderr.splitlines()) == 1
    assert "is a damaged journal" in refused.stderr
    assert "temwatch journal rebuild" in refused.stderr

    files, asked = digest_tree(running_rig.mipmaps), len(running_rig.requests())
    done = run(running_rig, "journal", "rebuild")
    assert (done.returncode, done.stderr) == (0, "")
    assert "is rebuilt: 2 complete" in done.stdout
    (kept,) = running_rig.root.glob("daemon.sqlite.before-*")
    assert kept.read_bytes() == damaged
    assert str(kept) in done.stdout
    assert "montages that were dismissed are processed again" in done.stdout
    running_rig.start()
    running_rig.wait_until("complete", *(section.metafile for section in sections))
    montage = running_rig.montage(running_rig.montage_of(sections[0].metafile)["id"])
    assert [event["event"] for event in montage["events"]] == ["noticed", "rebuilt"]
    assert f"tiles are in {OWNER}/{PROJECT}/" in montage["events"][1]["detail"]["evidence"]
    assert digest_tree(running_rig.mipmaps) == files
    assert {each["method"] for each in running_rig.requests()[asked:]} == {"GET"}
    assert run(running_rig, "verify").returncode == 0


@pytest.mark.slow
def test_a_rebuild_restores_each_montage_in_the_state_that_stacks_and_files_prove(rig: Rig, write):
    rig.settings |= {"watch.stacks.raw": "s{grid}_raw", "watch.stacks.mipmapped": "s{grid}_mips"}
    rig.start_standin()
    grids = {"complete": 1, "open": 2, "levels_not_named": 3, "a_level_gone": 4, "a_tile_gone": 5, "replaced": 6}
    sections = {name: write(grid) for name, grid in grids.items()}
    assert run(rig, "replay", rig.acquisition).returncode == 0
    never_done = write(7)
    broken = never_done.metafile.with_name("_metadata_20180101000000_broken_0_.json")
    broken.write_text("[{}")
    ignored = never_done.metafile.with_name("_metadata_20180101000000_reference_0_.json")
    ignored.write_text("[]")

    def stack(name: str, kind: str) -> str:
        return f"s{grids[name]:06d}_{kind}"

    fetch(f"{rig.stack_url(stack('open', 'mips'))}/state/LOADING", method="PUT")
    fetch(rig.stack_url(stack("levels_not_named", "mips")), method="DELETE")
    image = sections["a_level_gone"].images[0]
    (rig.mipmaps / "3" / f"{str(image).lstrip('/')}.tif").unlink()
    raw = stack("a_tile_gone", "raw")
    fetch(f"{rig.stack_url(raw)}/state/LOADING", method="PUT")
    fetch(f"{rig.stack_url(raw)}/tile/{min(rig.tiles(raw, 5.0))}", method="DELETE")
    replaced = sections["replaced"].metafile
    replaced.write_bytes(replaced.read_bytes().replace(b"_1_1.tif", b"_9_9.tif"))

    journal(rig).unlink()
    done = run(rig, "journal", "rebuild")
    assert done.returncode == 0, done.stderr
    status = json.loads(run(rig, "status", "--json").stdout)
    assert status["counts"] == {
        "daemon": {"complete": 1, "applied": 1, "mipmapped": 1, "ingested": 1, "noticed": 4, "ignored": 1}
    }
    entered = {row["metafile"]: row["state"] for row in status["montages"]}
    found = {name: entered.get(str(section.metafile), "complete") for name, section in sections.items()}
    assert found == {
        "complete": "complete",
        "open": "applied",
        "levels_not_named": "mipmapped",
        "a_level_gone": "ingested",
        "a_tile_gone": "noticed",
        "replaced": "noticed",
    }
    assert entered[str(broken)] == "noticed"
    assert not list(rig.root.glob("*.before-*"))

    rig.start()
    rig.wait_until("complete", *(section.metafile for name, section in sections.items() if name != "replaced"))
    rig.wait_until("complete", never_done.metafile)
    for name in ("complete", "open", "levels_not_named", "a_level_gone", "a_tile_gone"):
        assert verify_levels(rig.tiles(stack(name, "mips"), float(grids[name]))) == 4 * 6
        assert rig.stack_state(stack(name, "mips")) == "COMPLETE"


@pytest.mark.slow
@pytest.mark.parametrize("where", ["the same directory", "another directory"])
def test_one_of_two_metafiles_with_the_same_images_becomes_complete_after_a_rebuild(rig: Rig, write, where):
    rig.start_standin()
    section = write(1050, specimen_id="s")
    assert run(rig, "replay", rig.acquisition).returncode == 0
    if where == "the same directory":
        copy = section.metafile.with_name(section.metafile.name.replace("_0_.json", "_0_conflict.json"))
        copy.write_bytes(section.metafile.read_bytes())
    else:
        directory = section.metafile.parent.with_name("copy")
        shutil.copytree(section.metafile.parent, directory)
        copy = directory / section.metafile.name
    done = run(rig, "journal", "rebuild")
    # The stack names images in the first directory, but not which of its metafiles made the tiles.
    assert ("2 noticed" if where == "the same directory" else "1 noticed, 1 complete") in done.stdout
    rig.start()
    states = ["complete", "failed"]
    wait_for(lambda: sorted(row["state"] for row in rig.montages()) == states, 60, lambda: str(rig.montages()))
    (refused,) = [row for row in rig.montages() if row["state"] == "failed"]
    assert {refused["metafile"]} < {str(copy), str(section.metafile)}
    assert str(copy) in str(refused["fault"])
    assert str(section.metafile) in str(refused["fault"])


def test_tiles_that_no_metafile_names_are_reported_and_kept(rig: Rig, write):
    rig.start_standin()
    section, other = write(1050), write(1050, roi_index=1)
    assert run(rig, "replay", rig.acquisition).returncode == 0
    other.metafile.unlink()
    done = run(rig, "journal", "rebuild")
    assert "has 4 tiles that no metafile has; they are kept" in done.stdout
    assert "1 complete" in done.stdout
    (stack,) = [word for word in done.stdout.split() if word.endswith("_raw")][:1]
    assert len(rig.tiles(stack.rsplit("/", 1)[1], Z)) == 8
    assert section.metafile.exists()


def test_a_rebuilt_journal_knows_the_mipmap_directory_and_refuses_an_empty_one_in_its_place(running_rig: Rig, write):
    rig = running_rig
    rig.wait_until("complete", write().metafile)
    assert rig.daemon.stop() == 0
    journal(rig).unlink()
    assert run(rig, "journal", "rebuild").returncode == 0
    rig.mipmaps.rename(rig.mipmaps.with_name("unmounted"))
    rig.mipmaps.mkdir()
    rig.start()
    assert any("lacks the marker file" in reason for reason in rig.ready()["reasons"]), rig.ready()


def test_a_rebuild_is_refused_while_the_daemon_runs(running_rig: Rig, write):
    section = write()
    running_rig.wait_until("complete", section.metafile)
    done = run(running_rig, "journal", "rebuild")
    assert done.returncode == 1
    assert "is used by another temwatch" in done.stderr
    assert "stop the daemon first" in done.stderr
    assert states(running_rig) == {str(section.metafile): "complete"}


def test_a_rebuild_without_a_directory_or_render_ws_leaves_the_journal_unchanged(rig: Rig, write):
    rig.start_standin()
    section = write()
    assert run(rig, "replay", section.metafile).returncode == 0
    before = journal(rig).read_bytes()
    rig.acquisition.rename(rig.root / "unmounted")
    gone = run(rig, "journal", "rebuild")
    assert (gone.returncode, "does not exist" in gone.stderr) == (1, True)
    (rig.root / "unmounted").rename(rig.acquisition)
    rig.standin.end()
    away = run(rig, "journal", "rebuild")
    assert away.returncode == 1
    assert len(away.stderr.splitlines()) == 1
    assert journal(rig).read_bytes() == before
    assert not list(rig.root.glob(".daemon.sqlite*"))
