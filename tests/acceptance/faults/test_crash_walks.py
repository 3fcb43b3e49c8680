"""Random walks through the state machine, with crashes between effect and commit; invariants are checked.

The journal is the real one on SQLite, the transitions are those of `daemon.montages.states`; stacks and files are sets
of names.
"""

import asyncio
import contextlib
import itertools
import shutil
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from daemon.journal.journal import Journal
from daemon.montages.records import Inspection, Montage, Outcome, Settled
from daemon.montages.sighting import FoundBy, Sighting
from daemon.montages.states import (
    STEP_OF_STATE,
    Event,
    IllegalTransition,
    MontageState,
    Step,
    fold,
)
from daemon.pipeline.stacks.use import (
    CloseRule,
    StackPhase,
    StackUse,
    begin_closing,
    close_due_in_s,
    end_closing,
    hold,
    release,
    request_close,
)
from handlers.errors import MetafileFault
from handlers.identity import FileIdentity
from tests.acceptance.faults.rows import FaultRun, Scale, scale_asked_for

T = TypeVar("T")
SCALE = scale_asked_for() or Scale.TINY
EXAMPLES = SCALE.pick(300, 30, 4)
RAW, MIPS = "em/test/raw", "em/test/mips"
METAFILES = 3
CONTENTS = 3
MAX_TURNS = 200


@dataclass
class World:
    """State that remains after a crash: files on disk, and the contents of render-ws."""

    contents: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Metafile -> its content, and the time at which it was written."""
    tiles: dict[str, set[str]] = field(default_factory=lambda: {RAW: set(), MIPS: set()})
    is_loading: dict[str, bool] = field(default_factory=lambda: {RAW: False, MIPS: False})
    levels: set[str] = field(default_factory=set)
    unclosed: dict[int, set[str]] = field(default_factory=dict)
    """Montage -> its stacks that have not been closed since its tiles were applied."""


@dataclass
class RunningStep:
    """A step that has begun and is not recorded."""

    step: Step
    attempt: int
    stack: str | None
    is_effective: bool = False


@dataclass
class Tally:
    """Counts over all walks."""

    crashes: int = 0
    crashes_after_an_effect: int = 0
    montages: int = 0
    complete: int = 0
    """The other montages were superseded by another content of their metafile."""


def tile_ids(metafile: int, content: int) -> tuple[str, ...]:
    """Return the tiles of a content: one that all contents of the metafile share, and one of its own."""
    return (f"m{metafile}_shared", f"m{metafile}_of_{content}")


class CrashWalk(RuleBasedStateMachine):
    """Montages of one pair of stacks, several at once."""

    tally = Tally()

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="crash-walk-"))
        self.loop = asyncio.new_event_loop()
        self.world = World()
        self.now = 0.0
        self.written = 0
        self._start()

    @initialize(content=st.integers(0, CONTENTS - 1))
    def first(self, content: int) -> None:
        self.write(0, content)

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    # --- starts and crashes of the process

    def _start(self) -> None:
        """Start the daemon, for which only the journal remains from before."""
        self.journal = Journal(self.place / "journal.sqlite")
        self._do(self.journal.__aenter__())
        self._do(self.journal.count_crashes())
        self.running: dict[int, RunningStep] = {}
        self.uses = {RAW: StackUse(), MIPS: StackUse()}
        self.closing: dict[str, list[int]] = {}
        for montage in self._montages():
            if montage.state is MontageState.APPLIED:
                self._want_closed()
        for number, (content, at) in self.world.contents.items():
            self._sight(number, content, at)

    @rule()
    def crash(self) -> None:
        self.tally.crashes += 1
        self.tally.crashes_after_an_effect += any(each.is_effective for each in self.running.values())
        self._do(self.journal.__aexit__(None, None, None))
        self._start()

    # --- actions of people and other programs

    @rule(number=st.integers(0, METAFILES - 1), content=st.integers(0, CONTENTS - 1))
    def write(self, number: int, content: int) -> None:
        self.written += 1
        self.world.contents[number] = (content, self.written)
        self._sight(number, content, self.written)

    def _sight(self, number: int, content: int, at: int) -> None:
        path = Path(f"/data/_metadata_{number}_.json")
        self._do(self.journal.notice(Sighting("walk", path, FileIdentity(content, at, at, 1), FoundBy.SCAN)))

    @rule(stack=st.sampled_from([RAW, MIPS]))
    def another_program_closes(self, stack: str) -> None:
        self.world.is_loading[stack] = False

    @rule(choice=st.integers(0, 20), step=st.sampled_from([Step.INGEST, Step.MIPMAPS, Step.APPLY]))
    def replay(self, choice: int, step: Step) -> None:
        done = [each for each in self._montages() if each.state in (MontageState.COMPLETE, MontageState.FAILED)]
        if done:
            self._do(self.journal.replay(done[choice % len(done)].id, step))

    # --- a step: begun, done, recorded

    def _montages(self) -> list[Montage]:
        return self._do(self.journal.montages())

    def _startable(self) -> list[Montage]:
        found = []
        for montage in self._montages():
            step = STEP_OF_STATE.get(montage.state)
            stack = {Step.INGEST: RAW, Step.APPLY: MIPS}.get(step) if step else None
            if step in (None, Step.CLOSE) or montage.id in self.running or stack in self.closing:
                continue  # a step waits until its stack has been closed
            found.append(montage)
        return found

    @rule(choice=st.integers(0, 20))
    def begin(self, choice: int) -> None:
        if not (ready := self._startable()):
            return
        self._begin(ready[choice % len(ready)])

    @rule(choice=st.integers(0, 20), steps=st.integers(1, 4))
    def progress(self, choice: int, steps: int) -> None:
        """Let one montage progress without a fault; otherwise few walks would reach the late states."""
        if not (ready := self._startable()):
            return
        montage_id = ready[choice % len(ready)].id
        for _ in range(steps):
            if montage := next((each for each in self._startable() if each.id == montage_id), None):
                self._begin(montage)
                self._have_effect(montage_id)
                self._commit(montage_id)

    def _begin(self, montage: Montage) -> None:
        step = STEP_OF_STATE[montage.state]
        stack = {Step.INGEST: RAW, Step.APPLY: MIPS}.get(step)
        if stack:
            self.uses[stack] = hold(self.uses[stack])
        self.running[montage.id] = RunningStep(step, self._do(self.journal.begin_attempt(montage.id, step)), stack)

    @precondition(lambda self: self.running)
    @rule(choice=st.integers(0, 20))
    def have_effect(self, choice: int) -> None:
        self._have_effect(sorted(self.running)[choice % len(self.running)])

    def _have_effect(self, montage_id: int) -> None:
        montage, work = self._do(self.journal.montage(montage_id)), self.running[montage_id]
        if montage is None or STEP_OF_STATE.get(montage.state) is not work.step:
            return
        ids = set(self._do(self.journal.tile_ids(montage_id)))
        if work.stack:
            self.world.is_loading[work.stack] = True
            unwanted = self._do(self.journal.unwanted_tile_ids(montage, work.stack))
            self.world.tiles[work.stack] |= ids
            self.world.tiles[work.stack] -= unwanted
        elif work.step is Step.MIPMAPS:
            self.world.levels |= ids
        work.is_effective = True

    @precondition(lambda self: any(each.is_effective for each in self.running.values()))
    @rule(choice=st.integers(0, 20))
    def commit(self, choice: int) -> None:
        done = sorted(montage_id for montage_id, each in self.running.items() if each.is_effective)
        self._commit(done[choice % len(done)])

    def _commit(self, montage_id: int) -> None:
        work = self.running[montage_id]
        with contextlib.suppress(IllegalTransition):  # superseded or replayed during the step
            self._record(montage_id, work.step)
        self._end(montage_id, Outcome.DONE)

    def _record(self, montage_id: int, step: Step) -> None:
        if step is Step.SETTLE:
            self._settle(montage_id)
            return
        event = {Step.INGEST: Event.INGESTED, Step.MIPMAPS: Event.MIPMAPPED, Step.APPLY: Event.APPLIED}[step]
        montage = self._do(self.journal.record(montage_id, event))
        if montage.state is MontageState.APPLIED:
            self.world.unclosed[montage_id] = {RAW, MIPS}
            self._want_closed()

    def _settle(self, montage_id: int) -> None:
        montage = self._do(self.journal.montage(montage_id))
        assert montage is not None
        number = int(montage.metafile.name.split("_")[2])
        content = self.world.contents[number][0]
        digest = f"content {content}"
        look = Inspection(montage_id, montage.identity, montage.identity, digest)
        settling = self._do(self.journal.recognise(look))
        if settling is None:
            settled = Settled(digest, float(number), RAW, MIPS, tile_ids(number, content), ())
            settling = self._do(self.journal.settle(look, settled))
        for former in settling.superseded:
            if former.id in self.running:
                self._end(former.id, Outcome.STOPPED)

    def _end(self, montage_id: int, outcome: Outcome) -> None:
        work = self.running.pop(montage_id)
        self._do(self.journal.end_attempt(work.attempt, outcome))
        if work.stack:
            self.now += 1
            self.uses[work.stack] = release(self.uses[work.stack], self.now)

    @precondition(lambda self: self.running)
    @rule(choice=st.integers(0, 20))
    def fail(self, choice: int) -> None:
        montage_id = sorted(self.running)[choice % len(self.running)]
        montage = self._do(self.journal.montage(montage_id))
        if montage is not None and montage.state in STEP_OF_STATE:
            self._do(self.journal.fail(montage_id, MetafileFault(str(montage.metafile), "is invalid")))
        self._end(montage_id, Outcome.FAILED)

    # --- closing

    def _want_closed(self) -> None:
        for stack in self.uses:
            self.uses[stack] = request_close(self.uses[stack], self.now)

    @rule(stack=st.sampled_from([RAW, MIPS]))
    def begin_close(self, stack: str) -> None:
        if stack in self.closing or close_due_in_s(self.uses[stack], self.now, CloseRule(0.0)) != 0.0:
            return
        assert self.uses[stack].holders == 0
        self.uses[stack] = begin_closing(self.uses[stack], self.now)
        applied = self._do(self.journal.montages(states=[MontageState.APPLIED], stack=stack))
        self.closing[stack] = [montage.id for montage in applied]

    @precondition(lambda self: self.closing)
    @rule(choice=st.integers(0, 1))
    def finish_close(self, choice: int) -> None:
        stack = sorted(self.closing)[choice % len(self.closing)]
        assert not [each for each in self.running.values() if each.stack == stack], "closed while it is written to"
        self.world.is_loading[stack] = False
        montage_ids = self.closing.pop(stack)
        missing = any(set(self._do(self.journal.tile_ids(each))) - self.world.tiles[stack] for each in montage_ids)
        self.now += 1
        if not missing:
            for montage_id in montage_ids:
                self.world.unclosed[montage_id].discard(stack)
            self._do(self.journal.record_closing(stack, montage_ids))
        self.uses[stack] = end_closing(self.uses[stack], self.now, closed=not missing)

    # --- invariants

    @invariant()
    def the_effects_of_a_complete_montage_exist(self) -> None:
        for montage in self._montages():
            if montage.state is MontageState.COMPLETE:
                ids = set(self._do(self.journal.tile_ids(montage.id)))
                assert ids <= self.world.tiles[RAW], montage
                assert ids <= self.world.tiles[MIPS], montage
                assert ids <= self.world.levels, montage
                assert not self.world.unclosed[montage.id], montage

    @invariant()
    def every_seen_metafile_is_in_the_journal(self) -> None:
        known = {(str(each.metafile), each.identity) for each in self._montages()}
        for number, (content, at) in self.world.contents.items():
            assert (f"/data/_metadata_{number}_.json", (content, at, at, 1)) in known

    @invariant()
    def the_state_is_the_fold_of_the_events(self) -> None:
        for montage in self._montages():
            events = self._do(self.journal.events(montage.id))
            named = [(Event(each["event"]), _named(each["detail"])) for each in events]
            assert fold(named) is montage.state
            for event, following in itertools.pairwise(events):
                if event["state"] == MontageState.SUPERSEDED:
                    assert following["event"] in (Event.REPLAYED, Event.SEEN_AGAIN), "a superseded montage went on"

    @invariant()
    def a_stack_that_a_step_uses_is_not_being_closed(self) -> None:
        for stack, use in self.uses.items():
            holders = sum(each.stack == stack for each in self.running.values())
            assert use.holders == holders
            assert not holders or use.phase is StackPhase.HELD

    # --- the end

    def teardown(self) -> None:
        try:
            self._finish()
        finally:
            self._do(self.journal.__aexit__(None, None, None))
            self.loop.close()
            shutil.rmtree(self.place)

    def _finish(self) -> None:
        """Without further faults the present content of each metafile becomes COMPLETE; the stacks have no other."""
        for _ in range(MAX_TURNS):
            for montage in self._montages():
                if montage.state is MontageState.FAILED:
                    self._do(self.journal.record(montage.id, Event.RETRIED))
                elif montage.state is MontageState.APPLIED:
                    self._want_closed()
            self.begin(0)
            self.have_effect(0) if self.running else None
            if any(each.is_effective for each in self.running.values()):
                self.commit(0)
            for montage_id in [each for each in self.running if not self._continues(each)]:
                self._end(montage_id, Outcome.STOPPED)
            for stack in (RAW, MIPS):
                self.begin_close(stack)
            while self.closing:
                self.finish_close(0)
            if not self.running and all(each.state not in STEP_OF_STATE for each in self._montages()):
                break
        montages = self._montages()
        self.tally.montages += len(montages)
        self.tally.complete += sum(each.state is MontageState.COMPLETE for each in montages)
        present = {
            number: [each for each in montages if each.metafile.name == f"_metadata_{number}_.json"]
            for number in self.world.contents
        }
        for number, (content, _) in self.world.contents.items():
            states = {each.digest: each.state for each in present[number]}
            assert states[f"content {content}"] is MontageState.COMPLETE, states
            others = {state for digest, state in states.items() if digest != f"content {content}"}
            assert others <= {MontageState.SUPERSEDED}, states
        wanted = {each for number, (content, _) in self.world.contents.items() for each in tile_ids(number, content)}
        assert self.world.tiles == {RAW: wanted, MIPS: wanted}
        self.the_effects_of_a_complete_montage_exist()

    def _continues(self, montage_id: int) -> bool:
        """Whether the montage is still in the state of its running step."""
        montage = self._do(self.journal.montage(montage_id))
        return montage is not None and STEP_OF_STATE.get(montage.state) is self.running[montage_id].step


def _named(detail: dict[str, Any]) -> MontageState | None:
    """Return the state that an event names."""
    text = detail.get("onto") or detail.get("failed_in")
    return MontageState(text) if text else None


@pytest.mark.timeout(900)
def test_no_crash_loses_a_montage_and_the_effects_of_a_complete_montage_exist(enter):
    machine = type("CrashWalkCounted", (CrashWalk,), {"tally": Tally()})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES, stateful_step_count=60, deadline=None, suppress_health_check=[*HealthCheck]
        ),
    )
    tally = machine.tally
    note = f"{EXAMPLES} walks; {tally.crashes_after_an_effect} crashes between an effect and its commit"
    enter(
        FaultRun(
            "crashes in the state machine",
            tally.crashes,
            montages=tally.montages,
            complete=tally.complete,
            note=f"{note}; the montages that are not COMPLETE were superseded",
        )
    )
