"""Takes every montage through its steps: starts them in order, journals every attempt, makes every outcome an event.

One task per step of a montage. A step that fails is tried again when its fault says that waiting can help, later each
time; otherwise the montage is FAILED and the others go on.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

import structlog

from daemon.config.settings import Settings
from daemon.config.watch_settings import WatchSettings
from daemon.journal.journal import Journal
from daemon.montages.records import Inspection, Montage, Outcome, Rival, Settled, SettleResult, StaleInspection
from daemon.montages.sighting import FoundBy, Sighting
from daemon.montages.states import (
    HAS_SETTLED,
    STEP_OF_STATE,
    UNFINISHED,
    Event,
    IllegalTransition,
    MontageState,
    Step,
)
from daemon.pipeline import claims
from daemon.pipeline.claims import Claim
from daemon.pipeline.health import Metrics
from daemon.pipeline.mipmap_step import Stopped
from daemon.pipeline.output_disks import OutputDisks
from daemon.pipeline.render_gate import RenderGate
from daemon.pipeline.retry import CRASHES_BEFORE_PARKING, FIRST_DELAY_S, LONGEST_DELAY_S, Tries, retry_delay_s
from daemon.pipeline.schedule import Schedule, Ticket
from daemon.pipeline.section import MetafileChanged
from daemon.pipeline.settle import Ignored, NotYet, Read, Settler
from daemon.pipeline.stack_use import CloseRule
from daemon.pipeline.stacks import StackKeeper
from daemon.pipeline.steps import MipmapsLost, Steps
from daemon.system.threads import answers_within
from handlers.errors import BugFault, Fault, RenderBroken, RenderUnavailable, StorageFault, WorkerFault
from handlers.identity import FileIdentity
from handlers.render.names import StackId

log = structlog.get_logger()

LIMITS: Mapping[Step, int] = {Step.SETTLE: 4, Step.INGEST: 4, Step.MIPMAPS: 3, Step.APPLY: 4}
"""Montages of one watch in each step at once. Several at mipmaps: workers have tiles while one montage ends."""
RESUMED_PER_TURN = 500
"""Montages of a backlog that are scheduled before the event loop attends to something else."""
RIVAL_PAUSE_S = 10.0
"""Until it is tried again to look at a metafile whose watch cannot be accessed."""
NEEDS_RENDER = frozenset({Step.INGEST, Step.APPLY})
NEEDS_METAFILE = (UNFINISHED | {MontageState.FAILED}) - {MontageState.APPLIED}
"""States of montages that come to no end once their metafile is gone."""


class PipelineRunner:
    """The daemon's work.

    Parameters
    ----------
    is_observable : whether a watch's directory can be looked at now; steps of its montages wait while it cannot.
    look_again : has a metafile sighted once more if it is there: its path was given up as one that it had moved from.
    stack_id : the full name of a stack in the configured owner and project.
    """

    def __init__(
        self,
        *,
        settings: Callable[[], Settings],
        journal: Journal,
        steps: Steps,
        keeper: StackKeeper,
        gate: RenderGate,
        disks: OutputDisks,
        metrics: Metrics,
        is_observable: Callable[[str], bool],
        look_again: Callable[[Path], object] = lambda _: None,
        on_complete: Callable[[Montage], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._steps = steps
        self._keeper = keeper
        self._gate = gate
        self._disks = disks
        self._metrics = metrics
        self._is_observable = is_observable
        self._look_again = look_again
        self._on_complete = on_complete
        self._clock = clock
        self._settler = Settler(clock, metafiles=steps.metafiles)
        self._schedule = Schedule(LIMITS)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._tries = Tries()
        self._doubted: list[tuple[Montage, Sighting]] = []
        self._changed = asyncio.Event()
        self._stopping = False

    # --- intake

    async def notice(self, sighting: Sighting) -> None:
        """Journals a metafile that was seen, and puts it in line.

        Raises
        ------
        Fault
            If it could not be journaled. Once it is, nothing keeps it from being put in line: it is no news again.
        """
        try:
            montage_id = await self._journal.notice(sighting)
        except Fault:
            raise
        except Exception as error:
            log.exception("metafile.bug", metafile=str(sighting.path))
            raise BugFault.of(str(sighting.path), error) from error
        if montage_id is None:
            return
        if montage_id not in self._schedule:
            log.info("metafile.noticed", metafile=str(sighting.path), montage=montage_id, by=str(sighting.found_by))
        # Also while a step of it runs, which may be about to end: what that step puts in line goes before.
        self._enqueue(Ticket(sighting.path.name, montage_id, Step.SETTLE, sighting.watch))

    async def resume(self) -> None:
        """Puts everything in line that the journal holds unfinished and that is not in line already."""
        watches = {watch.name for watch in self._settings().watch}
        rows = await self._journal.unfinished()
        for index, (montage_id, acquired, state, watch) in enumerate(rows):
            if index % RESUMED_PER_TURN == RESUMED_PER_TURN - 1:
                await asyncio.sleep(0)
            if montage_id in self._schedule or montage_id in self._tasks:
                continue
            if watch not in watches:
                log.warning("montage.without_watch", montage=montage_id, watch=watch)
            elif state is not MontageState.APPLIED:
                self._schedule.add(Ticket(acquired, montage_id, STEP_OF_STATE[state], watch))
            elif montage := await self._journal.montage(montage_id):
                await self.enqueue(montage)
        await self._keeper.resume()
        log.info("journal.resumed", unfinished=len(rows))

    async def enqueue(self, montage: Montage, *, force: bool = False) -> None:
        """Puts a montage in line where it stands, if it is unfinished and not there already.

        Parameters
        ----------
        montage : as the journal holds it now.
        force : also where a ticket of it is in line: its step was the one before it was replayed.
        """
        if montage.state not in STEP_OF_STATE:
            return
        if not force and self._schedule.is_waiting(montage.id):
            return
        if montage.state is MontageState.APPLIED:
            await self._hand_to_keeper(montage)
        else:
            self._put_in_line(montage)

    async def images_changed(self, montage: Montage) -> None:
        """Puts a montage in line whose images changed after their mipmaps were made, once they may be quiet."""
        self._steps.expect_changes(montage.id)
        watch = self._watch(montage.watch)
        self._put_in_line(montage, watch.settle_s if watch else 0.0)

    def wake(self) -> None:
        """Something that steps wait for may have changed."""
        if self._gate.fault is None:
            # In order of acquisition from now on: what failed first in the outage waits longest.
            for montage_id in self._tries.after_outage():
                self._schedule.hasten(montage_id)
        self._changed.set()
        self._keeper.wake()

    def _put_in_line(self, montage: Montage, delay_s: float = 0.0) -> None:
        self._enqueue(Ticket(montage.acquired, montage.id, STEP_OF_STATE[montage.state], montage.watch), delay_s)

    def _enqueue(self, ticket: Ticket, delay_s: float = 0.0) -> None:
        self._schedule.add(ticket, self._clock() + delay_s)
        self._changed.set()

    async def _hand_to_keeper(self, montage: Montage) -> None:
        if self.close_rule(montage.watch) is not None:
            self._keeper.request_close_for(montage)
            return
        await self._journal.record(montage.id, Event.COMPLETED, closed=False)
        await self.completed((montage.id,))

    def close_rule(self, watch: str) -> CloseRule | None:
        """When the stacks of a watch are closed; None if never. At once for a watch that is no longer configured."""
        settings = self._watch(watch)
        if settings is None:
            return CloseRule(0.0)
        stacks = settings.stacks
        return CloseRule(stacks.close_after_s, stacks.close_at_latest_s) if stacks.close else None

    async def completed(self, montage_ids: tuple[int, ...]) -> None:
        """Says that montages are COMPLETE."""
        for montage_id in montage_ids:
            montage = await self._journal.montage(montage_id)
            if montage is None:
                continue
            self._on_complete(montage)
            seconds = self._journal.age_s(montage)
            self._metrics.complete_seconds.observe(seconds)
            log.info(
                "montage.complete",
                montage=montage.id,
                metafile=str(montage.metafile),
                z=montage.z,
                stack=montage.mipmapped_stack,
                tiles=montage.tile_count,
                seconds=round(seconds, 1),
            )

    # --- the loop

    async def run(self) -> None:
        """Starts steps as they become due, until it is stopped and what was under way has ended."""
        async with asyncio.TaskGroup() as group:
            while not self._stopping:
                self._changed.clear()
                await self._notice_doubted()
                for ticket in self._schedule.take(self._clock(), self._is_open, self._may_start):
                    task = group.create_task(self._attend(ticket), name=f"montage {ticket.montage_id} {ticket.step}")
                    self._tasks[ticket.montage_id] = task
                    # A task that is cancelled before its first turn never comes to its own `finally`.
                    task.add_done_callback(partial(self._let_go, ticket))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pause_s()):
                        await self._changed.wait()

    async def _notice_doubted(self) -> None:
        """Notice the metafiles that steps found to hold another content.

        A step does not do so itself: it may be cancelled once the journal has the sighting.
        """
        while self._doubted:
            montage, sighting = self._doubted.pop()
            try:
                montage_id = await self._journal.notice_changed(montage.id, sighting)
            except Exception:  # its montage finds the other content again at its next attempt
                log.exception("metafile.bug", metafile=str(sighting.path))
                continue
            if montage_id is not None:
                self._enqueue(Ticket(montage.acquired, montage_id, Step.SETTLE, montage.watch))

    def stop(self) -> None:
        """Starts nothing more; steps under way end at the next point where they can be taken up again."""
        self._stopping = True
        self._steps.stop()
        self._changed.set()

    def cancel(self) -> None:
        """Gives up what is still under way; the journal knows where to go on."""
        for task in self._tasks.values():
            task.cancel()

    @property
    def under_way(self) -> int:
        """How many montages are in a step now."""
        return len(self._tasks)

    @property
    def waiting(self) -> int:
        """How many montages wait for a step."""
        return len(self._schedule) - len(self._tasks)

    def _is_open(self, step: Step, watch_name: str) -> bool:
        """Whether this step of this watch's montages may be started now."""
        watch = self._watch(watch_name)
        if watch is None or not self._is_observable(watch_name):
            return False
        if step is Step.MIPMAPS:
            # Never a trial: one that takes an hour would keep all others waiting for its end.
            can_read = watch.mipmaps.method != "render" or self._gate.is_closed_circuit
            return can_read and self._disks.is_usable(watch.mipmaps.output_dir)
        return step not in NEEDS_RENDER or self._gate.is_open

    def _may_start(self, ticket: Ticket) -> bool:
        if ticket.montage_id in self._tasks:
            return False
        return ticket.step not in NEEDS_RENDER or self._gate.admit(ticket.montage_id)  # last: what is admitted begins

    def _pause_s(self) -> float:
        # Directories come back without calling us; a second is soon enough to see it.
        next_time = self._schedule.next_time()
        due_in_s = 3600.0 if next_time is None else max(0.0, next_time - self._clock())
        blocked = len(self._schedule) > len(self._tasks)
        return min(due_in_s, 1.0) if blocked else due_in_s

    def _watch(self, name: str) -> WatchSettings | None:
        return next((watch for watch in self._settings().watch if watch.name == name), None)

    def _stack_id(self, name: str) -> StackId:
        render = self._settings().render
        return StackId(render.owner, render.project, name)

    # --- one step of one montage

    async def _attend(self, ticket: Ticket) -> None:
        """Take one step of one montage. No exception leaves here: it would end the daemon."""
        try:
            await self._take_step(ticket)
        except Exception as error:  # the one place that answers for everything
            log.exception("step.bug", montage=ticket.montage_id, step=str(ticket.step))
            # The journal did not take the failure, so the montage cannot be given up either.
            fault = BugFault.of(f"montage {ticket.montage_id}", error)
            delay_s = self._tries.delay_s(ticket.montage_id, fault, 1, random.random())  # noqa: S311  jitter
            self._enqueue(ticket, LONGEST_DELAY_S if delay_s is None else delay_s)
        finally:
            self._let_go(ticket)

    def _let_go(self, ticket: Ticket, ended: "asyncio.Task[None] | None" = None) -> None:
        """Release what a step holds; does nothing for a task that ended and had released it by itself."""
        if ended is not None and self._tasks.get(ticket.montage_id) is not ended:
            return
        self._gate.leave(ticket.montage_id)
        self._schedule.finish(ticket)
        del self._tasks[ticket.montage_id]
        self._changed.set()

    async def _take_step(self, ticket: Ticket) -> None:
        montage = await self._journal.montage(ticket.montage_id)
        watch = self._watch(ticket.watch)
        if montage is None or watch is None:
            return
        if STEP_OF_STATE.get(montage.state) is not ticket.step:
            await self._overtaken(ticket)
            return
        with structlog.contextvars.bound_contextvars(
            montage=montage.id, stack=montage.raw_stack, z=montage.z, metafile=str(montage.metafile)
        ):
            try:
                if not await self._parked(montage):
                    await self._try(montage, watch, ticket.step)
            except IllegalTransition:
                log.info("montage.overtaken")
                await self._overtaken(ticket)

    async def _try(self, montage: Montage, watch: WatchSettings, step: Step) -> None:
        """Attempt the step, and decide what follows if it does not succeed."""
        try:
            await self._attempt(montage, watch, step)
        except Fault as fault:
            await self._failed(montage, step, fault)
        except MipmapsLost:
            log.warning("mipmaps.lost")
            self._put_in_line(await self._journal.record(montage.id, Event.MIPMAPS_LOST))
        except Stopped:
            self._put_in_line(montage)  # a daemon that stops starts nothing more

    async def _overtaken(self, ticket: Ticket) -> None:
        """Enqueue a montage that was superseded or replayed while its step ran or waited, if it has a step to do."""
        if not self._schedule.is_current(ticket):
            return
        montage = await self._journal.montage(ticket.montage_id)
        if montage is not None and montage.state is MontageState.APPLIED:
            await self._hand_to_keeper(montage)
        elif montage is not None and montage.state in STEP_OF_STATE:
            self._put_in_line(montage, FIRST_DELAY_S)

    async def _parked(self, montage: Montage) -> bool:
        if montage.crashes < CRASHES_BEFORE_PARKING:
            return False
        fault = WorkerFault(
            str(montage.metafile),
            f"the daemon died {montage.crashes} times in a row while working on this montage",
            "see the system log for why (memory, a signal), then replay it",
        )
        await self._fail(montage, fault)
        return True

    async def _attempt(self, montage: Montage, watch: WatchSettings, step: Step) -> None:
        """Perform the step as an attempt, unless something is still awaited. Every exception ends the attempt.

        Raises
        ------
        Fault
            BugFault for an exception that nobody answers.
        Stopped, MipmapsLost, IllegalTransition
            As the step does.
        """
        if step is Step.SETTLE:
            awaited = await self._settler.not_yet(montage, watch)
            if awaited is not None:
                await self._not_settled(montage, awaited)
                return
        attempt = await self._journal.begin_attempt(montage.id, step)
        started = self._clock()
        try:
            outcome = await self._perform(montage, watch, step)
        except (Stopped, IllegalTransition, asyncio.CancelledError):
            await self._ended(attempt, step, Outcome.STOPPED, started)
            raise
        except MipmapsLost:
            await self._ended(attempt, step, Outcome.WAITING, started)
            raise
        except Fault as fault:
            await self._ended(attempt, step, Outcome.FAILED, started, fault)
            raise
        except Exception as error:
            log.exception("step.bug", step=str(step))
            bug = BugFault.of(str(montage.metafile), error)
            await self._ended(attempt, step, Outcome.FAILED, started, bug)
            raise bug from error
        await self._ended(attempt, step, outcome, started)

    async def _ended(
        self, attempt: int, step: Step, outcome: Outcome, started: float, fault: Fault | None = None
    ) -> None:
        await self._journal.end_attempt(attempt, outcome, fault)
        self._metrics.attempt_ended(step, outcome, self._clock() - started)

    async def _perform(self, montage: Montage, watch: WatchSettings, step: Step) -> Outcome:
        if step is Step.SETTLE:
            return await self._settle(montage, watch)
        started = self._clock()
        section = await self._steps.section(montage, watch)
        if step is Step.INGEST:
            await self._steps.ingest(section)
            event = Event.INGESTED
        elif step is Step.MIPMAPS:
            await self._steps.make_mipmaps(section)
            event = Event.MIPMAPPED
        else:
            await self._steps.apply(section)
            event = Event.APPLIED
        if step in NEEDS_RENDER:
            self._gate.worked()
        self._tries.forget(montage.id)
        following = await self._journal.record(montage.id, event)
        log.info(f"tiles.{event}", tiles=montage.tile_count, seconds=round(self._clock() - started, 2))
        if following.state is MontageState.APPLIED:
            await self._hand_to_keeper(following)
        else:
            self._put_in_line(following)
        return Outcome.DONE

    async def _settle(self, montage: Montage, watch: WatchSettings) -> Outcome:
        read = await self._settler.read(montage)
        if read is None:
            await self._not_settled(montage, NotYet("the metafile is still changing", watch.settle_s))
            return Outcome.WAITING
        return await self._settle_as_read(montage, watch, read)

    async def _settle_as_read(self, montage: Montage, watch: WatchSettings, read: Read) -> Outcome:
        look = Inspection(montage.id, montage.identity, read.identity, read.digest)
        try:
            known = await self._journal.recognise(look)
            if known is not None:
                await self._settled(montage, known)
                return Outcome.DONE
            found = await self._settler.examine(montage, watch, read.content, read.digest, self._stack_id)
            taken = await self._take(montage, look, found) if isinstance(found, Settled) else found
        except StaleInspection:
            await self._not_settled(montage, NotYet("the metafile is still changing", watch.settle_s))
            return Outcome.WAITING
        except Fault as fault:
            if retry_delay_s(fault, montage.attempt + 1, 0.5) is None:
                await self._fail(montage, fault, look)
                return Outcome.FAILED
            raise
        if isinstance(taken, NotYet | Ignored):
            await self._not_settled(montage, taken, look)
            return Outcome.WAITING if isinstance(taken, NotYet) else Outcome.DONE
        for finding in found.findings if isinstance(found, Settled) else ():
            log.warning("metafile.finding", finding=finding)
        await self._settled(montage, taken)
        return Outcome.DONE

    async def _take(self, montage: Montage, look: Inspection, found: Settled) -> SettleResult | NotYet | Ignored:
        """Settles the montage once it is known what became of every other one that has to do with it.

        Raises
        ------
        MetafileFault
            If another metafile holds some of its tiles.
        """
        moved: dict[Montage, str] = {}
        apart: set[int] = set()
        while (settling := await self._journal.settle(look, found, moved=moved, apart=apart)).rivals:
            for rival in settling.rivals:
                judged = await self._judge(rival, montage, found.digest)
                if isinstance(judged, NotYet | Ignored):
                    return judged
                if judged is None:
                    apart.add(rival.montage.id)
                else:
                    moved[rival.montage] = judged
        return settling

    async def _judge(self, rival: Rival, montage: Montage, digest: str) -> NotYet | Ignored | str | None:
        """Why a rival is superseded by the montage that settles, or why this one does not settle; None if both do."""
        other = rival.montage
        if not self._may_look_at(other):
            reason = f"{other.metafile} names the same images, and its watch {other.watch} cannot be accessed"
            return NotYet(reason, RIVAL_PAUSE_S) if rival.shared else None
        async with answers_within(other.metafile):
            seen = await asyncio.to_thread(claims.find, other, montage.metafile)
        if seen.claim is Claim.GONE or (rival.shared and seen.claim is Claim.REPLACED):
            return claims.why_ended(seen.claim, other, montage.metafile, digest)
        if seen.claim is Claim.SAME_FILE and (other.failed_in or other.state) in HAS_SETTLED:
            return Ignored(f"it is {other.metafile}, under another path", seen.evidence)
        if rival.shared:
            raise claims.taken(rival, montage.metafile, seen.evidence)
        return None

    def _may_look_at(self, montage: Montage) -> bool:
        """Whether it can be found out what its path holds; a watch that is configured no more cannot hang."""
        return self._watch(montage.watch) is None or self._is_observable(montage.watch)

    async def _settled(self, montage: Montage, settling: SettleResult) -> None:
        self._settler.forget(montage.id)
        await self._cancel(settling.superseded, montage.metafile)
        following = await self._journal.montage(settling.kept)
        if settling.is_known:
            log.info("metafile.known", known_as=settling.kept)
        elif following is not None and following.state in STEP_OF_STATE:
            log.info("metafile.settled", tiles=following.tile_count, z=following.z, stack=following.raw_stack)
            self._put_in_line(following)

    async def _cancel(self, superseded: tuple[Montage, ...], path: Path) -> None:
        """Ends the work on superseded montages before the content of a path is ingested, which took their place."""
        for former in superseded:
            if former.metafile != path:
                self._look_again(former.metafile)  # back already, perhaps, without any look having missed it
            self._schedule.remove(former.id)
            self._settler.forget(former.id)
            task = self._tasks.get(former.id)
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
            log.info("montage.superseded", former=former.id)

    async def _not_settled(self, montage: Montage, found: NotYet | Ignored, look: Inspection | None = None) -> None:
        if isinstance(found, Ignored):
            self._settler.forget(montage.id)
            await self._end_look(montage, self._journal.ignore(look or _unread(montage), found.reason, found.evidence))
            log.info("metafile.ignored", reason=found.reason)
            return
        digest = look.digest if look else None
        if found.reason != montage.waiting_for or digest is not None:
            await self._journal.wait(montage.id, found.reason, digest)
        self._put_in_line(montage, found.again_in_s)

    async def _end_look(self, montage: Montage, outcome: Awaitable[SettleResult]) -> None:
        """Takes what the journal makes of a metafile that is not ingested; one that was noticed anew is read anew."""
        try:
            settling = await outcome
        except StaleInspection:
            self._put_in_line(montage)
            return
        await self._cancel(settling.superseded, montage.metafile)
        if (kept := await self._journal.montage(settling.kept)) is not None:
            await self._take_over(kept)

    async def _take_over(self, montage: Montage) -> None:
        """Supersedes what had not come to its end under paths that the montage's metafile had before."""
        for former in await self._journal.duplicates(montage):
            is_over = former.state in NEEDS_METAFILE and await self._claim_of(former) is Claim.GONE
            if is_over and await self._journal.move(former, montage):
                await self._cancel((former,), montage.metafile)

    async def _claim_of(self, montage: Montage) -> Claim | None:
        """What a montage's path holds now; None if that cannot be found out."""
        if not self._may_look_at(montage):
            return None
        with contextlib.suppress(StorageFault):
            async with answers_within(montage.metafile):
                return await asyncio.to_thread(claims.claim_of, montage)
        return None

    async def _failed(self, montage: Montage, step: Step, fault: Fault) -> None:
        """Decides whether the montage waits for another attempt or is FAILED."""
        if step in NEEDS_RENDER or isinstance(fault, RenderUnavailable | RenderBroken):
            await self._gate.failed(montage.id, fault)
        if isinstance(fault, MetafileChanged):
            await self._doubt(montage)
        chance = random.random()  # noqa: S311  jitter
        if isinstance(fault, RenderUnavailable | RenderBroken) and not self._gate.is_closed_circuit:
            delay_s: float | None = self._tries.delay_in_outage_s(
                montage.id, self._gate.outage, self._gate.pause_s, chance
            )
        else:
            delay_s = self._tries.delay_s(montage.id, fault, montage.attempt + 1, chance)
        if delay_s is None:
            await self._fail(montage, fault)
            return
        if montage.fault is None or montage.fault.problem != fault.problem:
            log.warning("step.waits", step=str(step), fault=str(fault), again_in_s=round(delay_s, 1))
        self._put_in_line(montage, delay_s)

    async def _doubt(self, montage: Montage) -> None:
        """Has a metafile noticed that holds another content than its montage, whatever a scan sees of it."""
        try:
            async with answers_within(montage.metafile):
                found = await asyncio.to_thread(montage.metafile.lstat)
        except (OSError, StorageFault):
            return
        sighting = Sighting(montage.watch, montage.metafile, FileIdentity.of(found), FoundBy.STEP)
        self._doubted.append((montage, sighting))
        self._changed.set()

    async def _fail(self, montage: Montage, fault: Fault, look: Inspection | None = None) -> None:
        self._tries.forget(montage.id)
        self._settler.forget(montage.id)
        if await self._has_moved(montage, fault):
            return
        if montage.state is MontageState.NOTICED:
            await self._end_look(montage, self._journal.refuse(look or _unread(montage), fault))
        else:
            await self._journal.fail(montage.id, fault)

    async def _has_moved(self, montage: Montage, fault: Fault) -> bool:
        """Whether the montage failed because its metafile is gone, and is superseded by the one that it became."""
        evidence = fault.evidence
        if evidence is None or evidence.path != montage.metafile or evidence.identity is not None:
            return False
        for other in await self._journal.duplicates(montage):
            if await self._claim_of(other) is Claim.STANDS:
                if await self._journal.move(montage, other):
                    log.info("montage.superseded", former=montage.id)
                    self._look_again(montage.metafile)
                else:
                    self._put_in_line(montage)  # noticed anew meanwhile: it is back
                return True
        return False


def _unread(montage: Montage) -> Inspection:
    """A look at a metafile that ended before anything was read."""
    return Inspection(montage.id, montage.identity)
