"""Takes FAILED montages up again, without being asked, once the file that they failed of is another one.

Each such montage has one file in the journal, as it was before the work that failed. A look costs one stat of it; a
montage that fails again of the same file as it is now is left alone until that changes again.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import structlog

from daemon.config import Settings
from daemon.journal import Journal, Montage
from daemon.watching.threads import in_thread
from handlers.errors import Evidence

log = structlog.get_logger()

STUCK_S = 10.0
"""A look that takes longer is left to itself; its watch is looked at again once it has ended."""

Awaited = tuple[int, Evidence]
"""A montage and the file that has to change."""


class SecondLook:
    """Looks from time to time at the files that FAILED montages wait for.

    Parameters
    ----------
    is_observable : whether a watch's directory can be looked at now; its montages are left alone while it cannot.
    take_up : puts a montage in line.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        journal: Journal,
        *,
        is_observable: Callable[[str], bool],
        take_up: Callable[[Montage], Awaitable[object]],
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._is_observable = is_observable
        self._take_up = take_up
        self._looks: dict[str, asyncio.Future[list[Awaited]]] = {}

    async def run(self) -> None:
        """Looks as often as the most impatient watch is scanned, for as long as the daemon runs."""
        while True:
            await asyncio.sleep(min(watch.scan_interval_s for watch in self._settings().watch))
            try:
                await self.look()
            except Exception:  # it would end the daemon
                log.exception("second_look.bug")

    async def look(self) -> int:
        """How many montages were taken up again."""
        by_watch: dict[str, list[Awaited]] = defaultdict(list)
        for montage_id, watch, evidence in await self._journal.awaited():
            by_watch[watch].append((montage_id, evidence))
        for watch, awaited in by_watch.items():
            if watch not in self._looks and self._is_observable(watch):
                self._looks[watch] = in_thread(partial(_changed, awaited), f"second look {watch}")
        if self._looks:
            await asyncio.wait(self._looks.values(), timeout=STUCK_S)
        ended = [watch for watch, look in self._looks.items() if look.done()]
        changed = [each for watch in ended for each in self._found(watch)]
        return sum([await self._retry(montage_id, evidence) for montage_id, evidence in changed])

    def _found(self, watch: str) -> list[Awaited]:
        look = self._looks.pop(watch)
        if error := look.exception():  # it would end the daemon
            log.error("second_look.bug", watch=watch, exc_info=error)
            return []
        return look.result()

    async def _retry(self, montage_id: int, evidence: Evidence) -> bool:
        how = "is there now" if evidence.identity is None else "has changed"
        try:
            montage = await self._journal.retry(montage_id, f"{evidence.path} {how}")
            if montage is None:
                return False  # somebody replayed it, or it was superseded or noticed anew, meanwhile
            log.info("montage.retried", montage=montage_id, because=f"{evidence.path} {how}")
            await self._take_up(montage)
        except Exception:  # it would end the daemon
            log.exception("second_look.bug", montage=montage_id)
            return False
        return True


def _changed(awaited: Sequence[Awaited]) -> list[Awaited]:
    now: dict[object, Evidence] = {}  # thousands of montages may wait for one z table
    for _, evidence in awaited:
        if evidence.path not in now:
            now[evidence.path] = Evidence.of(evidence.path)
    return [(montage_id, evidence) for montage_id, evidence in awaited if evidence.has_changed(now[evidence.path])]
