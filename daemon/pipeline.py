"""Takes every montage through its steps: starts them in order, journals every attempt, makes every outcome an event.

One task per step of a montage. A step that fails is tried again when its fault says that waiting can help, later each
time; otherwise the montage is FAILED and the others go on.
"""

import asyncio
import contextlib
import os
import random
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path

import structlog

from daemon.config import Settings, WatchSettings
from daemon.disks import MipmapDisks
from daemon.gate import RenderGate
from daemon.health import Metrics
from daemon.journal import Journal, Montage, Outcome, Settled
from daemon.keeper import StackKeeper
from daemon.retry import CRASHES_BEFORE_PARKING, FIRST_DELAY_S, LONGEST_DELAY_S, Tries, retry_delay_s
from daemon.schedule import Schedule, Ticket
from daemon.settle import Ignored, NotYet, Settler
from daemon.states import STEP_OF_STATE, Event, IllegalTransition, MontageState, Step
from daemon.steps import MipmapsLost, Steps, Stopped
from daemon.watcher import Sighting
from handlers.errors import BugFault, Fault, RenderBroken, RenderUnavailable, WorkerFault
from handlers.render import StackId

log = structlog.get_logger()

LIMITS: Mapping[Step, int] = {Step.SETTLE: 4, Step.INGEST: 4, Step.MIPMAPS: 3, Step.APPLY: 4}
"""Montages of one watch in each step at once. Several at mipmaps: workers have tiles while one montage ends."""
RESUMED_PER_TURN = 500
"""Montages of a backlog that are scheduled before the event loop attends to something else."""
NEEDS_RENDER = frozenset({Step.INGEST, Step.APPLY})


class Relation(StrEnum):
    """What a path is to a file under another path with the same content."""

    SAME = "same"
    """The same file: by a link, a bind mount, an overlapping watch."""
    GONE = "gone"
    """Nothing is there any more: the file has moved."""
    OTHER = "other"


def _relation(path: Path, file: Path) -> Relation:
    try:
        return Relation.SAME if path.samefile(file) else Relation.OTHER
    except FileNotFoundError:
        return Relation.GONE if os.path.exists(file) else Relation.OTHER  # noqa: PTH110  never raises
    except OSError:
        return Relation.OTHER


class Pipeline:
    """The daemon's work.

    Parameters
    ----------
    is_observable : whether a watch's directory can be looked at now; steps of its montages wait while it cannot.
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
        disks: MipmapDisks,
        metrics: Metrics,
        is_observable: Callable[[str], bool],
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
        self._clock = clock
        self._settler = Settler(clock, metafiles=steps.metafiles)
        self._schedule = Schedule(LIMITS)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._tries = Tries()
        self._settling = asyncio.Lock()
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
        if montage_id not in self._tasks:
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
                await self.take_up(montage)
        log.info("journal.resumed", unfinished=len(rows))

    async def take_up(self, montage: Montage, *, anew: bool = False) -> None:
        """Puts a montage in line where it stands, if it is unfinished and not there already.

        Parameters
        ----------
        montage : as the journal holds it now.
        anew : also where a ticket of it is in line: its step was the one before it was replayed.
        """
        if montage.state not in STEP_OF_STATE:
            return
        if not anew and (montage.id in self._schedule or montage.id in self._tasks):
            return
        if montage.state is MontageState.APPLIED:
            await self._hand_to_keeper(montage)
        else:
            self._put_in_line(montage)

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
        watch = self._watch(montage.watch)
        if watch is None or watch.stacks.close:
            self._keeper.touch(montage)
            return
        await self._journal.record(montage.id, Event.COMPLETED, closed=False)
        await self.completed((montage.id,))

    def close_after_s(self, montage: Montage) -> float:
        """How long the montage's stacks must be quiet before they are closed."""
        watch = self._watch(montage.watch)
        return watch.stacks.close_after_s if watch else 0.0

    async def completed(self, montage_ids: tuple[int, ...]) -> None:
        """Says that montages are COMPLETE."""
        for montage_id in montage_ids:
            montage = await self._journal.montage(montage_id)
            if montage is None:
                continue
            seconds = (montage.complete_at or montage.changed_at) - montage.noticed_at
            self._metrics.complete_seconds.observe(max(0.0, seconds))
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
                for ticket in self._schedule.take(self._clock(), self._is_open, self._may_start):
                    task = group.create_task(self._attend(ticket), name=f"montage {ticket.montage_id} {ticket.step}")
                    self._tasks[ticket.montage_id] = task
                    # A task that is cancelled before its first turn never comes to its own `finally`.
                    task.add_done_callback(partial(self._let_go, ticket))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pause_s()):
                        await self._changed.wait()

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
            return self._disks.is_usable(watch.mipmaps.output_dir)
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
        content, digest = read
        known = await self._journal.recognise(montage.id, digest)
        if known is not None:
            log.info("metafile.known", known_as=known)
            self._settler.forget(montage.id)
            return Outcome.DONE
        try:
            found = await self._settler.examine(montage, watch, content, digest, self._stack_id)
        except Fault as fault:
            if retry_delay_s(fault, montage.attempt + 1, 0.5) is None:
                await self._fail(montage, fault, digest)
                return Outcome.FAILED
            raise
        if isinstance(found, NotYet | Ignored):
            await self._not_settled(montage, found)
            return Outcome.WAITING if isinstance(found, NotYet) else Outcome.DONE
        async with self._settling:  # two paths of one file may settle at the same moment
            twin = await self._twin(montage, found)
            if twin is not None:
                await self._not_settled(montage, Ignored(f"it is {twin.metafile}, under another path", digest))
                return Outcome.DONE
            settling = await self._journal.settle(montage.id, found)
        self._settler.forget(montage.id)
        await self._leave_off(settling.superseded)
        following = await self._journal.montage(settling.kept)
        assert following is not None
        for finding in found.findings:
            log.warning("metafile.finding", finding=finding)
        log.info("metafile.settled", tiles=len(found.tile_ids), z=found.z, stack=found.raw_stack)
        self._put_in_line(following)
        return Outcome.DONE

    async def _twin(self, montage: Montage, found: Settled) -> Montage | None:
        """The montage that is this very file under another path. Those whose file has moved here are superseded.

        A copy is neither: it is a montage of its own.
        """
        for twin in await self._journal.twins(montage.id, found.digest):
            if not self._is_observable(twin.watch):
                continue
            relation = await asyncio.to_thread(_relation, twin.metafile, montage.metafile)
            if relation is Relation.SAME:
                return twin
            if relation is Relation.GONE and twin.raw_stack in (None, found.raw_stack) and twin.z in (None, found.z):
                await self._journal.record(
                    twin.id, Event.SUPERSEDED, by=montage.id, because=f"moved to {montage.metafile}"
                )
                await self._leave_off((twin.id,))
        return None

    async def _leave_off(self, superseded: tuple[int, ...]) -> None:
        """Ends the work on montages whose path holds something else now, before the new content is ingested."""
        for montage_id in superseded:
            self._schedule.remove(montage_id)
            task = self._tasks.get(montage_id)
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
            log.info("montage.superseded", former=montage_id)

    async def _not_settled(self, montage: Montage, found: NotYet | Ignored) -> None:
        if isinstance(found, Ignored):
            self._settler.forget(montage.id)
            await self._journal.ignore(montage.id, found.reason, found.digest)
            log.info("metafile.ignored", reason=found.reason)
            return
        if found.reason != montage.waiting_for:
            await self._journal.wait(montage.id, found.reason)
        self._put_in_line(montage, found.again_in_s)

    async def _failed(self, montage: Montage, step: Step, fault: Fault) -> None:
        """Decides whether the montage waits for another attempt or is FAILED."""
        if step in NEEDS_RENDER:
            self._gate.failed(montage.id, fault)
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

    async def _fail(self, montage: Montage, fault: Fault, digest: str | None = None) -> None:
        self._tries.forget(montage.id)
        self._settler.forget(montage.id)
        await self._journal.fail(montage.id, fault, digest=digest)
