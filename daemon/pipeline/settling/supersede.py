"""End the work on montages whose metafile was moved, removed or replaced."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from daemon.journal.journal import Journal
from daemon.montages.records import Montage, SettleResult, StaleInspection
from daemon.montages.states import UNFINISHED, MontageState
from daemon.pipeline.order.work_queue import WorkQueue
from daemon.pipeline.settling.claims import Claim, Claims
from daemon.pipeline.settling.settle import Settler
from handlers.errors import Fault

log = structlog.get_logger()

NEEDS_METAFILE = (UNFINISHED | {MontageState.FAILED}) - {MontageState.APPLIED}
"""States of montages that cannot finish without their metafile."""


class Superseder:
    """Ends the work on superseded montages.

    Parameters
    ----------
    rescan : reports a metafile to the watcher: it is noticed again if it is present.
    """

    def __init__(
        self,
        journal: Journal,
        queue: WorkQueue,
        settler: Settler,
        claims: Claims,
        rescan: Callable[[Path], object],
    ) -> None:
        self._journal = journal
        self._queue = queue
        self._settler = settler
        self._claims = claims
        self._rescan = rescan

    async def end(self, superseded: tuple[Montage, ...], path: Path) -> None:
        """End the work on montages that were superseded by the content of a path, before that content is ingested."""
        for former in superseded:
            if former.metafile != path:
                self._rescan(former.metafile)  # it may be back although no scan found it missing
            self._settler.forget(former.id)
            await self._queue.cancel(former.id)
            _log_superseded(former)

    async def record(self, montage: Montage, outcome: Awaitable[SettleResult]) -> None:
        """Record a refused or ignored metafile, and end the work on the montages that this supersedes.

        A metafile that was noticed again meanwhile is enqueued to be read again.

        Parameters
        ----------
        outcome : journals the refusal.
        """
        try:
            result = await outcome
        except StaleInspection:
            self._queue.enqueue(montage)
            return
        await self.end(result.superseded, montage.metafile)
        if (kept := await self._journal.montage(result.kept)) is not None:
            await self._supersede_former_paths(kept)

    async def _supersede_former_paths(self, montage: Montage) -> None:
        """Supersede unfinished montages of the same content whose metafile is gone: it was moved to this path."""
        for former in await self._journal.former_paths(montage):
            is_over = former.state in NEEDS_METAFILE and await self._claims.present(former) is Claim.GONE
            if is_over:
                await self.end(await self._journal.move(former, montage), montage.metafile)

    async def has_moved(self, montage: Montage, fault: Fault) -> bool:
        """Supersede a montage that failed because its metafile was moved; return whether it was."""
        evidence = fault.evidence
        if evidence is None or evidence.path != montage.metafile or evidence.identity is not None:
            return False
        for other in await self._journal.later_paths(montage):
            if await self._claims.present(other) is Claim.PRESENT:
                if superseded := await self._journal.move(montage, other):
                    _log_superseded(montage)
                    self._rescan(montage.metafile)
                    await self.end(superseded[1:], montage.metafile)
                else:
                    self._queue.enqueue(montage)  # it was noticed again meanwhile: it is back
                return True
        return False


def _log_superseded(montage: Montage) -> None:
    """Log, under the id of this montage, that another one superseded it."""
    log.info(
        "montage.superseded",
        watch=montage.watch,
        montage=montage.id,
        z=montage.z,
        stack=montage.raw_stack,
        metafile=str(montage.metafile),
    )
