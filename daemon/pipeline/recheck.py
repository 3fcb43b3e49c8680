"""Takes FAILED montages up again, without being asked, once the file that they failed of is another one.

Each such montage has one file in the journal, as it was before the work that failed. A look costs one stat of it; a
montage that fails again of the same file as it is now is left alone until that changes again.
"""

import asyncio
import os
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from daemon.config.settings import Settings
from daemon.journal.journal import Journal
from daemon.montages.records import AwaitedFile, Montage
from daemon.system.threads import in_thread
from handlers.errors import Evidence

log = structlog.get_logger()

STUCK_S = 10.0
"""A look that takes longer is left to itself; its watch is looked at again once it has ended."""


@dataclass(frozen=True, slots=True)
class _Change:
    """What became of a file that a montage waited for."""

    awaited: AwaitedFile
    how: str
    is_withdrawn: bool
    """The metafile itself was taken away, which had not been ingested because of another one."""


class Recheck:
    """Looks from time to time at the files that FAILED montages wait for.

    Parameters
    ----------
    is_observable : whether a watch's directory can be looked at now; its montages are left alone while it cannot.
    enqueue : puts a montage in line.
    look_again : has a metafile sighted once more if it is there.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        journal: Journal,
        *,
        is_observable: Callable[[str], bool],
        enqueue: Callable[[Montage], Awaitable[object]],
        look_again: Callable[[Path], object] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._is_observable = is_observable
        self._enqueue = enqueue
        self._look_again = look_again
        self._looks: dict[str, asyncio.Future[list[_Change]]] = {}

    async def run(self) -> None:
        """Looks as often as the most impatient watch is scanned, for as long as the daemon runs."""
        while True:
            await asyncio.sleep(min(watch.scan_interval_s for watch in self._settings().watch))
            try:
                await self.look()
            except Exception:  # it would end the daemon
                log.exception("recheck.bug")

    async def look(self) -> int:
        """How many montages were taken up again."""
        by_watch: dict[str, list[AwaitedFile]] = defaultdict(list)
        for each in await self._journal.awaited():
            by_watch[each.watch].append(each)
        for watch, awaited in by_watch.items():
            if watch not in self._looks and self._is_observable(watch):
                self._looks[watch] = in_thread(partial(_changes, awaited), f"second look {watch}")
        if self._looks:
            await asyncio.wait(self._looks.values(), timeout=STUCK_S)
        ended = [watch for watch, look in self._looks.items() if look.done()]
        changes = [each for watch in ended for each in self._found(watch)]
        return sum([await self._answer(change) for change in changes])

    def _found(self, watch: str) -> list[_Change]:
        look = self._looks.pop(watch)
        if error := look.exception():  # it would end the daemon
            log.error("recheck.bug", watch=watch, exc_info=error)
            return []
        return look.result()

    async def _answer(self, change: _Change) -> bool:
        """Whether the montage was taken up again."""
        try:
            if change.is_withdrawn:
                await self._withdraw(change.awaited)
                return False
            return await self._retry(change.awaited.montage_id, f"{change.awaited.evidence.path} {change.how}")
        except Exception:  # it would end the daemon
            log.exception("recheck.bug", montage=change.awaited.montage_id)
            return False

    async def _withdraw(self, awaited: AwaitedFile) -> None:
        if await self._journal.withdraw(awaited):
            log.info("montage.superseded", former=awaited.montage_id)
            self._look_again(awaited.metafile)

    async def _retry(self, montage_id: int, because: str) -> bool:
        montage = await self._journal.retry(montage_id, because)
        if montage is None:
            return False  # somebody replayed it, or it was superseded or noticed anew, meanwhile
        log.info("montage.retried", montage=montage_id, because=because)
        await self._enqueue(montage)
        return True


def _changes(awaited: Sequence[AwaitedFile]) -> list[_Change]:
    now: dict[Path, Evidence] = {}  # thousands of montages may wait for one z table
    changes = []
    for each in awaited:
        path = each.evidence.path
        if path not in now:
            now[path] = Evidence.of(path)
        is_withdrawn = each.evidence.or_gone and not os.path.lexists(each.metafile)
        if is_withdrawn or each.evidence.has_changed(now[path]):
            changes.append(_Change(each, _how(each.evidence, now[path]), is_withdrawn))
    return changes


def _how(before: Evidence, now: Evidence) -> str:
    if now.identity is None:
        return "is gone"
    return "is there now" if before.identity is None else "has changed"
