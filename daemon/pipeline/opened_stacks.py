"""Stacks that this daemon opened and still has to close; the journal keeps them across restarts."""

from daemon.journal.journal import Journal
from handlers.render.names import StackId


class OpenedStacks:
    """The opened stacks, in memory and in the journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._stacks: set[StackId] = set()

    def __contains__(self, stack: StackId) -> bool:
        return stack in self._stacks

    async def load(self) -> list[tuple[StackId, str]]:
        """Read the stacks that a former process left open; each with the watch that it was opened for."""
        opened = [(StackId.parse(name), watch) for name, watch in await self._journal.open_stacks()]
        self._stacks.update(stack for stack, _ in opened)
        return opened

    async def add(self, stack: StackId, watch: str) -> None:
        """Record a stack before it is opened."""
        if stack not in self._stacks:
            await self._journal.open_stack(str(stack), watch)
            self._stacks.add(stack)

    async def discard(self, stack: StackId) -> None:
        """Record that a stack is closed, or that this daemon cannot close it."""
        await self._journal.close_stack(str(stack))
        self._stacks.discard(stack)
