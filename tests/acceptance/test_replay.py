"""`temwatch replay` with a running daemon and without one."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.rig import Rig, temwatch, verify_levels, wait_for

Z = 1050.0


def replay(rig: Rig, *arguments: object, **options) -> subprocess.CompletedProcess[str]:
    done = temwatch("replay", *map(str, arguments), "--config", str(rig.config()), **options)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def events_of(rig: Rig, metafile: Path) -> list[str]:
    montage = rig.montage(rig.montage_of(metafile)["id"])
    return [event["event"] for event in montage["events"]]


def mtimes(rig: Rig) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in rig.mipmaps.rglob("*.tif")}


# --- with a running daemon


def test_the_daemon_repeats_a_complete_montage_and_the_command_waits_for_it(running_rig: Rig, write):
    section = write()
    running_rig.wait_until("complete", section.metafile)
    before = mtimes(running_rig)
    done = replay(running_rig, section.metafile)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"complete    {section.metafile}: z 1050, 4 tiles, {_mips(running_rig, section)}",
        "1 complete, 0 not complete",
    ]
    after = mtimes(running_rig)
    assert after.keys() == before.keys()
    assert all(after[path] > before[path] for path in before)
    assert events_of(running_rig, section.metafile).count("replayed") == 1


def _mips(rig: Rig, section) -> str:
    return rig.montage_of(section.metafile)["mipmapped_stack"]


def test_a_replay_from_apply_writes_the_stack_and_makes_no_mipmap(running_rig: Rig, write):
    section = write()
    running_rig.wait_until("complete", section.metafile)
    before = mtimes(running_rig)
    assert replay(running_rig, section.metafile, "--from", "apply").returncode == 0
    assert mtimes(running_rig) == before
    assert events_of(running_rig, section.metafile)[-4:] == ["completed", "replayed", "applied", "completed"]


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(running_rig: Rig, write):
    section = write()
    running_rig.wait_until("complete", section.metafile)
    known = running_rig.montages()
    events = events_of(running_rig, section.metafile)
    done = replay(running_rig, running_rig.acquisition, "--state", "all", "--dry-run")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        f"replay   {section.metafile}: is complete; every step from ingest on is repeated",
        "1 to replay; nothing was changed",
    ]
    assert running_rig.montages() == known
    assert events_of(running_rig, section.metafile) == events


def test_only_failed_montages_are_selected_unless_a_metafile_is_named(running_rig: Rig, write):
    section = write()
    running_rig.wait_until("complete", section.metafile)
    for arguments in ((), (running_rig.acquisition,), (f"{running_rig.acquisition}/**",), ("--z", 1, 2, 1050)):
        done = replay(running_rig, *arguments)
        assert (done.returncode, done.stdout) == (
            0,
            "no montage matches the selection: nothing to do\n",
        ), arguments
    assert "replayed" not in events_of(running_rig, section.metafile)
    for arguments in (("--z", 1, 1050, "--state", "complete"), ("--state", "all", "--since", "1h")):
        assert "1 complete" in replay(running_rig, *arguments, "--from", "apply").stdout
    assert events_of(running_rig, section.metafile).count("replayed") == 2


def test_a_failed_montage_that_fails_again_ends_the_command_with_1_the_reason_and_the_hint(rig: Rig, write):
    metafile = rig.start_with_failed_montage(write).metafile
    done = replay(rig, "--state", "failed", "--from", "apply")
    assert done.returncode == 1
    fault = rig.montage_of(metafile)["fault"]
    assert fault["hint"]
    line = done.stdout.splitlines()[0]
    assert line.startswith(f"failed      {metafile}: ")
    assert line.endswith(f"{fault['problem']} ({fault['hint']})")
    assert "0 complete, 1 not complete" in done.stdout
    assert events_of(rig, metafile)[-3:] == ["failed", "replayed", "failed"]


@pytest.mark.slow
def test_a_replay_of_a_montage_in_progress_waits_and_does_not_repeat_its_steps(running_rig: Rig, write):
    running_rig.tell_standin(match="resolvedTiles", kind="late", seconds=3)
    section = write()
    wait_for(lambda: running_rig.montage_of(section.metafile), 60)
    first = replay(running_rig, section.metafile)
    assert first.returncode == 0, first.stdout
    assert "replayed" not in events_of(running_rig, section.metafile)


@pytest.mark.slow
def test_an_interrupted_replay_leaves_the_work_to_the_daemon(running_rig: Rig, write):
    section = write()
    running_rig.wait_until("complete", section.metafile)
    running_rig.tell_standin(match="", kind="status", status=503)
    command = subprocess.Popen(
        [sys.executable, "-m", "daemon", "replay", str(section.metafile), "--config", str(running_rig.config())],
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: "replayed" in events_of(running_rig, section.metafile), 60)
    command.send_signal(signal.SIGINT)
    said, _ = command.communicate(timeout=60)
    assert command.returncode == 130
    assert f"the daemon at {running_rig.url} continues" in said
    running_rig.tell_standin()
    running_rig.wait_until("complete", section.metafile, timeout_s=90)


@pytest.mark.slow
def test_a_superseded_content_does_not_replace_the_present_content(running_rig: Rig, write):
    section = write()
    running_rig.wait_until("complete", section.metafile)
    old = section.metafile.read_bytes()
    section.metafile.write_bytes(old + b" \n")
    wait_for(lambda: len(running_rig.montages()) == 2, 60)
    running_rig.wait_until("complete", section.metafile)
    assert replay(running_rig, section.metafile).returncode == 0
    states = {row["digest"]: row["state"] for row in running_rig.montages()}
    assert sorted(states.values()) == ["complete", "superseded"]
    rows = [row for row in running_rig.montages() if row["state"] == "superseded"]
    assert "replayed" not in [event["event"] for event in running_rig.montage(rows[0]["id"])["events"]]


# --- without a daemon


def test_without_a_daemon_unknown_metafiles_become_complete(rig: Rig, write):
    rig.start_standin()
    sections = [write(grid) for grid in (1050, 1051)]
    done = replay(rig, rig.acquisition)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 complete, 0 not complete" in done.stdout
    rig.start()
    rows = [rig.montage_of(section.metafile) for section in sections]
    assert [row["state"] for row in rows] == ["complete", "complete"]
    stack = rows[0]["mipmapped_stack"].rsplit("/", 1)[1]
    assert rig.stack_state(stack) == "COMPLETE"
    for z in (1050.0, 1051.0):
        assert verify_levels(rig.tiles(stack, z)) == 4 * 6
    closes = [each for each in rig.requests() if each["path"].endswith(f"{stack}/state/COMPLETE")]
    assert len(closes) == 1


@pytest.mark.slow
def test_without_a_daemon_only_selected_montages_are_processed(rig: Rig, write):
    rig.start_standin()
    wanted, other = write(1050), write(1051)
    assert replay(rig, wanted.metafile).returncode == 0
    status = json.loads(temwatch("status", "--json", "--config", str(rig.config())).stdout)
    assert status["counts"] == {"daemon": {"complete": 1}}
    assert other.metafile.exists()


@pytest.mark.slow
def test_without_a_daemon_the_stack_of_a_failed_montage_is_closed(rig: Rig, write):
    rig.start_standin()
    written = write(1050, specimen_id="s")
    assert replay(rig, written.metafile).returncode == 0
    rig.settings["watch.mipmaps.levels"] = 9  # more than an image of 128 pixels has
    done = replay(rig, written.metafile)
    assert done.returncode == 1, done.stdout
    assert rig.stack_state("s_raw") == rig.stack_state("s_mips") == "COMPLETE"


@pytest.mark.slow
def test_without_a_daemon_a_glob_and_a_z_select_unknown_metafiles(rig: Rig, write):
    rig.start_standin()
    sections = {grid: write(grid) for grid in (1050, 1051)}
    pattern = f"{rig.acquisition}/**/_metadata_*"
    done = replay(rig, pattern, "--z", "1051", "--dry-run")
    assert done.stdout.splitlines() == [
        f"notice   {sections[1051].metafile}: the journal does not know it; it is noticed now",
        "1 to notice; nothing was changed",
    ]
    assert not (rig.root / "daemon.sqlite").exists()


@pytest.mark.slow
def test_a_montage_that_a_stopped_daemon_left_failed_is_replayed_without_it(rig: Rig, write):
    metafile = rig.start_with_failed_montage(write).metafile
    assert rig.daemon.stop() == 0
    (rig.root / "z.csv").write_text("grid,z\n1050,1050\n")
    rig.settings |= {"watch.stacks.raw": "mended_raw", "watch.stacks.mipmapped": "mended_mips"}
    done = replay(rig, "--state", "failed")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 complete" in done.stdout
    assert verify_levels(rig.tiles("mended_mips", Z)) == 4 * 6
    assert rig.stack_state("mended_mips") == "COMPLETE"
    assert str(metafile) in done.stdout


@pytest.mark.slow
def test_an_interrupted_replay_without_a_daemon_resumes_at_its_next_start(rig: Rig, write):
    rig.start_standin()
    section = write()
    rig.tell_standin(match="", kind="status", status=503)
    command = subprocess.Popen(
        [sys.executable, "-m", "daemon", "replay", str(section.metafile), "--config", str(rig.config())],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def settled() -> bool:
        status = json.loads(temwatch("status", "--json", "--config", str(rig.config())).stdout)
        assert command.poll() is None, command.communicate()
        return status["counts"] == {"daemon": {"settled": 1}}

    wait_for(settled, 40)
    command.send_signal(signal.SIGINT)
    said, problems = command.communicate(timeout=60)
    assert command.returncode == 130
    assert "0 complete, 0 not complete, 1 unfinished" in said
    assert "the daemon continues with them at its next start" in said
    assert "Traceback" not in problems
    rig.tell_standin()
    rig.start()
    rig.wait_until("complete", section.metafile)


@pytest.mark.slow
def test_a_progress_bar_is_shown_on_a_terminal(rig: Rig, write):
    rig.start_standin()
    section = write()
    terminal, end = pty.openpty()
    command = subprocess.Popen(
        [sys.executable, "-m", "daemon", "replay", str(section.metafile), "--config", str(rig.config())],
        stdout=end,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(end)
    shown = b""
    with contextlib.suppress(OSError):  # Linux reports the end of a terminal as an error
        while part := os.read(terminal, 4096):
            shown += part
    os.close(terminal)
    assert command.wait(60) == 0
    assert b"1/1" in shown
    assert b"1 complete, 0 not complete" in shown


@pytest.mark.slow
def test_a_proxy_in_the_environment_is_not_used_for_the_daemon(running_rig: Rig, write):
    section = write()
    running_rig.wait_until("complete", section.metafile)
    env = {**os.environ, "http_proxy": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1"}
    done = replay(running_rig, section.metafile, "--from", "apply", env=env)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_missing_metafile_is_refused_and_ends_the_command_with_1(rig: Rig, write):
    rig.start_standin()
    section = write()
    assert replay(rig, section.metafile).returncode == 0
    section.metafile.unlink()
    done = replay(rig, section.metafile)
    assert done.returncode == 1
    assert "the metafile does not exist; copy it back" in done.stdout


def test_an_ignored_set_that_is_named_is_refused_with_the_reason(rig: Rig, write):
    rig.start_standin()
    section = write()
    reference = section.metafile.with_name("_metadata_20170502174047_reference_0_.json")
    reference.write_bytes(section.metafile.read_bytes())
    done = replay(rig, reference)
    assert done.returncode == 1
    assert "the watch daemon ignores it: its name matches ignore = *_reference_*" in done.stdout


@pytest.mark.slow
def test_a_link_to_the_watched_directory_selects_the_montages_in_it(rig: Rig, write, tmp_path):
    rig.start_standin()
    section = write()
    (tmp_path / "link").symlink_to(rig.acquisition)
    through = tmp_path / "link" / section.metafile.relative_to(rig.acquisition)
    done = replay(rig, through)
    assert done.returncode == 0
    assert str(section.metafile) in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("/elsewhere",), "PATH: /elsewhere is not in a watched directory (watched: daemon ("),
        (("{acquisition}/nothing.json",), "does not exist, and the journal knows no metafile there"),
        (("{acquisition}/picture.tif",), "its name does not match _metadata_*.json"),
        (("--from-report", "{acquisition}/picture.tif"), "--from-report: is not a report of temwatch verify --json"),
    ],
)
def test_bad_usage_ends_with_2_and_one_line_that_names_the_parameter(rig: Rig, arguments, said):
    (rig.acquisition / "picture.tif").write_text("{}")
    rig.render_url = "http://127.0.0.1:1/render-ws/v1"
    done = replay(rig, *(argument.format(acquisition=rig.acquisition) for argument in arguments))
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stdout == ""


@pytest.mark.slow
def test_the_daemon_refuses_a_path_with_the_same_text_and_exit_code(running_rig: Rig):
    done = replay(running_rig, "/elsewhere")
    assert done.returncode == 2
    assert done.stderr.startswith("PATH: /elsewhere is not in a watched directory")
