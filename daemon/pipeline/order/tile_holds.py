"""Tile holds: serialize steps that put or delete the same tiles of a stack.

An upload of a superseded montage's tiles may still run when its successor begins to write them.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from handlers.render.names import StackId


@dataclass(frozen=True, eq=False, slots=True)
class _Hold:
    stack: StackId
    puts: frozenset[str]
    deletes: frozenset[str]

    def excludes(self, other: "_Hold") -> bool:
        if self.stack != other.stack:
            return False
        return not (self.puts.isdisjoint(other.puts | other.deletes) and self.deletes.isdisjoint(other.puts))


class TileHolds:
    """Serializes steps that write the same tiles; all others write concurrently."""

    def __init__(self) -> None:
        self._holds: set[_Hold] = set()
        self._released = asyncio.Event()

    @contextlib.asynccontextmanager
    async def hold(self, stack: StackId, puts: frozenset[str], deletes: frozenset[str]) -> AsyncIterator[None]:
        """Hold tiles of a stack. A waiting step holds nothing, so no two steps wait for each other."""
        wanted = _Hold(stack, puts, deletes)
        while any(wanted.excludes(each) for each in self._holds):
            await self._released.wait()
        self._holds.add(wanted)
        try:
            yield
        finally:
            self._holds.discard(wanted)
            self._released.set()
            self._released = asyncio.Event()
