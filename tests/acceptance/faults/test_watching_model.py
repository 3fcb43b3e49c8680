"""Random file actions in a watched tree, compared with a model: with true, missing and false events."""

import asyncio
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from daemon.montages.sighting import Sighting
from daemon.watching.event_hints import Hints, HintSink, OpenHints, open_hints
from daemon.watching.root_watch import Timing
from daemon.watching.roots import WatchRoot
from daemon.watching.watcher import Watcher
from handlers.identity import FileIdentity
from tests.acceptance.faults.rows import FaultRun, Scale, scale_asked_for

QUICK = Timing(coalesce_s=0.01, grace_s=0.2, granularity_s=0.1, stuck_s=5.0, opening_s=5.0, stop_s=2.0)
SCALE = scale_asked_for() or Scale.TINY
EXAMPLES = SCALE.pick(60, 8, 5)
TIMEOUT_S = 20.0


class NoEvents:
    """Accepts watches and never reports an event, like inotify on a share to which another machine writes."""

    def __init__(self, root: str, accepts: Callable[[str], bool], sink: HintSink) -> None:
        self.sink = sink

    def watch(self, directory: str) -> None:
        pass

    def is_alive(self) -> bool:
        return True

    def descriptors(self) -> None:
        return None

    def close(self) -> None:
        pass


def false_events(root: str, accepts: Callable[[str], bool], sink: HintSink) -> Hints:
    """Return hints that lose some events, repeat others, and report files and directories that do not exist."""
    return open_hints(root, accepts, _Distorted(sink, root))


class _Distorted:
    def __init__(self, box: HintSink, root: str) -> None:
        self._box, self._root, self._rng = box, root, random.Random(0)

    def file(self, path: str) -> None:
        self._distort(self._box.file, path, f"{self._root}/_metadata_nowhere{self._rng.random()}_.json")

    def tree(self, directory: str) -> None:
        self._distort(self._box.tree, directory, f"{self._root}/nowhere/{self._rng.random()}")

    def overflow(self) -> None:
        self._box.overflow()

    def _distort(self, report: Callable[[str], None], true: str, false: str) -> None:
        match self._rng.randrange(4):
            case 0:
                pass
            case 1:
                report(true)
                report(true)
            case 2:
                report(false)
            case 3:
                report("/outside/_metadata_1_.json")
                report(true)


class Tally:
    """Counts over all examples."""

    def __init__(self) -> None:
        self.actions = self.files = self.missed = 0


class FileActions(RuleBasedStateMachine):
    """Creates, slowly writes, renames, moves, deletes, touches and replaces files; in the end all must be known."""

    open_hints: OpenHints = staticmethod(open_hints)
    tally = Tally()

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="watch-model-"))
        self.root, self.outside = self.place / "root", self.place / "outside"
        self.root.mkdir()
        self.outside.mkdir()
        self.loop = asyncio.new_event_loop()
        self.last: dict[Path, FileIdentity] = {}
        self.number = 0
        self.directories = [self.root]
        self.moved_out: list[Path] = []

    @initialize()
    def start(self) -> None:
        self.make(0)
        root = WatchRoot("model", self.root, scan_interval_s=0.1, full_scan_interval_s=0.5)
        self.watcher = Watcher([root], self._take, timing=QUICK, open_hints=self.open_hints)
        self.task = self.loop.create_task(self.watcher.run())
        self.loop.run_until_complete(asyncio.wait_for(self.watcher.caught_up.wait(), 60))

    async def _take(self, sighting: Sighting) -> None:
        self.last[sighting.path] = sighting.identity

    # --- actions of people and other programs

    def _metafiles(self) -> list[Path]:
        return sorted(self.root.rglob("_metadata_*.json"))

    def _directory(self, choice: int) -> Path:
        there = [path for path in self.directories if path.is_dir()]
        return there[choice % len(there)]

    def _name(self) -> str:
        self.number += 1
        return f"_metadata_{self.number}_.json"

    def _done(self) -> None:
        self.tally.actions += 1

    @rule(choice=st.integers(0, 100))
    def make(self, choice: int) -> None:
        (self._directory(choice) / self._name()).write_text("{}" * (choice + 1))
        self._done()

    @rule(choice=st.integers(0, 100), depth=st.integers(1, 4))
    def make_directories_and_a_file_in_them_at_once(self, choice: int, depth: int) -> None:
        directory = self._directory(choice).joinpath(*(f"d{self.number}_{level}" for level in range(depth)))
        directory.mkdir(parents=True, exist_ok=True)
        (directory / self._name()).write_text("{}")
        self.directories.append(directory)
        self._done()

    @rule(choice=st.integers(0, 100))
    def write_slowly(self, choice: int) -> None:
        with (self._directory(choice) / self._name()).open("w") as file:
            for _ in range(3):
                file.write("part ")
                file.flush()
                self._turn(0.03)
        self._done()

    @rule(choice=st.integers(0, 100))
    def write_under_another_name_and_rename(self, choice: int) -> None:
        directory = self._directory(choice)
        part = directory / f".part_{self.number}"
        part.write_text("whole")
        part.rename(directory / self._name())
        self._done()

    @rule(choice=st.integers(0, 100))
    def rename(self, choice: int) -> None:
        if found := self._metafiles():
            path = found[choice % len(found)]
            path.rename(path.with_name(self._name()))
            self._done()

    @rule(choice=st.integers(0, 100))
    def delete(self, choice: int) -> None:
        if found := self._metafiles():
            found[choice % len(found)].unlink()
            self._done()

    @rule(choice=st.integers(0, 100))
    def touch(self, choice: int) -> None:
        if found := self._metafiles():
            os.utime(found[choice % len(found)])
            self._done()

    @rule(choice=st.integers(0, 100))
    def rewrite_in_place(self, choice: int) -> None:
        if found := self._metafiles():
            found[choice % len(found)].write_text("rewritten" * (choice + 1))
            self._done()

    @rule(choice=st.integers(0, 100))
    def replace(self, choice: int) -> None:
        if found := self._metafiles():
            path = found[choice % len(found)]
            part = path.with_suffix(".part")
            part.write_text("replaced" * (choice + 1))
            part.replace(path)
            self._done()

    @rule(choice=st.integers(0, 100), files=st.integers(1, 5))
    def move_a_tree_in(self, choice: int, files: int) -> None:
        tree = self.outside / f"tree_{self.number}"
        for number in range(files):
            (tree / f"roi_{number}").mkdir(parents=True)
            (tree / f"roi_{number}" / self._name()).write_text("{}")
        place = self._directory(choice) / f"tree_{self.number}"
        tree.rename(place)
        self.directories += [place, place / "roi_0"]
        self._done()

    @rule(choice=st.integers(0, 100))
    def move_a_tree_out(self, choice: int) -> None:
        if (directory := self._directory(choice)) != self.root:
            self.moved_out.append(directory.rename(self.outside / f"out_{self.number}_{len(self.moved_out)}"))
            self._done()

    @rule(choice=st.integers(0, 100))
    def move_a_tree_back(self, choice: int) -> None:
        if self.moved_out:
            tree = self.moved_out.pop()
            self.directories.append(tree.rename(self._directory(choice) / f"back_{self.number}_{tree.name}"))
            self._done()

    @rule(seconds=st.sampled_from([0.0, 0.05, 0.3]))
    def a_while_passes(self, seconds: float) -> None:
        self._turn(seconds)

    def _turn(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    # --- the end

    def _unknown(self) -> dict[Path, tuple[FileIdentity, FileIdentity | None]]:
        """Return files whose last sighting differs from their present state."""
        are = {path: FileIdentity.of(path.stat()) for path in self._metafiles()}
        return {path: (now, self.last.get(path)) for path, now in are.items() if self.last.get(path) != now}

    def teardown(self) -> None:
        try:
            if not hasattr(self, "task"):
                return
            self.make(0)  # an empty root counts as unmounted
            deadline = time.monotonic() + TIMEOUT_S
            while (unknown := self._unknown()) and time.monotonic() < deadline:
                self._turn(0.05)
            self.tally.files += len(self._metafiles())
            self.tally.missed += len(unknown)
            assert not self.task.done()
            assert not unknown, unknown
        finally:
            self._end()

    def _end(self) -> None:
        if hasattr(self, "task"):
            self.task.cancel()
            self.loop.run_until_complete(asyncio.wait([self.task]))
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        shutil.rmtree(self.place)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kind", "hints"), [("true", open_hints), ("missing", NoEvents), ("false", false_events)])
def test_every_metafile_is_known_as_it_is_after_any_file_actions(enter, kind, hints):
    machine = type(f"FileActions_{kind}", (FileActions,), {"open_hints": staticmethod(hints), "tally": Tally()})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[*HealthCheck],
        ),
    )
    tally = machine.tally
    note = f"{EXAMPLES} trees; {tally.files} metafiles in the end, all known"
    enter(FaultRun(f"random file actions, {kind} events", tally.actions, lost=tally.missed, note=note))
