"""Pipeline runner: enqueue montages and start their steps in order of acquisition, each as its own task.

A failed step is retried with growing delay if its fault declares that waiting can help. Otherwise the montage is
FAILED, and others continue.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog

from daemon.config.settings import Settings
from daemon.config.watch_settings import WatchSettings
from daemon.journal.journal import Journal
from daemon.montages.records import Montage
from daemon.montages.sighting import Sighting
from daemon.montages.states import STEP_OF_STATE, Event, IllegalTransition, MontageState, Step
from daemon.montages.verdicts import WAITS_FOR_PERSON
from daemon.pipeline.gates.output_disks import OutputDisks
from daemon.pipeline.gates.render_gate import RenderGate
from daemon.pipeline.gates.worker_gate import WorkerGate
from daemon.pipeline.metrics import Metrics
from daemon.pipeline.order.retry import FIRST_DELAY_S, Tries
from daemon.pipeline.order.schedule import Ticket
from daemon.pipeline.order.work_queue import WorkQueue
from daemon.pipeline.settling.claims import Claims
from daemon.pipeline.settling.settle import Settler
from daemon.pipeline.settling.supersede import Superseder
from daemon.pipeline.stacks.keeper import StackKeeper
from daemon.pipeline.stacks.quality_hold import QualityHold
from daemon.pipeline.stacks.use import CloseRule
from daemon.pipeline.steps.attempt import Attempts
from daemon.pipeline.steps.failures import NEEDS_RENDER, FailureHandler
from daemon.pipeline.steps.perform import Steps
from daemon.pipeline.steps.settle_step import SettleStep
from handlers.errors import BugFault, Fault

log = structlog.get_logger()

RESUMED_PER_TURN = 500
"""Number of montages of a backlog that are enqueued before other tasks get a turn."""


class PipelineRunner:
    """Runs all steps of all montages.

    Parameters
    ----------
    is_observable : whether the directory of a watch can be accessed now; otherwise steps of its montages wait.
    rescan : reports a metafile to the watcher: it is noticed again if it is present.
    on_complete : called with each montage that became COMPLETE.
    """

    def __init__(
        self,
        *,
        settings: Callable[[], Settings],
        journal: Journal,
        settler: Settler,
        steps: Steps,
        keeper: StackKeeper,
        gate: RenderGate,
        disks: OutputDisks,
        workers: WorkerGate,
        metrics: Metrics,
        is_observable: Callable[[str], bool],
        rescan: Callable[[Path], object] = lambda _: None,
        on_complete: Callable[[Montage], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._steps = steps
        self._keeper = keeper
        self._gate = gate
        self._disks = disks
        self._workers = workers
        self._metrics = metrics
        self._is_observable = is_observable
        self._on_complete = on_complete
        self._queue = queue = WorkQueue(clock)
        self._tries = tries = Tries()
        claims = Claims(self._is_accessible)
        superseder = Superseder(journal, queue, settler, claims, rescan)
        self._failures = failures = FailureHandler(
            journal=journal, queue=queue, settler=settler, superseder=superseder, gate=gate, tries=tries
        )
        settle_step = SettleStep(
            journal=journal,
            queue=queue,
            settler=settler,
            claims=claims,
            superseder=superseder,
            failures=failures,
            render=lambda: settings().render,
        )
        self._attempts = Attempts(
            journal=journal,
            queue=queue,
            settle_step=settle_step,
            steps=steps,
            failures=failures,
            gate=gate,
            tries=tries,
            metrics=metrics,
            enqueue_next=self._enqueue_next,
            clock=clock,
        )
        self._hold = QualityHold(settings, journal)
        self._stopping = False

    # --- intake

    async def notice(self, sighting: Sighting) -> None:
        """Journal a sighting and enqueue its montage.

        Raises
        ------
        Fault
            If the sighting could not be journaled. A journaled sighting is always enqueued, since the watcher does not
            report it again.
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
        if montage_id not in self._queue:
            by = str(sighting.found_by)
            log.info("metafile.noticed", watch=sighting.watch, montage=montage_id, by=by, metafile=str(sighting.path))
        # Also while a step of the montage runs: the step may be about to end, and its ticket is replaced.
        self._queue.add(Ticket(sighting.path.name, montage_id, Step.SETTLE, sighting.watch))

    async def resume(self) -> None:
        """Enqueue all unfinished montages of the journal that are not queued."""
        watches = {watch.name for watch in self._settings().watch}
        rows = await self._journal.unfinished()
        for index, (montage_id, acquired, state, watch) in enumerate(rows):
            if index % RESUMED_PER_TURN == RESUMED_PER_TURN - 1:
                await asyncio.sleep(0)
            if montage_id in self._queue:
                continue
            if watch not in watches:
                log.warning("montage.without_watch", montage=montage_id, watch=watch)
            elif state is not MontageState.APPLIED:
                self._queue.add(Ticket(acquired, montage_id, STEP_OF_STATE[state], watch))
            elif montage := await self._journal.montage(montage_id):
                await self.enqueue(montage)
        await self._keeper.resume()
        log.info("journal.resumed", unfinished=len(rows))

    async def enqueue(self, montage: Montage, *, force: bool = False) -> None:
        """Enqueue the next step of a montage, unless it is finished or waits in the queue.

        Parameters
        ----------
        montage : its present state in the journal.
        force : whether a waiting ticket is replaced, whose step is outdated after a replay.
        """
        if montage.state not in STEP_OF_STATE:
            return
        if not force and self._queue.is_waiting(montage.id):
            return
        await self._enqueue_next(montage)

    async def _enqueue_next(self, montage: Montage) -> None:
        if montage.state is not MontageState.APPLIED:
            self._queue.enqueue(montage)
            return
        is_held = self._hold.holds(montage)
        if is_held:
            await self._journal.wait(montage.id, WAITS_FOR_PERSON)
        if self.close_rule(montage.watch) is not None:
            self._keeper.request_close_for(montage)
        elif not is_held:
            await self._journal.record(montage.id, Event.COMPLETED, closed=False)
            await self.completed((montage.id,))

    async def decided(self, montage: Montage) -> None:
        """Continue a montage after a person's decision, if its verdict prevented that it became COMPLETE."""
        if montage.state is MontageState.APPLIED:
            await self._enqueue_next(montage)
            self._keeper.wake()

    async def images_changed(self, montage: Montage) -> None:
        """Enqueue a montage whose images changed after their mipmaps were made, delayed while they may be written."""
        self._steps.expect_changes(montage.id)
        watch = self._watch(montage.watch)
        self._queue.enqueue(montage, watch.settle_s if watch else 0.0)

    def wake(self) -> None:
        """Check the queue again: a condition that steps wait for may have changed."""
        if self._gate.fault is None:
            # In order of acquisition. The remaining delays of an outage would favour montages that failed last.
            self._queue.end_delays(self._tries.after_outage())
        self._queue.changed.set()
        self._keeper.wake()

    def close_rule(self, watch: str) -> CloseRule | None:
        """Return the close rule of a watch; None: never. Without the watch in the configuration: at once."""
        settings = self._watch(watch)
        if settings is None:
            return CloseRule(0.0)
        stacks = settings.stacks
        return CloseRule(stacks.close_after_s, stacks.close_at_latest_s) if stacks.close else None

    async def completed(self, montage_ids: tuple[int, ...]) -> None:
        """Report montages as COMPLETE to the log, the metrics and `on_complete`."""
        for montage_id in montage_ids:
            montage = await self._journal.montage(montage_id)
            if montage is None:
                continue
            self._on_complete(montage)
            seconds = self._journal.age_s(montage)
            self._metrics.complete_seconds.observe(seconds)
            log.info(
                "montage.complete",
                watch=montage.watch,
                montage=montage.id,
                metafile=str(montage.metafile),
                z=montage.z,
                stack=montage.mipmapped_stack,
                tiles=montage.tile_count,
                seconds=round(seconds, 1),
            )

    # --- the loop

    async def run(self) -> None:
        """Start steps as they become due, until the runner is stopped and running steps have ended."""
        async with asyncio.TaskGroup() as group:
            while not self._stopping:
                self._queue.changed.clear()
                await self._failures.notice_changed_metafiles()
                for ticket in self._queue.take(self._is_open, self._may_start):
                    task = group.create_task(
                        self._run_ticket(ticket), name=f"montage {ticket.montage_id} {ticket.step}"
                    )
                    self._queue.begin(ticket, task)
                    # A task that is cancelled before its first turn does not reach its own `finally`.
                    task.add_done_callback(partial(self._release, ticket))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._queue.pause_s()):
                        await self._queue.changed.wait()

    def stop(self) -> None:
        """Start no further step; running steps end at the next point where they can be resumed."""
        self._stopping = True
        self._steps.stop()
        self._queue.changed.set()

    def cancel(self) -> None:
        """Cancel running steps; the journal knows where to resume."""
        self._queue.cancel_all()

    @property
    def under_way(self) -> int:
        """Number of montages in a step now."""
        return self._queue.running

    @property
    def waiting(self) -> int:
        """Number of montages that wait for a step."""
        return len(self._queue) - self._queue.running

    def next_try_in_s(self, montage_id: int) -> float | None:
        """Return the seconds until the next attempt at the montage's step; None if it is not delayed."""
        return self._queue.delay_s(montage_id)

    def _is_open(self, step: Step, watch_name: str) -> bool:
        """Whether this step may be started for montages of this watch now."""
        watch = self._watch(watch_name)
        if watch is None or not self._is_observable(watch_name):
            return False
        if step is Step.MIPMAPS:
            # Not as the trial of a half-open circuit: it could take an hour, and all other work would wait.
            can_read = watch.mipmaps.method != "render" or self._gate.is_closed_circuit
            return can_read and self._workers.is_open and self._disks.is_usable(watch.mipmaps.output_dir)
        return step not in NEEDS_RENDER or self._gate.is_open

    def _may_start(self, ticket: Ticket) -> bool:
        if self._queue.is_running(ticket.montage_id):
            return False
        # The gate comes last: it counts an admitted step as begun.
        return ticket.step not in NEEDS_RENDER or self._gate.admit(ticket.montage_id)

    def _watch(self, name: str) -> WatchSettings | None:
        return next((watch for watch in self._settings().watch if watch.name == name), None)

    def _is_accessible(self, watch_name: str) -> bool:
        """Whether files of a watch can be accessed; a watch that is no longer configured is not checked."""
        return self._watch(watch_name) is None or self._is_observable(watch_name)

    # --- one step of one montage

    async def _run_ticket(self, ticket: Ticket) -> None:
        """Run one step of one montage. No exception leaves this method, since it would end the daemon."""
        try:
            await self._take_step(ticket)
        except Exception as error:  # the only blanket catch around a step
            log.exception("step.bug", montage=ticket.montage_id, step=str(ticket.step))
            self._failures.retry_unjournaled(ticket, error)
        finally:
            self._release(ticket)

    def _release(self, ticket: Ticket, ended: "asyncio.Task[None] | None" = None) -> None:
        if self._queue.end(ticket, ended):
            self._gate.leave(ticket.montage_id)

    async def _take_step(self, ticket: Ticket) -> None:
        montage = await self._journal.montage(ticket.montage_id)
        watch = self._watch(ticket.watch)
        if montage is None or watch is None:
            return
        if STEP_OF_STATE.get(montage.state) is not ticket.step:
            await self._enqueue_present_step(ticket)
            return
        with structlog.contextvars.bound_contextvars(
            watch=montage.watch,
            montage=montage.id,
            stack=montage.raw_stack,
            z=montage.z,
            metafile=str(montage.metafile),
        ):
            try:
                await self._attempts.make(montage, watch, ticket.step)
            except IllegalTransition:
                log.info("montage.overtaken")
                await self._enqueue_present_step(ticket)

    async def _enqueue_present_step(self, ticket: Ticket) -> None:
        """Enqueue the present step of a montage that changed while its former step ran or waited, if a step remains."""
        if not self._queue.is_current(ticket):
            return
        montage = await self._journal.montage(ticket.montage_id)
        if montage is not None and montage.state is MontageState.APPLIED:
            await self._enqueue_next(montage)
        elif montage is not None and montage.state in STEP_OF_STATE:
            self._queue.enqueue(montage, FIRST_DELAY_S)
