"""Stacks that this daemon opened and has to close. The journal keeps them over restarts."""

from collections.abc import Collection

from daemon.journal.journal import Journal
from daemon.montages.records import Montage
from handlers.render.names import StackId


class OpenedStacks:
    """The opened stacks, in memory and in the journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._stacks: dict[StackId, str] = {}
        """Stack -> watch for which it was opened."""

    def __contains__(self, stack: StackId) -> bool:
        return stack in self._stacks

    async def load(self) -> list[tuple[StackId, str]]:
        """Load and return the stacks that a former process left open, each with the watch for which it was opened."""
        opened = [(StackId.parse(name), watch) for name, watch in await self._journal.open_stacks()]
        self._stacks.update(opened)
        return opened

    async def add(self, stack: StackId, watch: str) -> None:
        """Record a stack before it is opened."""
        if stack not in self._stacks:
            await self._journal.open_stack(str(stack), watch)
            self._stacks[stack] = watch

    async def reopen(self, stack: StackId, watch: str) -> None:
        """Record that a stack is reopened because another program closed it."""
        await self._journal.reopen_stack(str(stack), watch, "another program closed it while tiles were written")

    async def close(self, stack: StackId, montages: Collection[Montage]) -> None:
        """Record that a stack was closed for montages."""
        watch = self._stacks.get(stack) or next((montage.watch for montage in montages), "")
        zs = [montage.z for montage in montages if montage.z is not None]
        await self._journal.close_stack(str(stack), watch, zs)
        self._stacks.pop(stack, None)

    async def discard(self, stack: StackId) -> None:
        """Record that this daemon cannot close a stack."""
        await self._journal.forget_stack(str(stack))
        self._stacks.pop(stack, None)
