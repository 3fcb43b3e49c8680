"""kill -9 of the daemon at random moments: the same stacks and files in the end, and no finished work is repeated."""

import collections
import contextlib
import json
import os
import random
import secrets
import shutil
import sqlite3
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from watchdog.events import FileMovedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from daemon.simulator.delivery import Written
from daemon.simulator.temca import write_section
from tests.acceptance.conftest import section_plan
from tests.acceptance.faults.accounts import audit
from tests.acceptance.faults.rows import FaultRun
from tests.acceptance.rig import Program, Rig, digest_tree, fetch, running, verify_levels, wait_for

STACKS = ("20314_2L_raw", "20314_2L_mips")
WORKERS = 2
GIVEN_TO_WORKERS = WORKERS + 2
"""Number of tiles that the daemon has under way at once."""
FIRST_GRID = 1050


class Renames(FileSystemEventHandler):
    """Count, from outside, how often each level-1 file was renamed into its place."""

    def __init__(self, mipmaps: Path, images: list[Path]) -> None:
        self._level1 = mipmaps / "1"
        self._marks = 0
        self._seen: set[str] = set()
        self.count: collections.Counter[str] = collections.Counter()
        # Made before they are watched: watchdog misses some directories of a burst.
        for directory in {image.parent for image in images}:
            Path(f"{self._level1}{directory}").mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def watching(self) -> Iterator["Renames"]:
        observer = Observer()
        observer.schedule(self, str(self._level1), recursive=True, event_filter=[FileMovedEvent])
        observer.start()
        try:
            yield self
        finally:
            observer.stop()
            observer.join()

    def dispatch(self, event: FileSystemEvent) -> None:
        path = os.fsdecode(event.dest_path)
        if path.endswith(".tif"):
            self.count[path] += 1
        else:
            self._seen.add(path)

    def up_to_now(self) -> dict[str, int]:
        """Return the counts of all renames so far: wait until a later mark in the queue has arrived."""
        self._marks += 1
        mark = self._level1 / f"mark_{self._marks}"
        mark.with_suffix(".part").touch()
        mark.with_suffix(".part").rename(mark)
        wait_for(lambda: str(mark) in self._seen, 20, "the observer to catch up")
        mark.unlink()
        return dict(self.count)


@dataclass(frozen=True)
class Death:
    """Observations after a kill of the daemon."""

    made: dict[str, int]
    """Level-1 file -> number of renames into its place."""
    recorded: frozenset[str]
    """Tiles that were done by the journal."""


def tell(text: str) -> None:
    """Description for a failure, or for a run with -s."""
    sys.stdout.write(f"{text}\n")


def processes_of_session(leader: int) -> list[str]:
    """Return the running descendants of the process."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if entry.name.isdigit() and int(fields[3]) == leader and fields[0] != "Z":
                found.append((entry / "cmdline").read_text().replace("\0", " "))
    return found


def tiles_recorded(journal: Path) -> frozenset[str]:
    """Return the tiles whose mipmaps are made by the journal, of all montages."""
    if not journal.exists():
        return frozenset()
    with contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
        try:
            tiles = {row[0] for row in connection.execute("SELECT tile_id FROM tiles")}
            done = connection.execute(
                "SELECT tile_ids FROM tile_sets JOIN montages ON id = montage_id"
                " WHERE state IN ('mipmapped', 'applied', 'complete')"
            ).fetchall()
        except sqlite3.OperationalError:
            return frozenset()  # killed before its tables existed
    return frozenset(tiles.union(*(zlib.decompress(row[0]).decode().split("\n") for row in done)))


def write_sections(root: Path, count: int) -> list[Written]:
    """Small tiles: each life of a second must finish some, under load too. A montage without progress in ten lives
    is parked as the one that kills the daemon."""
    plans = [section_plan(FIRST_GRID + k, 20, size=(512, 512), seed=k) for k in range(count)]
    return [write_section(plan, root, pixels="noise") for plan in plans]


def outcome(rig: Rig, sections: int) -> dict[str, Any]:
    """Return the stacks and the mipmap files, without the rig's own directory in their names."""
    layers = {
        f"{stack} {z}": fetch(f"{rig.stack_url(stack)}/z/{z}/resolvedTiles")
        for stack in STACKS
        for z in (float(FIRST_GRID + k) for k in range(sections))
    }
    stacks = {stack: (meta := fetch(rig.stack_url(stack)))["state"] + json.dumps(meta["stats"]) for stack in STACKS}
    files = {f"/{name}": digest for name, digest in digest_tree(rig.mipmaps).items()}
    text = json.dumps({"layers": layers, "stacks": stacks, "files": files}, sort_keys=True)
    return json.loads(text.replace(str(rig.root), "/rig"))


def undisturbed(root: Path, sections: int) -> dict[str, Any]:
    rig = Rig(root, {"workers.count": WORKERS})
    written = write_sections(rig.acquisition, sections)
    with running(rig):
        rig.wait_until("complete", *(section.metafile for section in written), timeout_s=300)
        result = outcome(rig, sections)
        assert rig.daemon.stop() == 0
    shutil.rmtree(rig.mipmaps)
    return result


def kill_at_a_random_moment(rig: Rig, rng: random.Random) -> None:
    """Start the daemon and kill it: one time in five while it starts, otherwise within its first second of work."""
    if rng.random() < 0.2:
        rig.daemon = Program(rig.root / "daemon.log", "daemon", "run", "--config", str(rig.root / "daemon.toml"))
        time.sleep(rng.uniform(0.2, 1.5))
    else:
        rig.start()
        time.sleep(rng.uniform(0.0, 1.0))
    leader = rig.daemon.process.pid
    assert rig.daemon.process.poll() is None, rig.daemon.lines()[-20:]
    rig.daemon.kill()
    wait_for(lambda: not processes_of_session(leader), 10, lambda: f"an end of {processes_of_session(leader)}")


def survive(tmp_path: Path, kills: int, seed: int) -> FaultRun:
    """A run with kills ends like one without, and repeats only tiles that were under way at a kill."""
    sections = max(3, kills // 2)
    expected = undisturbed(tmp_path / "calm", sections)
    rig = Rig(tmp_path / "killed", {"workers.count": WORKERS})
    staged = write_sections(rig.root / "staged", sections)
    rng = random.Random(seed)
    where = [rig.acquisition / section.directory.relative_to(rig.root / "staged") for section in staged]
    metafiles = [directory / section.metafile.name for directory, section in zip(where, staged, strict=True)]
    images = [path / image.name for path, section in zip(where, staged, strict=True) for image in section.images]
    deaths: list[Death] = []
    with Renames(rig.mipmaps, images).watching() as renames, contextlib.closing(rig):
        rig.start_standin()
        (rig.root / "daemon.toml").write_text(rig.config_text())
        for kill in range(kills):
            # There is work at every kill: sections arrive during the kills.
            for k in range(kill * sections // kills, (kill + 1) * sections // kills):
                where[k].parent.mkdir(parents=True, exist_ok=True)
                staged[k].directory.rename(where[k])
            kill_at_a_random_moment(rig, rng)
            deaths.append(Death(renames.up_to_now(), tiles_recorded(rig.root / "daemon.sqlite")))
        rig.start()
        rig.wait_until("complete", *metafiles, timeout_s=300)
        found = outcome(rig, sections)
        account = audit(rig, metafiles, levels=6)
        made = renames.up_to_now()
        mipmapped = {
            tile["tileId"]: tile["mipmapLevels"]["1"]["imageUrl"].removeprefix("file://")
            for k in range(sections)
            for tile in rig.tiles(STACKS[1], float(FIRST_GRID + k)).values()
        }
        verified = sum(verify_levels(rig.tiles(STACKS[1], float(FIRST_GRID + k))) for k in range(sections))
        assert rig.daemon.stop() == 0
    assert verified == 6 * len(images)
    assert not account.problems
    assert found["layers"] == expected["layers"]
    assert found["stacks"] == expected["stacks"]
    assert found["files"] == expected["files"]  # names too: no .tmp is left
    note = f"seed {seed}; {judge(deaths, made, mipmapped)}"
    return FaultRun("kill -9 of the daemon", kills, **account.counts(), note=note)


def judge(deaths: list[Death], made: dict[str, int], file_of: dict[str, str]) -> str:
    """No tile that was done by the journal was made again; at a kill at most IN_FLIGHT tiles were under way."""
    assert sorted(made) == sorted(file_of.values())
    before: dict[str, int] = {}
    under_way: list[int] = []
    for death in deaths:
        again = [tile for tile in death.recorded if made[file_of[tile]] > death.made[file_of[tile]]]
        assert not again, f"made again although the journal held them as done: {again}"
        cut = [
            tile
            for tile, file in file_of.items()
            if death.made.get(file, 0) > before.get(file, 0) and tile not in death.recorded
        ]
        under_way.append(len(cut))
        before = death.made
    twice = sum(made.values()) - len(made)
    tell(f"{len(deaths)} kills, {len(made)} tiles, {twice} made again, under way at each kill: {under_way}")
    assert twice <= sum(under_way)
    assert max(under_way) <= GIVEN_TO_WORKERS
    return (
        f"{len(made)} tiles, {twice} made again, at most {max(under_way)} under way at a kill; stacks and files equal"
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_killed_at_random_moments_ends_like_an_undisturbed_one(tmp_path, scale, enter):
    seed = secrets.randbelow(10**6)
    tell(f"seed {seed}")
    enter(survive(tmp_path, scale.pick(200, 12, 2), seed))
