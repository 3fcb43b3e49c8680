"""Settle step: read a quiet metafile, resolve conflicts with other montages, and journal the outcome."""

import asyncio
from collections.abc import Callable

import structlog

from daemon.config.render_settings import RenderSettings
from daemon.config.watch_settings import WatchSettings
from daemon.journal.journal import Journal
from daemon.journal.tables import outbox
from daemon.montages.records import Inspection, Montage, Outcome, Settled, SettleResult, StaleInspection
from daemon.montages.states import STEP_OF_STATE
from daemon.pipeline.order.retry import retry_delay_s
from daemon.pipeline.order.work_queue import WorkQueue
from daemon.pipeline.settling.claims import Claims, namesake_fault
from daemon.pipeline.settling.settle import Ignored, NotYet, Read, Settler
from daemon.pipeline.settling.supersede import Superseder
from daemon.pipeline.steps.failures import FailureHandler
from handlers.errors import Fault

log = structlog.get_logger()


class SettleStep:
    """Performs the settle step of one montage at a time.

    Parameters
    ----------
    render : returns the settings with the default owner and project of stacks.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        queue: WorkQueue,
        settler: Settler,
        claims: Claims,
        superseder: Superseder,
        failures: FailureHandler,
        render: Callable[[], RenderSettings],
    ) -> None:
        self._journal = journal
        self._queue = queue
        self._settler = settler
        self._claims = claims
        self._superseder = superseder
        self._failures = failures
        self._render = render

    async def is_ready(self, montage: Montage, watch: WatchSettings) -> bool:
        """Return whether the metafile can be read; if not, the montage waits or is IGNORED."""
        unready = await self._settler.check(montage, watch)
        if unready is not None:
            await self._not_settled(montage, unready)
        return unready is None

    async def perform(self, montage: Montage, watch: WatchSettings) -> Outcome:
        """Read the metafile and journal the outcome.

        Raises
        ------
        Fault
            If a retry can help. Otherwise the montage is recorded as FAILED.
        """
        read = await self._settler.read(montage)
        if read is None:
            return await self._wait_until_quiet(montage, watch)
        events_before = await self._journal.read(outbox.last_number)
        inspection = Inspection(montage.id, montage.identity, read.identity, read.digest, events_before)
        try:
            return await self._settle(montage, watch, read, inspection)
        except StaleInspection:
            return await self._wait_until_quiet(montage, watch)
        except Fault as fault:
            if retry_delay_s(fault, montage.attempt + 1, 0.5) is None:
                await self._failures.fail(montage, fault, inspection)
                return Outcome.FAILED
            raise

    async def _wait_until_quiet(self, montage: Montage, watch: WatchSettings) -> Outcome:
        await self._not_settled(montage, NotYet("the metafile is still changing", watch.settle_s))
        return Outcome.WAITING

    async def _settle(self, montage: Montage, watch: WatchSettings, read: Read, inspection: Inspection) -> Outcome:
        known = await self._journal.recognise(inspection)
        if known is not None:
            await self._settled(montage, known)
            return Outcome.DONE
        found = await self._settler.examine(montage, watch, read.content, read.digest, self._render())
        result = await self._resolve_rivals(montage, inspection, found) if isinstance(found, Settled) else found
        if isinstance(result, NotYet | Ignored):
            await self._not_settled(montage, result, inspection)
            return Outcome.WAITING if isinstance(result, NotYet) else Outcome.DONE
        for finding in found.findings if isinstance(found, Settled) else ():
            log.warning("metafile.finding", finding=finding)
        await self._settled(montage, result)
        return Outcome.DONE

    async def _resolve_rivals(
        self, montage: Montage, inspection: Inspection, found: Settled
    ) -> SettleResult | NotYet | Ignored:
        """Judge every rival, then record the montage as SETTLED.

        Raises
        ------
        MetafileFault
            If a rival owns some of the tiles, or another header value gave the same stack name.
        """
        moved: dict[Montage, str] = {}
        unrelated: set[int] = set()
        while (result := await self._journal.settle(inspection, found, moved=moved, unrelated=unrelated)).rivals:
            for rival in result.rivals:
                verdict = await self._claims.judge(rival, montage, found.digest)
                if isinstance(verdict, NotYet | Ignored):
                    return verdict
                if verdict is None:
                    unrelated.add(rival.montage.id)
                else:
                    moved[rival.montage] = verdict
        if result.namesake:
            raise await asyncio.to_thread(namesake_fault, result.namesake, montage.metafile)
        return result

    async def _settled(self, montage: Montage, result: SettleResult) -> None:
        self._settler.forget(montage.id)
        await self._superseder.end(result.superseded, montage.metafile)
        following = await self._journal.montage(result.kept)
        if result.is_known:
            log.info("metafile.known", known_as=result.kept)
        elif following is not None and following.state in STEP_OF_STATE:
            log.info("metafile.settled", tiles=following.tile_count, z=following.z, stack=following.raw_stack)
            self._queue.enqueue(following)

    async def _not_settled(
        self, montage: Montage, found: NotYet | Ignored, inspection: Inspection | None = None
    ) -> None:
        if isinstance(found, Ignored):
            self._settler.forget(montage.id)
            inspection = inspection or Inspection(montage.id, montage.identity)
            ignoring = self._journal.ignore(inspection, found.reason, found.evidence)
            await self._superseder.record(montage, ignoring)
            log.info("metafile.ignored", reason=found.reason)
            return
        digest = inspection.digest if inspection else None
        if found.reason != montage.waiting_for or digest is not None:
            await self._journal.wait(montage.id, found.reason, digest)
        self._queue.enqueue(montage, found.retry_in_s)
