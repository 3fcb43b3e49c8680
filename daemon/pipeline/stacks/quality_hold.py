"""Determine the stacks that stay open because a montage that failed quality control waits for a person."""

from collections.abc import Callable

from daemon.config.settings import Settings
from daemon.journal.journal import Journal
from daemon.montages.records import Montage
from daemon.montages.verdicts import HOLDING
from handlers.render.names import StackId


class QualityHold:
    """Reads the journal and the present settings, so that a restart or a reload loses no hold."""

    def __init__(self, settings: Callable[[], Settings], journal: Journal) -> None:
        self._settings = settings
        self._journal = journal

    async def stacks(self) -> frozenset[StackId]:
        """Return the stacks that must not be closed now."""
        watches = self._holding_watches()
        if not watches:
            return frozenset()
        found = await self._journal.holding()
        return frozenset(StackId.parse(name) for watch, stacks in found if watch in watches for name in stacks)

    def holds(self, montage: Montage) -> bool:
        """Whether the montage must not become COMPLETE now."""
        return montage.verdict in HOLDING and montage.watch in self._holding_watches()

    def _holding_watches(self) -> frozenset[str]:
        return frozenset(watch.name for watch in self._settings().watch if watch.qc.hold)
