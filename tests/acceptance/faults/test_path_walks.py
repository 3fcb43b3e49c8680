"""Random renames, copies, rewrites, failures, replays and restarts: in the end journal and stacks match the disk."""

import asyncio
import hashlib
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
import structlog
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from daemon.montages.records import Montage
from daemon.montages.states import HAS_SETTLED, Event, MontageState, Step, fold
from tests.acceptance.faults.rows import FaultRun, Scale, scale_asked_for
from tests.integration.small_world import ARRIVAL_TIMEOUT_S, AWAITED, BAD, LENS_SET, MIPS, RAW, World, ids_of, text_of

T = TypeVar("T")
SCALE = scale_asked_for() or Scale.TINY
EXAMPLES = SCALE.pick(2500, 80, 8)
PLACES = st.sampled_from("abc")
NUMBERS = st.integers(1, 2)
CONTENTS = st.sampled_from(
    [
        text_of("t1 t2"),
        text_of("t1 t2", note="again"),
        text_of("t1"),
        text_of("t2 t3"),
        text_of("t3"),
        text_of("t1 t2", z=2),
        text_of("t1 t2", note=AWAITED),
        BAD,
        LENS_SET,
    ]
)
IN_MEMORY = Path("/dev/shm")


@dataclass
class Tally:
    """Counts over all walks."""

    actions: int = 0
    montages: int = 0
    states: Counter[MontageState] = field(default_factory=Counter)


def holds(montage: Montage) -> bool:
    """Whether tiles of the montage are in its stacks, or will be ingested next."""
    return (montage.failed_in or montage.state) in HAS_SETTLED


class PathWalk(RuleBasedStateMachine):
    """A few metafiles in three directories."""

    tally = Tally()

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="path-walk-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None))
        self.loop = asyncio.new_event_loop()
        self.world = World(self.place)
        self._do(self.world.start())

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    # --- actions of people and other programs

    def _exists(self, place: str) -> bool:
        return (self.world.root / place).exists()

    @rule(place=PLACES, number=NUMBERS, text=CONTENTS)
    def write(self, place: str, number: int, text: str) -> None:
        self.world.write(self.world.path(place, number), text)

    @rule(place=PLACES, number=NUMBERS, text=CONTENTS)
    def write_in_place(self, place: str, number: int, text: str) -> None:
        path = self.world.path(place, number)
        if path.exists():
            path.write_text(text)

    @rule(source=PLACES, onto=PLACES)
    def move(self, source: str, onto: str) -> None:
        if self._exists(source) and not self._exists(onto):
            self.world.move(source, onto)

    @rule(first=PLACES, second=PLACES)
    def exchange(self, first: str, second: str) -> None:
        if first != second and self._exists(first) and self._exists(second):
            self.world.move(first, "between")
            self.world.move(second, first)
            self.world.move("between", second)

    @rule(source=PLACES, onto=PLACES, linked=st.booleans())
    def copy(self, source: str, onto: str, linked: bool) -> None:
        if self._exists(source) and not self._exists(onto):
            (self.world.link if linked else self.world.copy)(source, onto)

    @rule(place=PLACES, number=NUMBERS)
    def rename_file(self, place: str, number: int) -> None:
        path = self.world.path(place, number)
        if path.exists():
            path.rename(self.world.path(place, 3 - number))

    @rule(place=PLACES)
    def remove(self, place: str) -> None:
        if self._exists(place):
            self.world.remove(place)

    @rule(place=PLACES, number=NUMBERS, text=CONTENTS, when=st.sampled_from(["examine", "section"]))
    def write_and_see_during(self, place: str, number: int, text: str, when: str) -> None:
        path = self.world.path(place, number)

        async def happen() -> None:
            self.world.write(path, text)
            await self.world.see(path)

        self.world.when(when, path, happen)

    @rule(place=PLACES, number=NUMBERS, when=st.sampled_from(["examine", "section"]))
    def work_during(self, place: str, number: int, when: str) -> None:
        self.world.when(when, self.world.path(place, number), self.world.turn)

    @rule()
    def create_or_delete_image(self) -> None:
        if self.world.image.exists():
            self.world.image.unlink()
        else:
            self.world.image.touch()

    @rule(place=PLACES, number=NUMBERS)
    def break_or_repair(self, place: str, number: int) -> None:
        self.world.broken ^= {str(self.world.path(place, number))}

    @rule(choice=st.integers(0, 20), step=st.sampled_from([Step.INGEST, Step.MIPMAPS, Step.APPLY]))
    def replay(self, choice: int, step: Step) -> None:
        montages = self._do(self.world.montages())
        if montages:
            self._do(self._replay(montages[choice % len(montages)], step))

    async def _replay(self, montage: Montage, step: Step) -> None:
        replayed = await self.world.journal.replay(montage.id, step)
        if replayed is not None:
            await self.world.pipeline.enqueue(replayed, force=True)

    # --- actions of the daemon

    @rule()
    def scan(self) -> None:
        self._do(self.world.scan())

    @rule(turns=st.integers(1, 8))
    def turn(self, turns: int) -> None:
        for _ in range(turns):
            self._do(self.world.turn())

    @rule(seconds=st.sampled_from([1.0, 30.0, ARRIVAL_TIMEOUT_S]))
    def run_for(self, seconds: float) -> None:
        self._do(self.world.run_for(seconds))

    @rule()
    def recheck(self) -> None:
        self._do(self.world.recheck.check())

    @rule()
    def close(self) -> None:
        self._do(self.world.keeper.close())

    @rule()
    def restart(self) -> None:
        self._do(self.world.restart())

    @precondition(lambda self: self.world.observable)
    @rule()
    def lose_sight(self) -> None:
        self.world.observable = False

    @precondition(lambda self: not self.world.observable)
    @rule()
    def regain_sight(self) -> None:
        self.world.observable = True

    # --- invariants

    @invariant()
    def count(self) -> None:
        self.tally.actions += 1

    @invariant()
    def the_tiles_of_a_complete_montage_are_in_its_stacks(self) -> None:
        for montage in self._do(self.world.montages()):
            if montage.state is MontageState.COMPLETE:
                for stack in montage.stacks:
                    ids = self._do(self.world.journal.tile_ids(montage.id))
                    assert ids <= self.world.stacks[stack].keys(), montage

    @invariant()
    def a_tile_belongs_to_one_montage(self) -> None:
        holders = [each for each in self._do(self.world.montages()) if holds(each)]
        counts = Counter(tile for each in holders for tile in self._do(self.world.journal.tile_ids(each.id)))
        assert max(counts.values(), default=1) == 1, holders

    @invariant()
    def the_state_is_the_fold_of_the_events(self) -> None:
        for montage in self._do(self.world.montages()):
            events = self._do(self.world.journal.events(montage.id))
            named = [
                MontageState(text) if (text := each["detail"].get("onto") or each["detail"].get("failed_in")) else None
                for each in events
            ]
            assert fold(zip([Event(each["event"]) for each in events], named, strict=True)) is montage.state

    # --- the end

    def teardown(self) -> None:
        try:
            self._do(self._end())
        finally:
            self._do(self.world.stop())
            self.loop.close()
            shutil.rmtree(self.place)

    async def _end(self) -> None:
        world = self.world
        world.observable = True
        world.broken.clear()
        await world.finish()
        for montage in await world.montages():
            if montage.state is MontageState.FAILED and "image is broken" in str(montage.fault):
                await self._replay(montage, Step.INGEST)
        await world.finish()
        await self._check()
        rows = await world.montages()
        self.tally.montages += len(rows)
        self.tally.states.update(row.state for row in rows)
        before = await world.summary()
        await world.restart()
        await world.finish()
        assert await world.summary() == before
        await self._check()

    async def _check(self) -> None:
        summary = "\n".join(await self.world.summary())
        assert not await self.world.unfinished(), summary
        rows = await self.world.montages()
        for path in {row.metafile for row in rows} | set(self.world.root.glob("*/_metadata_*.json")):
            await self._check_path(path, summary)
        for stack in (RAW, MIPS):
            await self._check_stack(stack, rows, summary)

    async def _check_path(self, path: Path, summary: str) -> None:
        """Check that the newest montage of a path has its present content and a true fault.

        The other montages must be COMPLETE or SUPERSEDED.
        """
        world = self.world
        latest, *others = await world.journal.montages(metafile=path, newest_first=True)
        if latest.state is MontageState.SUPERSEDED and await self._has_settled_successor(latest):
            # The successor put its tiles earlier, so it does not delete those of an unfinished content.
            others = [row for row in others if not (holds(row) and "has been missing" in str(row.fault))]
        assert {row.state for row in others} <= {MontageState.COMPLETE, MontageState.SUPERSEDED}, summary
        if not path.exists():
            await self._check_gone(latest, summary)
            return
        text = path.read_text()
        assert latest.digest == hashlib.sha256(path.read_bytes()).hexdigest(), summary
        if text in (BAD, LENS_SET):
            assert latest.state is (MontageState.FAILED if text == BAD else MontageState.IGNORED), summary
        elif latest.state is MontageState.IGNORED:
            assert await self._is_alias(path, str(latest.waiting_for)), summary
        elif latest.state is MontageState.FAILED:
            awaits = AWAITED in text and not world.image.exists() and "has not arrived" in str(latest.fault)
            assert awaits or await self._is_refused(path, text, str(latest.fault)), summary
        else:
            assert latest.state is MontageState.COMPLETE, summary

    async def _has_settled_successor(self, montage: Montage) -> bool:
        successors, last = await self._successors(), montage.id
        while last in successors:
            last = successors[last]
        present = await self.world.journal.montage(last)
        return present is not None and holds(present)

    async def _check_gone(self, latest: Montage, summary: str) -> None:
        """Check that a metafile whose montage is FAILED because it is missing exists under no other path."""
        if latest.state is MontageState.FAILED and "has been missing" in str(latest.fault):
            # A COMPLETE montage stays if its metafile is moved and its path then has another content.
            same = [each for each in await self.world.journal.later_paths(latest) if self._has_its_content(each)]
            assert not same, summary

    def _has_its_content(self, montage: Montage) -> bool:
        """Whether the file at the path of a montage has the content of the montage."""
        path = montage.metafile
        return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == montage.digest

    async def _is_alias(self, path: Path, reason: str) -> bool:
        other = Path(reason.removeprefix("it is ").removesuffix(" under another path"))
        return other.samefile(path) and bool(await self.world.at(other))

    async def _is_refused(self, path: Path, text: str, fault: str) -> bool:
        holder = Path(fault.split("shares tiles with ")[1].split(" in ")[0])
        digest = hashlib.sha256(holder.read_bytes()).hexdigest() if holder.exists() else None
        finished = (MontageState.APPLIED, MontageState.COMPLETE)
        rows = [row for row in await self.world.at(holder) if holds(row)]
        held = [row for row in rows if row.digest == digest or row.state in finished]
        return any([await self.world.journal.tile_ids(row.id) & ids_of(text) for row in held])

    async def _check_stack(self, stack: str, rows: list[Montage], summary: str) -> None:
        held: dict[str, str] = {}
        for row in rows:
            if row.state is MontageState.COMPLETE:
                held |= dict.fromkeys(await self.world.journal.tile_ids(row.id), str(row.metafile))
        shown = self.world.stacks[stack]
        assert held.items() <= shown.items(), summary
        assert shown.keys() - held.keys() <= await self._left_over(rows), summary

    async def _successors(self) -> dict[int, int]:
        return dict(
            await self.world.journal.write(
                lambda connection: connection.execute(
                    "SELECT id, superseded_by FROM montages WHERE superseded_by IS NOT NULL"
                ).fetchall()
            )
        )

    async def _left_over(self, rows: list[Montage]) -> set[str]:
        """Return the tiles of contents whose last successor is FAILED or IGNORED, which stay in the stacks."""
        by_id = {row.id: row for row in rows}
        successors = await self._successors()
        found: set[str] = set()
        for row in rows:
            last = row
            while last.id in successors:
                last = by_id[successors[last.id]]
            if last.state in (MontageState.FAILED, MontageState.IGNORED):
                found |= await self.world.journal.tile_ids(row.id)
        return found


@pytest.mark.timeout(1200)
def test_the_journal_and_the_stacks_match_the_disk_after_any_actions_on_paths(enter):
    machine = type("PathWalkCounted", (PathWalk,), {"tally": Tally()})
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=EXAMPLES, stateful_step_count=40, deadline=None, suppress_health_check=[*HealthCheck]
            ),
        )
    finally:
        structlog.reset_defaults()
    tally = machine.tally
    superseded, ignored = tally.states[MontageState.SUPERSEDED], tally.states[MontageState.IGNORED]
    enter(
        FaultRun(
            "renames, copies and rewrites of metafiles",
            tally.actions,
            montages=tally.montages,
            complete=tally.states[MontageState.COMPLETE],
            failed=tally.states[MontageState.FAILED],
            note=f"{EXAMPLES} walks; {superseded} montages were superseded, {ignored} ignored",
        )
    )
