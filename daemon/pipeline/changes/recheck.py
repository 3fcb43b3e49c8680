"""Recheck: retry FAILED montages automatically when the file that caused the failure has changed.

The journal keeps one file for each such montage, with its identity before the failed attempt. A check costs one stat. A
montage that fails again because of the unchanged file waits until the file changes again.
"""

import asyncio
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
from handlers.acquisition.presence import evidence_of, metafile_exists
from handlers.errors import Evidence

log = structlog.get_logger()

STUCK_S = 10.0
"""Longest wait for a check. A watch whose check takes longer is checked again after its thread has ended."""


@dataclass(frozen=True, slots=True)
class _Change:
    """Change of an awaited file."""

    awaited: AwaitedFile
    description: str
    is_withdrawn: bool
    """Whether the refused metafile itself was removed. Then the montage is superseded and not retried."""


class Recheck:
    """Checks the files that FAILED montages wait for.

    Parameters
    ----------
    is_observable : whether the directory of a watch can be accessed now; otherwise its files are not checked.
    enqueue : awaited with a montage that is retried; enqueues it.
    rescan : reports a metafile to the watcher: it is noticed again if it is present.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        journal: Journal,
        *,
        is_observable: Callable[[str], bool],
        enqueue: Callable[[Montage], Awaitable[object]],
        rescan: Callable[[Path], object] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._is_observable = is_observable
        self._enqueue = enqueue
        self._rescan = rescan
        self._checks: dict[str, asyncio.Future[list[_Change]]] = {}

    async def run(self) -> None:
        """Check at the shortest `scan_interval_s` of all watches, until cancelled."""
        while True:
            await asyncio.sleep(min(watch.scan_interval_s for watch in self._settings().watch))
            try:
                await self.check()
            except Exception:  # it would end the daemon
                log.exception("recheck.bug")

    async def check(self) -> int:
        """Check all awaited files once; return how many montages are retried."""
        by_watch: dict[str, list[AwaitedFile]] = defaultdict(list)
        for each in await self._journal.awaited():
            by_watch[each.watch].append(each)
        for watch, awaited in by_watch.items():
            if watch not in self._checks and self._is_observable(watch):
                self._checks[watch] = in_thread(partial(_changes, awaited), f"recheck {watch}")
        if self._checks:
            await asyncio.wait(self._checks.values(), timeout=STUCK_S)
        ended = [watch for watch, check in self._checks.items() if check.done()]
        changes = [each for watch in ended for each in self._result(watch)]
        return sum([await self._handle(change) for change in changes])

    def _result(self, watch: str) -> list[_Change]:
        check = self._checks.pop(watch)
        if error := check.exception():  # it would end the daemon
            log.error("recheck.bug", watch=watch, exc_info=error)
            return []
        return check.result()

    async def _handle(self, change: _Change) -> bool:
        """Retry or supersede the montage of a change; return whether it is retried."""
        try:
            if change.is_withdrawn:
                await self._withdraw(change.awaited)
                return False
            because = f"{change.awaited.evidence.path} {change.description}"
            return await self._retry(change.awaited.montage_id, because)
        except Exception:  # it would end the daemon
            log.exception("recheck.bug", montage=change.awaited.montage_id)
            return False

    async def _withdraw(self, awaited: AwaitedFile) -> None:
        if await self._journal.withdraw(awaited):
            log.info("montage.superseded", montage=awaited.montage_id, metafile=str(awaited.metafile))
            self._rescan(awaited.metafile)

    async def _retry(self, montage_id: int, because: str) -> bool:
        montage = await self._journal.retry(montage_id, because)
        if montage is None:
            return False  # replayed, superseded or noticed again meanwhile
        log.info("montage.retried", montage=montage_id, because=because)
        await self._enqueue(montage)
        return True


def _changes(awaited: Sequence[AwaitedFile]) -> list[_Change]:
    now: dict[Path, Evidence] = {}  # thousands of montages may wait for one z table
    changes = []
    for each in awaited:
        path = each.evidence.path
        if path not in now:
            now[path] = evidence_of(path)
        is_withdrawn = each.evidence.or_gone and not metafile_exists(each.metafile)
        if is_withdrawn or each.evidence.has_changed(now[path]):
            changes.append(_Change(each, _description(each.evidence, now[path]), is_withdrawn))
    return changes


def _description(before: Evidence, now: Evidence) -> str:
    if now.identity is None:
        return "is gone"
    return "has appeared" if before.identity is None else "has changed"
