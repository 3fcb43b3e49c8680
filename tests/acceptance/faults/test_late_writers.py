"""Copies that stall or are slow, with the file times of Windows, Samba, NFS and `cp -p`: no tile stays half black.

`os.utime` sets the times after each write as such a copy does. The ctime cannot be set.
"""

import os
import random
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import pytest

from daemon.simulator.delivery import Written
from daemon.simulator.temca import write_section
from tests.acceptance.conftest import section_plan
from tests.acceptance.faults.accounts import audit, present_rows
from tests.acceptance.faults.rows import FaultRun
from tests.acceptance.rig import Rig, running, wait_for

LEVELS = 2
SIZE = (256, 192)
TILES = 4
SOURCE_NS = int(datetime(2020, 5, 6, 7, 8, 9, tzinfo=UTC).timestamp()) * 10**9
FAT_EPOCH_NS = int(datetime(1980, 1, 1, tzinfo=UTC).timestamp()) * 10**9
REPAIR_TIMEOUT_S = 90.0


class Times(StrEnum):
    """The modification time of a file while it is open, and after it is closed."""

    LOCAL = "a local copy: always now"
    PRESERVED = "cp -p: now, then that of the source"
    WINDOWS = "robocopy: 1980, then that of the source"
    SAMBA = "Samba: that at opening, then now"
    NFS = "NFS: that of the first write for a while, then now"
    OLD = "Samba onto an older file: the old one's, then that of the source"


class Pace(StrEnum):
    """The arrival of the content of a file that has its full length from the start."""

    STALLED = "half of it, a pause, the rest"
    STEADY = "piece by piece"


@dataclass
class Copy:
    """The copy of one section, whose last image is late."""

    section: Written
    place: Path
    times: Times
    pace: Pace
    stall_s: float
    metafile_first: bool
    thread: threading.Thread = field(init=False)
    seen_before_the_end: str = ""
    """State of its montage before the last bytes were written."""

    @property
    def metafile(self) -> Path:
        return self.place / self.section.metafile.name

    @property
    def late(self) -> Path:
        return self.place / self.section.images[-1].name

    def start(self, rig: Rig) -> None:
        self.thread = threading.Thread(target=self._run, args=(rig,), daemon=True)
        self.thread.start()

    def _run(self, rig: Rig) -> None:
        self.place.mkdir(parents=True)
        if self.metafile_first:
            self._copy(self.section.metafile)
        for image in self.section.images[:-1]:
            self._copy(image)
        content = self.section.images[-1].read_bytes()
        if self.times is Times.OLD:
            self.late.write_bytes(bytes(len(content)))
            os.utime(self.late, ns=(SOURCE_NS, SOURCE_NS))
        with self.late.open("r+b" if self.times is Times.OLD else "wb") as file:
            file.truncate(len(content))
            opened_ns = self.late.stat().st_mtime_ns
            pieces = self._pieces(len(content))
            at = 0
            for number, (end, pause_s) in enumerate(pieces):
                if number == len(pieces) - 1:
                    self.seen_before_the_end = str((rig.montage_of(self.metafile) or {}).get("state"))
                file.write(content[at:end])
                file.flush()
                self._show(opened_ns)
                at = end
                if number == 0 and not self.metafile_first:
                    self._copy(self.section.metafile)
                time.sleep(pause_s)
        if self.times in (Times.PRESERVED, Times.WINDOWS, Times.OLD):
            os.utime(self.late, ns=(SOURCE_NS, SOURCE_NS))
        elif self.times in (Times.SAMBA, Times.NFS):
            os.utime(self.late)

    def _pieces(self, length: int) -> Sequence[tuple[int, float]]:
        """Return the ends of the pieces, and the pause after each."""
        if self.pace is Pace.STALLED:
            return (length // 2, self.stall_s), (length, 0.0)
        count = max(4, int(self.stall_s / 0.4))
        return [(length * each // count, 0.4) for each in range(1, count + 1)]

    def _show(self, opened_ns: int) -> None:
        shown = {Times.WINDOWS: FAT_EPOCH_NS, Times.SAMBA: opened_ns, Times.NFS: opened_ns, Times.OLD: SOURCE_NS}
        if (moment_ns := shown.get(self.times)) is not None:
            os.utime(self.late, ns=(moment_ns, moment_ns))

    def _copy(self, source: Path) -> None:
        target = self.place / source.name
        target.write_bytes(source.read_bytes())
        if self.times not in (Times.LOCAL, Times.SAMBA, Times.NFS):
            os.utime(target, ns=(SOURCE_NS, SOURCE_NS))


def copies_of(rig: Rig, rng: random.Random, kinds: Sequence[tuple[Times, Pace]], max_stall_s: float) -> list[Copy]:
    found = []
    for number, (times, pace) in enumerate(kinds):
        plan = section_plan(3000 + number, TILES, size=SIZE, session_id=f"late_{number}")
        section = write_section(plan, rig.root / "source", pixels="noise")
        place = rig.acquisition / section.directory.relative_to(rig.root / "source")
        stall_s = rng.uniform(max_stall_s / 3, max_stall_s)
        found.append(Copy(section, place, times, pace, stall_s, metafile_first=rng.random() < 0.3))
    return found


def events_of(rig: Rig, row: dict[str, object]) -> list[str]:
    return [event["event"] for event in rig.montage(row["id"])["events"]]


def run_copies(rig: Rig, copies: Sequence[Copy]) -> tuple[FaultRun, list[str]]:
    """Run copies; return their row and their problems."""
    metafiles = [copy.metafile for copy in copies]
    with running(rig):
        for copy in copies:
            copy.start(rig)
        for copy in copies:
            copy.thread.join()

        def are_right() -> bool:
            return not audit(rig, metafiles, levels=LEVELS).problems

        problems = []
        try:
            wait_for(are_right, REPAIR_TIMEOUT_S)
        except AssertionError as error:
            problems.append(str(error)[:200])
        account = audit(rig, metafiles, levels=LEVELS)
        problems += account.problems
        rows = present_rows(rig)
        for copy in copies:
            row = rows[copy.metafile]
            events = events_of(rig, row)
            name = f"{copy.times} / {copy.pace} / {copy.stall_s:.1f} s"
            if copy.times is Times.WINDOWS and copy.seen_before_the_end == "complete":
                problems.append(f"{name}: COMPLETE while its time was a placeholder")
            if copy.seen_before_the_end == "complete" and "images_changed" not in events:
                problems.append(f"{name}: was COMPLETE before its last byte, and does not report it: {events}")
            if "images_changed" in events and not any(copy.late.name in finding for finding in row["findings"]):
                problems.append(f"{name}: no finding names the image: {row['findings']}")
        assert "Traceback" not in rig.daemon.log.read_text()
    early = sum(copy.seen_before_the_end == "complete" for copy in copies)
    note = f"{early} montages were COMPLETE before the last byte of their images, and were made again"
    return FaultRun("copies that stall or are slow", len(copies), note=note, **account.counts()), problems


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_kind_of_copy_leaves_a_tile_half_black(tmp_path, scale, enter):
    seed = secrets.randbelow(10**6)
    rng = random.Random(seed)
    kinds = [(times, pace) for times in Times for pace in Pace] * scale.pick(6, 2, 1)
    rig = Rig(tmp_path, {"watch.mipmaps.levels": LEVELS, "watch.arrival_timeout_s": 300})
    row, problems = run_copies(rig, copies_of(rig, rng, kinds, scale.pick(25.0, 12.0, 6.0)))
    print(f"seed {seed}", *problems, sep="\n")  # noqa: T201  pytest shows it after a failure
    enter(row)
    assert not problems


@pytest.mark.slow
def test_the_daemon_waits_for_a_stalled_copy_of_each_kind_or_makes_its_mipmaps_again(tmp_path):
    kinds = [(times, Pace.STALLED) for times in Times]
    rig = Rig(tmp_path, {"watch.mipmaps.levels": LEVELS, "watch.arrival_timeout_s": 300})
    copies = copies_of(rig, random.Random(1), kinds, 4.5)
    _, problems = run_copies(rig, copies)
    assert problems == []
