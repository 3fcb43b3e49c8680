"""Handle failed steps: retry the montage after a delay, or record it as FAILED."""

import asyncio
import random

import structlog

from daemon.journal.journal import Journal
from daemon.montages.records import Inspection, Montage
from daemon.montages.sighting import FoundBy, Sighting
from daemon.montages.states import MontageState, Step
from daemon.pipeline.gates.render_gate import RenderGate
from daemon.pipeline.order.retry import MAX_DELAY_S, Tries
from daemon.pipeline.order.schedule import Ticket
from daemon.pipeline.order.work_queue import WorkQueue
from daemon.pipeline.settling.settle import Settler
from daemon.pipeline.settling.supersede import Superseder
from daemon.pipeline.steps.section import MetafileChanged
from daemon.system.threads import access_timeout
from handlers.acquisition.presence import find_metafile
from handlers.errors import BugFault, Fault, RenderBroken, RenderUnavailable, StorageFault
from handlers.render.names import StackId
from handlers.text import without_values

log = structlog.get_logger()

NEEDS_RENDER = frozenset({Step.INGEST, Step.APPLY})
"""Steps that need render-ws."""


class FailureHandler:
    """Retries or fails montages whose step ended with a fault."""

    def __init__(
        self,
        *,
        journal: Journal,
        queue: WorkQueue,
        settler: Settler,
        superseder: Superseder,
        gate: RenderGate,
        tries: Tries,
    ) -> None:
        self._journal = journal
        self._queue = queue
        self._settler = settler
        self._superseder = superseder
        self._gate = gate
        self._tries = tries
        self._changed_metafiles: list[tuple[Montage, Sighting]] = []

    async def handle(self, montage: Montage, step: Step, fault: Fault) -> None:
        """Enqueue the montage for a retry if waiting can help, otherwise record it as FAILED."""
        if step in NEEDS_RENDER or isinstance(fault, RenderUnavailable | RenderBroken):
            await self._gate.failed(montage.id, fault, _written_stack(montage, step))
        if isinstance(fault, MetafileChanged):
            await self._remember_change(montage)
        delay_s = self._delay_s(montage, fault)
        if delay_s is None:
            await self.fail(montage, fault)
            return
        if montage.fault is None or without_values(montage.fault.problem) != without_values(fault.problem):
            log.warning("step.waits", step=str(step), fault=str(fault), retry_in_s=round(delay_s, 1))
        self._queue.enqueue(montage, delay_s)

    def _delay_s(self, montage: Montage, fault: Fault) -> float | None:
        chance = random.random()  # noqa: S311  jitter
        if isinstance(fault, RenderUnavailable | RenderBroken) and not self._gate.is_closed_circuit:
            return self._tries.delay_in_outage_s(montage.id, self._gate.outage, self._gate.pause_s, chance)
        return self._tries.delay_s(montage.id, fault, montage.attempt + 1, chance)

    def retry_unjournaled(self, ticket: Ticket, error: Exception) -> None:
        """Retry a step whose failure could not be journaled, since FAILED could not be journaled either."""
        fault = BugFault.of(f"montage {ticket.montage_id}", error)
        delay_s = self._tries.delay_s(ticket.montage_id, fault, 1, random.random())  # noqa: S311  jitter
        self._queue.add(ticket, MAX_DELAY_S if delay_s is None else delay_s)

    async def fail(self, montage: Montage, fault: Fault, inspection: Inspection | None = None) -> None:
        """Record the montage as FAILED, or as SUPERSEDED if its metafile was moved."""
        self._tries.forget(montage.id)
        self._settler.forget(montage.id)
        if await self._superseder.has_moved(montage, fault):
            return
        if montage.state is MontageState.NOTICED:
            inspection = inspection or Inspection(montage.id, montage.identity)
            await self._superseder.record(montage, self._journal.refuse(inspection, fault))
        else:
            await self._journal.fail(montage.id, fault)

    # --- metafiles whose content is not that of their montage

    async def _remember_change(self, montage: Montage) -> None:
        """Remember a metafile that a step found changed, since a scan may not find the change."""
        try:
            async with access_timeout(montage.metafile):
                found = await asyncio.to_thread(find_metafile, montage.metafile)
        except (OSError, StorageFault):
            return
        if found is None:
            return
        sighting = Sighting(montage.watch, montage.metafile, found.identity, FoundBy.STEP)
        self._changed_metafiles.append((montage, sighting))
        self._queue.changed.set()

    async def notice_changed_metafiles(self) -> None:
        """Notice the remembered metafiles.

        The step itself does not do this, since it could be cancelled after the journal recorded the sighting.
        """
        while self._changed_metafiles:
            montage, sighting = self._changed_metafiles.pop()
            try:
                montage_id = await self._journal.notice_changed(montage.id, sighting)
            except Exception:  # the next attempt of the montage finds the change again
                log.exception("metafile.bug", metafile=str(sighting.path))
                continue
            if montage_id is not None:
                self._queue.add(Ticket(montage.acquired, montage_id, Step.SETTLE, montage.watch))


def _written_stack(montage: Montage, step: Step) -> StackId | None:
    """Return the stack that a step writes to."""
    name = {Step.INGEST: montage.raw_stack, Step.APPLY: montage.mipmapped_stack}.get(step)
    return StackId.parse(name) if name else None
