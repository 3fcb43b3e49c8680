"""kill -9 of the daemon at random moments: the stacks and files are the same, and no recorded work is repeated."""

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
"""Number of tiles that the daemon submits at once."""
FIRST_GRID = 1050


class Renames(FileSystemEventHandler):
    """Counts the renames of each level-1 file to its final path."""

    def __init__(self, mipmaps: Path, images: list[Path]) -> None:
        self._level1 = mipmaps / "1"
        self._marks = 0
        self._seen: set[str] = set()
        self.count: collections.Counter[str] = collections.Counter()
        # The directories are made before they are watched, since watchdog misses some of many new directories.
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
        """Wait until the event of a later rename has arrived; return the counts of all renames so far."""
        self._marks += 1
        mark = self._level1 / f"mark_{self._marks}"
        mark.with_suffix(".part").touch()
        mark.with_suffix(".part").rename(mark)
        wait_for(lambda: str(mark) in self._seen, 60, "the observer to catch up")
        mark.unlink()
        return dict(self.count)


@dataclass(frozen=True)
class Kill:
    """Observations after a kill of the daemon."""

    made: dict[str, int]
    """Level-1 file -> number of renames to its final path."""
    recorded: frozenset[str]
    """Tiles that the journal records as done."""


def report(text: str) -> None:
    """Print a text, which pytest shows after a failure."""
    sys.stdout.write(f"{text}\n")


def processes_of_session(leader: int) -> list[str]:
    """Return the command lines of the running processes in the session of the process."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if entry.name.isdigit() and int(fields[3]) == leader and fields[0] != "Z":
                found.append((entry / "cmdline").read_text().replace("\0", " "))
    return found


def tiles_recorded(journal: Path) -> frozenset[str]:
    """Return the tiles of all montages whose mipmaps the journal records as made."""
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
    """Write sections with tiles so small that a daemon makes some before it is killed, on a busy machine too.

    A montage without progress before ten kills in a row counts as the cause of the crashes and fails.
    """
    plans = [section_plan(FIRST_GRID + k, 20, size=(512, 512), seed=k) for k in range(count)]
    return [write_section(plan, root, pixels="noise") for plan in plans]


def outcome(rig: Rig, sections: int) -> dict[str, Any]:
    """Return the stacks and the mipmap files, with a placeholder for the rig's directory."""
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
    """Start the daemon and kill it: one time in five during its start, otherwise in its first second of work."""
    if rng.random() < 0.2:
        rig.daemon = Program(rig.root / "daemon.log", "daemon", "run", "--config", str(rig.root / "daemon.toml"))
        time.sleep(rng.uniform(0.2, 1.5))
    else:
        rig.start()
        time.sleep(rng.uniform(0.0, 1.0))
    leader = rig.daemon.process.pid
    assert rig.daemon.process.poll() is None, rig.daemon.lines()[-20:]
    rig.daemon.kill()
    wait_for(lambda: not processes_of_session(leader), 60, lambda: f"the end of {processes_of_session(leader)}")


def survive(tmp_path: Path, kills: int, seed: int) -> FaultRun:
    """Compare a run with kills with one without; return the row of the fault."""
    sections = max(3, kills // 2)
    expected = undisturbed(tmp_path / "undisturbed", sections)
    rig = Rig(tmp_path / "killed", {"workers.count": WORKERS})
    staged = write_sections(rig.root / "staged", sections)
    rng = random.Random(seed)
    where = [rig.acquisition / section.directory.relative_to(rig.root / "staged") for section in staged]
    metafiles = [directory / section.metafile.name for directory, section in zip(where, staged, strict=True)]
    images = [path / image.name for path, section in zip(where, staged, strict=True) for image in section.images]
    injected: list[Kill] = []
    with Renames(rig.mipmaps, images).watching() as renames, contextlib.closing(rig):
        rig.start_standin()
        (rig.root / "daemon.toml").write_text(rig.config_text())
        for kill in range(kills):
            # Sections arrive between the kills, so that there is work at every kill.
            for k in range(kill * sections // kills, (kill + 1) * sections // kills):
                where[k].parent.mkdir(parents=True, exist_ok=True)
                staged[k].directory.rename(where[k])
            kill_at_a_random_moment(rig, rng)
            injected.append(Kill(renames.up_to_now(), tiles_recorded(rig.root / "daemon.sqlite")))
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
    assert found["files"] == expected["files"]  # the same names, so no .tmp is left
    note = f"seed {seed}; {check_repeated_tiles(injected, made, mipmapped)}"
    return FaultRun("kill -9 of the daemon", kills, **account.counts(), note=note)


def check_repeated_tiles(kills: list[Kill], made: dict[str, int], file_of: dict[str, str]) -> str:
    """Check that only tiles were made again that were not recorded at a kill; return the counts as text."""
    assert sorted(made) == sorted(file_of.values())
    before: dict[str, int] = {}
    unrecorded: list[int] = []
    for kill in kills:
        again = [tile for tile in kill.recorded if made[file_of[tile]] > kill.made[file_of[tile]]]
        assert not again, f"made again although the journal records them as done: {again}"
        lost = [
            tile
            for tile, file in file_of.items()
            if kill.made.get(file, 0) > before.get(file, 0) and tile not in kill.recorded
        ]
        unrecorded.append(len(lost))
        before = kill.made
    twice = sum(made.values()) - len(made)
    report(f"{len(kills)} kills, {len(made)} tiles, {twice} made again, unrecorded at each kill: {unrecorded}")
    assert twice <= sum(unrecorded)
    assert max(unrecorded) <= GIVEN_TO_WORKERS
    return (
        f"{len(made)} tiles, {twice} made again, at most {max(unrecorded)} unrecorded at a kill; stacks and files equal"
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_with_kills_at_random_moments_gives_the_same_result_as_an_undisturbed_run(tmp_path, scale, enter):
    seed = secrets.randbelow(10**6)
    report(f"seed {seed}")
    enter(survive(tmp_path, scale.pick(200, 6, 2), seed))
