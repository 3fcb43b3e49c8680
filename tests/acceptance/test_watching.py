"""Scans find files that events miss; health reports faults of a watched directory or its configuration."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from daemon.simulator.delivery import Written
from daemon.simulator.temca import write_section
from tests.acceptance.conftest import section_plan
from tests.acceptance.rig import Program, Rig, running, verify_levels, wait_for

LIMIT = 60
FEWER_WATCHES = (
    "unshare", "-U", "-r", "sh", "-c", f'echo {LIMIT} > /proc/sys/user/max_inotify_watches && exec "$@"', "sh",
)  # fmt: skip
"""Run a program and its children with at most 60 inotify watches, in its own user namespace."""


@pytest.fixture
def few_watches(rig: Rig) -> Rig:
    """A rig whose daemon may watch 60 directories."""
    tried = subprocess.run([*FEWER_WATCHES, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"no user namespace to lower the watch limit in: {tried.stderr.strip()}")
    rig.prefix = FEWER_WATCHES
    return rig


def write_set(directory: Path, number: int) -> Path:
    """Write an empty lens-correction metafile: noticed, ignored, no work."""
    metafile = directory / f"_metadata_20181120091439_s_{number:06d}_reference_0_.json"
    metafile.write_bytes(b"")
    return metafile


def write_burst(root: Path, count: int) -> list[Path]:
    """Make directories three deep, as fast as possible, with a metafile in each of the innermost."""
    found = []
    for number in range(count):
        directory = root / f"burst_{number:04d}" / "roi" / "run"
        directory.mkdir(parents=True)
        found.append(write_set(directory, number))
    return found


def image(root: Path, grid: int = 1050, tiles: int = 4, **options: Any) -> Written:
    return write_section(section_plan(grid, tiles, **options), root, pixels="noise")


def wait_until_found(rig: Rig, metafiles: list[Path], timeout_s: float = 60) -> None:
    wanted = {str(path) for path in metafiles}

    def missing() -> set[str]:
        return wanted - {row["metafile"] for row in rig.montages()}

    wait_for(lambda: not missing(), timeout_s, lambda: f"found; {len(missing())} are not, such as {min(missing())}")


def watch_of(rig: Rig) -> dict[str, Any]:
    return (rig.ready().get("watches") or [{}])[0]


def wait_for_warning(rig: Rig, text: str, timeout_s: float = 30) -> str:
    """Return the first warning of /readyz that contains a text."""
    return wait_for(
        lambda: next((warning for warning in rig.ready().get("warnings", ()) if text in warning), None),
        timeout_s,
        lambda: f"a warning of {text}; {rig.ready()}",
    )


def wait_for_reason(rig: Rig, text: str) -> str:
    """Return the first reason of a not ready daemon that contains a text."""
    return wait_for(
        lambda: next((reason for reason in rig.ready().get("reasons", ()) if text in reason), None),
        60,
        lambda: f"not ready because of {text}; {rig.ready()}",
    )


def wait_until_ready(rig: Rig) -> None:
    wait_for(lambda: rig.ready().get("ready"), 60, lambda: f"ready; {rig.ready()}")


def said(rig: Rig, event: str) -> list[dict[str, Any]]:
    """Return the records of an event in the daemon's log."""
    found = []
    for line in rig.daemon.lines():
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            if record["event"] == event:
                found.append(record)
    return found


# --- files that events miss


def find_a_burst(rig: Rig, count: int) -> None:
    wait_until_ready(rig)  # finds of the first pass count neither as announced nor as missed
    metafiles = write_burst(rig.acquisition, count)
    section = image(rig.acquisition / "burst_0000" / "roi")
    wait_until_found(rig, metafiles)
    rig.wait_until("complete", section.metafile)
    found = wait_for(
        lambda: (w := watch_of(rig))["found_by_event"] + w["found_only_by_scan"] >= count + 1 and w, 30, "all counted"
    )
    assert found["directories_seen"] > 3 * count
    wait_for(
        lambda: {row["state"] for row in rig.montages()} == {"ignored", "complete"}, 30, lambda: str(rig.montages())
    )
    sys.stdout.write(f"{count} directories: {found}\n")


def test_every_metafile_in_a_burst_of_nested_directories_is_found(running_rig):
    find_a_burst(running_rig, 200)


@pytest.mark.slow
def test_every_metafile_in_a_burst_of_a_thousand_nested_directories_is_found(running_rig):
    find_a_burst(running_rig, 1000)


def test_a_populated_tree_that_is_moved_in_is_found_with_its_later_files(running_rig):
    rig = running_rig
    staging = rig.root / "staging"
    metafiles = write_burst(staging / "deep" / "deeper", 30)
    sections = [image(staging / "deep", grid) for grid in (1050, 1051)]
    (staging / "deep").rename(rig.acquisition / "deep")
    rig.wait_until(
        "complete", *(rig.acquisition / section.metafile.relative_to(staging) for section in sections), timeout_s=30
    )
    wait_until_found(rig, [rig.acquisition / path.relative_to(staging) for path in metafiles])
    later = image(rig.acquisition / "deep", 1052)
    rig.wait_until("complete", later.metafile)


@pytest.mark.slow
def test_past_the_watch_limit_every_metafile_is_found_and_health_says_how_many_are_watched(few_watches):
    rig = few_watches
    with running(rig):
        wait_until_ready(rig)
        metafiles = write_burst(rig.acquisition, 100)
        section = image(rig.acquisition / "burst_0099" / "roi")
        wait_until_found(rig, metafiles)
        rig.wait_until("complete", section.metafile)
        warning = wait_for_warning(rig, "watch limit reached")
        assert "fs.inotify.max_user_watches" in warning
        watch = watch_of(rig)
        assert watch["directories_watched"] <= LIMIT < watch["directories_seen"]
        assert f"{watch['directories_watched']} of {watch['directories_seen']} directories watched" in warning
        assert rig.ready()["ready"], "what scans find is found: that is no reason not to be ready"
        # So far events of the root have started the scans; no event reports files in directories that are not watched.
        later = [write_set(path.parent, 1000 + number) for number, path in enumerate(metafiles)]
        wait_until_found(rig, later)
        unannounced = len(later) - LIMIT
        wait_for(lambda: watch_of(rig)["found_only_by_scan"] >= unannounced, 60, "what events missed is counted")
        assert watch_of(rig)["status"] == "watching", "events that were never asked for are not held against the others"


@pytest.mark.slow
def test_a_tree_that_is_larger_than_the_watch_limit_from_the_start_is_polled(few_watches):
    rig = few_watches
    before = write_burst(rig.acquisition, 40)
    with running(rig):
        wait_until_found(rig, before)
        wait_for_warning(rig, "watch limit reached")
        section = image(rig.acquisition / "burst_0039" / "roi")
        rig.wait_until("complete", section.metafile)


def write_many(directory: Path, first: int, count: int) -> None:
    """Write small files, each opened, written and closed, as fast as possible."""
    content = b"a line of a log\n"
    for number in range(first, first + count):
        descriptor = os.open(directory / f"{number:06d}.txt", os.O_WRONLY | os.O_CREAT)
        os.write(descriptor, content)
        os.close(descriptor)


SCAN_INTERVAL_S = 10


def ingest_from_a_flood(rig: Rig, count: int, *, asleep: bool) -> None:
    """A metafile arrives in the middle of a flood; its montage must be ingested within one interval after it.

    Parameters
    ----------
    asleep : whether the daemon is stopped while the files are written; then the time counts from its waking.
    """
    section = image(rig.root / "staging")
    place = rig.acquisition / "flood"
    metafile = place / section.metafile.name
    for path in section.images:
        path.rename(place / path.name)
    if asleep:
        rig.daemon.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    write_many(place, 0, count // 2)
    section.metafile.rename(metafile)
    landed = time.monotonic()
    write_many(place, count // 2, count // 2)
    flood_s = time.monotonic() - began
    if asleep:
        rig.daemon.process.send_signal(signal.SIGCONT)
        landed = time.monotonic()
    row = wait_for(
        lambda: (row := rig.montage_of(metafile)) and row["state"] not in ("noticed", "settled") and row,
        SCAN_INTERVAL_S + 30,
        lambda: f"ingested; {rig.montage_of(metafile)}",
    )
    events = rig.montage(row["id"])["events"]
    ingested = next(event["at"] for event in events if event["event"] == "ingested")
    age_s = time.time() - datetime.fromisoformat(ingested).timestamp()
    took_s = time.monotonic() - age_s - landed
    sys.stdout.write(f"{count} files in {flood_s:.1f} s: ingested {took_s:.1f} s after the metafile; {watch_of(rig)}\n")
    assert took_s < SCAN_INTERVAL_S + 1  # and the settling
    rig.wait_until("complete", metafile)


def test_a_montage_in_a_flood_that_overflows_the_event_queue_is_ingested_within_a_scan_interval(rig):
    """The daemon is stopped during the flood, so that the kernel's queue of 16,384 events overflows."""
    rig.settings["watch.scan_interval_s"] = SCAN_INTERVAL_S
    (rig.acquisition / "flood").mkdir()
    with running(rig):
        ingest_from_a_flood(rig, 20_000, asleep=True)
        assert watch_of(rig)["overflows"] >= 1
        wait_for_warning(rig, "the event queue overflowed")


# --- a root that is gone or empty


def test_a_root_that_is_removed_alarms_and_is_watched_again_when_it_is_back(running_rig, write):
    rig = running_rig
    first = write(1050)
    rig.wait_until("complete", first.metafile)
    away = rig.acquisition.with_name("away")
    rig.acquisition.rename(away)
    reason = wait_for_reason(rig, str(rig.acquisition))
    assert "unreachable" in reason
    assert rig.montage_of(first.metafile)["state"] == "complete"
    later = image(away, 1051)
    away.rename(rig.acquisition)
    wait_until_ready(rig)
    rig.wait_until("complete", first.metafile, rig.acquisition / later.metafile.relative_to(away))
    last = write(1052)
    rig.wait_until("complete", last.metafile)


def test_a_root_that_is_suddenly_empty_alarms_and_recovers(running_rig, write):
    rig = running_rig
    first = write(1050)
    rig.wait_until("complete", first.metafile)
    kept = rig.root / "kept"
    kept.mkdir()
    for entry in list(rig.acquisition.iterdir()):
        entry.rename(kept / entry.name)
    assert "suddenly empty" in wait_for_reason(rig, str(rig.acquisition))
    image(kept, 1051)
    for entry in list(kept.iterdir()):
        entry.rename(rig.acquisition / entry.name)
    wait_until_ready(rig)
    second = write(1052)
    rig.wait_until("complete", first.metafile, second.metafile)
    wait_for(lambda: len(rig.montages()) == 3, 60, "what came while it was empty")
    rig.wait_until("complete", *(Path(row["metafile"]) for row in rig.montages()))
    events = rig.montage(rig.montage_of(first.metafile)["id"])["events"]
    assert [event["event"] for event in events].count("ingested") == 1


# --- configuration


def reload(rig: Rig, text: str) -> None:
    (rig.root / f"{rig.name}.toml").write_text(text)
    rig.daemon.process.send_signal(signal.SIGHUP)


def with_second_watch(rig: Rig) -> str:
    """Add another watch to the rig's configuration."""
    text = rig.config_text()
    second = text[text.index("[[watch]]") :].replace(json.dumps(str(rig.acquisition)), json.dumps(str(rig.root / "b")))
    return text + "\n" + second.replace(f'name = "{rig.name}"', 'name = "second"')


def test_a_good_configuration_is_taken_over_at_sighup(running_rig, write):
    rig = running_rig
    (rig.root / "b").mkdir()
    there_before = image(rig.root / "b", 1060)
    reload(rig, with_second_watch(rig))
    wait_for(lambda: said(rig, "config.reloaded"), 60, "config.reloaded")
    assert said(rig, "config.reloaded")[0]["watches"] == [rig.name, "second"]
    first, second = write(1050), image(rig.root / "b", 1061)
    rig.wait_until("complete", first.metafile, second.metafile, there_before.metafile)
    reload(rig, rig.config_text())
    wait_for(lambda: len(said(rig, "config.reloaded")) == 2, 60, "config.reloaded again")
    assert [watch["name"] for watch in rig.ready()["watches"]] == [rig.name]
    last = write(1052)
    rig.wait_until("complete", last.metafile)


def test_a_bad_configuration_at_sighup_is_refused_with_its_reason_and_the_old_one_kept(running_rig, write):
    rig = running_rig
    text = rig.config_text()
    bad = {
        "watch[0].z.rule": text.replace('rule = "grid"', 'rule = "gird"'),
        "render.owner: needs a restart": text.replace('owner = "em"', 'owner = "other"'),
        f"{rig.name}.toml": text.replace("[render]", "[render"),
    }
    for count, (words, spoiled) in enumerate(bad.items(), start=1):
        reload(rig, spoiled)
        wait_for(lambda count=count: len(said(rig, "config.refused")) == count, 60, "config.refused")
        assert words in said(rig, "config.refused")[-1]["problem"]
    section = write()
    rig.wait_until("complete", section.metafile)
    assert rig.ready()["ready"]


def test_a_bad_configuration_at_the_start_is_refused_key_by_key(rig):
    rig.render_url = "http://127.0.0.1:9/render-ws/v1"
    config = rig.root / "bad.toml"
    text = rig.config_text().replace('rule = "grid"', 'rule = "gird"').replace("levels = 6", "levels = 6\nlevles = 5")
    config.write_text(text)
    ended = subprocess.run(
        [sys.executable, "-m", "daemon", "run", "--config", str(config)], capture_output=True, text=True, timeout=60
    )
    lines = (ended.stdout + ended.stderr).splitlines()
    assert ended.returncode == 2
    assert len(lines) == 2, lines
    assert any("watch[0].z.rule" in line and "gird" in line and "grid" in line for line in lines), lines
    assert any("watch[0].mipmaps.levles" in line for line in lines), lines


# --- one owner, and an orderly end


@contextlib.contextmanager
def second_daemon(rig: Rig) -> Iterator[Rig]:
    """Return a second daemon's rig on the first one's directory, configured and not started."""
    other = Rig(rig.root / "other", {"watch.directory": str(rig.acquisition)}, render_url=rig.render_url, name="other")
    (other.root / "other.toml").write_text(other.config_text())
    with contextlib.closing(other):
        yield other


def test_a_second_daemon_on_the_same_root_is_refused_with_one_line(running_rig, write):
    rig = running_rig
    with second_daemon(rig) as other:
        log = other.root / "other.log"
        other.daemon = Program(log, "daemon", "run", "--config", str(other.root / "other.toml"))
        assert other.daemon.process.wait(60) == 1
        plain = [line for line in log.read_text().splitlines() if not line.startswith("{")]
    assert len(plain) == 1, plain
    assert str(rig.acquisition) in plain[0]
    assert "is watched by another temwatch" in plain[0]
    section = write()
    rig.wait_until("complete", section.metafile)


def tiles_made(journal: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
        return {row[0] for row in connection.execute("SELECT tile_id FROM tiles")}


def test_sigterm_during_mipmaps_lets_the_tiles_under_way_end_and_the_next_start_does_the_rest(rig, write):
    rig.settings["workers.count"] = 2
    rig.start_standin()
    rig.start()
    journal = rig.root / "daemon.sqlite"
    with rig.held_at_mipmaps(lambda: write(1050, 24, size=(1536, 1536)), first=8) as (section, lease):
        wait_for(lambda: len(tiles_made(journal)) >= 6, 60, "some tiles are made")
        rig.daemon.process.send_signal(signal.SIGTERM)
        wait_for(lambda: said(rig, "daemon.draining"), 60, "the daemon drains")
        lease.give_back()
        assert rig.daemon.process.wait(60) == 0
    made = tiles_made(journal)
    assert 6 <= len(made) < len(section.images)
    level1 = {path: path.stat().st_ino for path in (rig.mipmaps / "1").rglob("*.tif")}
    assert len(level1) == len(made), "a tile was put into place and not recorded"
    assert not list(rig.mipmaps.rglob("*.tmp"))
    rig.start()
    rig.wait_until("complete", section.metafile)
    assert {path: path.stat().st_ino for path in level1} == level1
    assert verify_levels(rig.tiles("20314_2L_mips", 1050.0)) == 6 * len(section.images)
    assert not said(rig, "journal.crashed_attempts")


@pytest.mark.slow
def test_a_second_sigterm_does_not_wait_for_a_render_ws_that_does_not_answer(running_rig, write):
    rig = running_rig
    rig.tell_standin(match="^PUT .*resolvedTiles", kind="stall", seconds=100)
    section = write()
    wait_for(lambda: any("resolvedTiles" in asked["path"] for asked in rig.requests()), 60, "tiles put")
    rig.daemon.process.send_signal(signal.SIGTERM)
    wait_for(lambda: said(rig, "daemon.draining"), 60, "daemon.draining")
    assert rig.daemon.stop(timeout_s=10) == 0
    rig.tell_standin()
    rig.start()
    rig.wait_until("complete", section.metafile)
    assert not said(rig, "journal.crashed_attempts"), "an orderly end is no crash"


def test_sigterm_while_a_stack_is_being_closed_is_no_crash(running_rig, write):
    rig = running_rig
    rig.tell_standin(match="^PUT .*/state/COMPLETE", kind="stall", seconds=100)
    section = write()
    wait_for(lambda: any("COMPLETE" in asked["path"] for asked in rig.requests()), 60, "a stack being closed")
    assert rig.daemon.stop(timeout_s=20) == 0
    rig.tell_standin()
    rig.start()
    rig.wait_until("complete", section.metafile)
    assert not said(rig, "journal.crashed_attempts"), "an orderly end is no crash"
