"""Actions on render-ws and on the disk of the mipmaps: failures, outages, locks and deletions by other programs."""

import asyncio
from typing import Any

from daemon.simulator.standin.faults import Fault, FaultKind
from daemon.simulator.standin.store import Stack, State
from tests.simulation.actions import Action
from tests.simulation.substitutes import Machine
from tests.simulation.transport import Network


class RenderActions:
    """Part of a scenario: one method for each kind of action."""

    network: Network
    machine: Machine
    standin: Any
    stack_names: tuple[str, ...]
    lost_by_others: set[tuple[str, str]]
    _locked: set[str]

    async def _ask_render(self, method: str, stack: str, path: str) -> None:
        raise NotImplementedError

    def stack(self, name: str) -> Stack | None:
        raise NotImplementedError

    async def _fail_requests(self, action: Action) -> None:
        how, _, match = action.how.partition(" ")
        kind, status = (FaultKind.STATUS, int(how)) if how.isdigit() else (FaultKind(how), 503)
        fault = Fault(match=match, kind=kind, status=status, seconds=action.seconds, times=action.number or None)  # type: ignore[arg-type]
        self.standin._misbehaviour.add(fault)
        await asyncio.sleep(action.seconds)
        faults, seen = self.standin._misbehaviour._faults, self.standin._misbehaviour._seen
        if fault in faults:
            index = next(index for index, each in enumerate(faults) if each is fault)
            del faults[index], seen[index]

    async def _go_down(self, action: Action) -> None:
        self.network.go_down()
        await asyncio.sleep(action.seconds)
        self.network.come_back()

    def _stack_name(self, action: Action) -> str:
        return self.stack_names[action.number % len(self.stack_names)]

    async def _lock(self, action: Action) -> None:
        name = self._stack_name(action)
        await self._ask_render("PUT", name, "/state/COMPLETE")
        await self._ask_render("PUT", name, "/state/READ_ONLY")
        stack = self.stack(name)
        if stack is None or stack.state is not State.READ_ONLY:
            return
        self._locked.add(name)
        if action.seconds:
            await asyncio.sleep(action.seconds)
            if name in self._locked:
                self._locked.discard(name)
                await self._ask_render("PUT", name, "/state/COMPLETE")

    async def _close(self, action: Action) -> None:
        await self._ask_render("PUT", self._stack_name(action), "/state/COMPLETE")

    async def _delete_tile(self, action: Action) -> None:
        name = self._stack_name(action)
        stack = self.stack(name)
        if stack is None or not stack.tiles:
            return
        tile_id = sorted(stack.tiles)[action.slot % len(stack.tiles)]
        await self._ask_render("DELETE", name, f"/tile/{tile_id}")
        if tile_id not in stack.tiles:
            self._note_losses(name, {tile_id})

    async def _delete_stack(self, action: Action) -> None:
        name = self._stack_name(action)
        stack = self.stack(name)
        tiles = set(stack.tiles) if stack else set()
        await self._ask_render("DELETE", name, "")
        if self.stack(name) is not stack:
            self._note_losses(name, tiles)

    def _note_losses(self, stack: str, tile_ids: set[str]) -> None:
        self.lost_by_others |= {(stack, tile_id) for tile_id in tile_ids}

    async def _fill_disk(self, action: Action) -> None:
        self.machine.disk_is_full = True
        await asyncio.sleep(action.seconds)
        self.machine.disk_is_full = False
