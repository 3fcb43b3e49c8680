"""Perform one step of one montage as a journaled attempt."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from daemon.config.watch_settings import WatchSettings
from daemon.journal.journal import Journal
from daemon.montages.records import Montage, Outcome
from daemon.montages.states import Event, IllegalTransition, Step
from daemon.pipeline.gates.render_gate import RenderGate
from daemon.pipeline.metrics import Metrics
from daemon.pipeline.order.retry import CRASHES_BEFORE_PARKING, Tries
from daemon.pipeline.order.work_queue import WorkQueue
from daemon.pipeline.steps.failures import NEEDS_RENDER, FailureHandler
from daemon.pipeline.steps.mipmap_step import Stopped
from daemon.pipeline.steps.perform import MipmapsLost, Steps
from daemon.pipeline.steps.settle_step import SettleStep
from handlers.errors import BugFault, Fault, WorkerFault

log = structlog.get_logger()


class Attempts:
    """Performs steps and records every outcome in the journal.

    Parameters
    ----------
    enqueue_next : awaited with a montage whose step succeeded; enqueues its next step.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        queue: WorkQueue,
        settle_step: SettleStep,
        steps: Steps,
        failures: FailureHandler,
        gate: RenderGate,
        tries: Tries,
        metrics: Metrics,
        enqueue_next: Callable[[Montage], Awaitable[None]],
        clock: Callable[[], float],
    ) -> None:
        self._journal = journal
        self._queue = queue
        self._settle_step = settle_step
        self._steps = steps
        self._failures = failures
        self._gate = gate
        self._tries = tries
        self._metrics = metrics
        self._enqueue_next = enqueue_next
        self._clock = clock

    async def make(self, montage: Montage, watch: WatchSettings, step: Step) -> None:
        """Attempt a step. If it fails, the montage is retried or FAILED.

        Raises
        ------
        IllegalTransition
            If the montage was superseded or replayed during the step.
        """
        if montage.crashes >= CRASHES_BEFORE_PARKING:
            await self._failures.fail(montage, _crash_fault(montage))
            return
        try:
            await self._attempt(montage, watch, step)
        except Fault as fault:
            await self._failures.handle(montage, step, fault)
        except MipmapsLost:
            log.warning("mipmaps.lost")
            self._queue.enqueue(await self._journal.record(montage.id, Event.MIPMAPS_LOST))
        except Stopped:
            self._queue.enqueue(montage)  # a stopping daemon starts no further step

    async def _attempt(self, montage: Montage, watch: WatchSettings, step: Step) -> None:
        """Perform the step as a journaled attempt, if its metafile is ready. Every exception ends the attempt.

        Raises
        ------
        Fault
            BugFault for an unexpected exception.
        Stopped, MipmapsLost, IllegalTransition
            As raised by the step.
        """
        if step is Step.SETTLE and not await self._settle_step.is_ready(montage, watch):
            return
        attempt = await self._journal.begin_attempt(montage.id, step)
        started = self._clock()
        try:
            if step is Step.SETTLE:
                outcome = await self._settle_step.perform(montage, watch)
            else:
                outcome = await self._perform(montage, watch, step, attempt)
        except (Stopped, IllegalTransition, asyncio.CancelledError):
            await self._end(attempt, step, Outcome.STOPPED, started)
            raise
        except MipmapsLost:
            await self._end(attempt, step, Outcome.WAITING, started)
            raise
        except Fault as fault:
            await self._end(attempt, step, Outcome.FAILED, started, fault)
            raise
        except Exception as error:
            log.exception("step.bug", step=str(step))
            bug = BugFault.of(str(montage.metafile), error)
            await self._end(attempt, step, Outcome.FAILED, started, bug)
            raise bug from error
        await self._end(attempt, step, outcome, started)

    async def _end(
        self, attempt: int, step: Step, outcome: Outcome, started: float, fault: Fault | None = None
    ) -> None:
        if outcome is not Outcome.DONE or step is Step.SETTLE:  # otherwise it ended in the transaction of its event
            await self._journal.end_attempt(attempt, outcome, fault)
        self._metrics.attempt_ended(step, outcome, self._clock() - started)

    async def _perform(self, montage: Montage, watch: WatchSettings, step: Step, attempt: int) -> Outcome:
        """Perform a step after SETTLE. Its event and the end of the attempt are recorded together."""
        started = self._clock()
        event, numbers = await self._run_step(montage, watch, step)
        if step in NEEDS_RENDER:
            self._gate.worked()
        self._tries.forget(montage.id)
        detail = {"output_dir": str(watch.mipmaps.output_dir)} if event is Event.MIPMAPPED else {}
        following = await self._journal.record(montage.id, event, attempt=attempt, quality_numbers=numbers, **detail)
        log.info(f"tiles.{event}", tiles=montage.tile_count, seconds=round(self._clock() - started, 2))
        await self._enqueue_next(following)
        return Outcome.DONE

    async def _run_step(self, montage: Montage, watch: WatchSettings, step: Step) -> tuple[Event, bytes | None]:
        """Run the effect of a step; return its event and, with MIPMAPPED, the packed quality numbers."""
        section = await self._steps.section(montage, watch)
        if step is Step.INGEST:
            await self._steps.ingest(section)
            return Event.INGESTED, None
        if step is Step.MIPMAPS:
            return Event.MIPMAPPED, await self._steps.make_mipmaps(section)
        await self._steps.apply(section)
        return Event.APPLIED, None


def _crash_fault(montage: Montage) -> WorkerFault:
    return WorkerFault(
        str(montage.metafile),
        f"the daemon died {montage.crashes} times in a row while it processed this montage",
        "find the cause in the system log (out of memory, a signal), then replay the montage",
    )
