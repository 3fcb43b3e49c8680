"""Detect late uploads: tiles of a superseded content that reach a stack after those of its successor.

render-ws continues an upload whose client is gone, and may put the old tiles after the new ones were read back. So a
montage whose predecessor left such an upload is put again before it is applied. All its tiles are compared when its
stacks are closed, and later as long as its images are checked. The reasons are in docs/decisions/tile-ownership.md.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import structlog

from daemon.journal.journal import Journal
from daemon.montages.records import Montage
from daemon.montages.states import Event, IllegalTransition
from daemon.pipeline.steps.section import Section
from handlers.errors import Fault, MetafileFault, ReadBackDiffers, StorageFault
from handlers.render.client import RenderClient
from handlers.render.names import StackId, format_z
from handlers.render.read_back import tiles_by_id
from handlers.render.tiles import Json, differences
from handlers.text import abbreviate

log = structlog.get_logger()

HINT = "an upload of its former content was late; the tiles are uploaded again"
MAX_RESETS = 5
"""Number of times that a process resets a COMPLETE montage, since another program may repeat its upload forever."""


class LateUploads:
    """Compares the tiles of montages that may have been overwritten.

    Parameters
    ----------
    section : returns a montage with its metafile, None without a watch; raises MetafileFault or StorageFault.
    """

    def __init__(
        self, journal: Journal, client: RenderClient, section: Callable[[Montage], Awaitable[Section | None]]
    ) -> None:
        self._journal = journal
        self._client = client
        self._section = section
        self._times: Counter[int] = Counter()

    async def reset_if_overwritten(self, montage: Montage) -> Montage | None:
        """Reset a COMPLETE montage to MIPMAPPED if a stack has tiles of its former content; return it, otherwise None.

        Most montages have no predecessor and need no request.

        Raises
        ------
        RenderFault
            If a stack cannot be read.
        """
        if self._times[montage.id] >= MAX_RESETS:
            return None
        for name in montage.stacks:
            if fault := await self.fault_of(montage, StackId.parse(name)):
                break
        else:
            return None
        with contextlib.suppress(IllegalTransition):  # superseded or replayed meanwhile
            because = f"{fault.subject}: {fault.problem}"
            following = await self._journal.record(montage.id, Event.TILES_LOST, because=because)
            self._times[montage.id] += 1
            path = str(montage.metafile)
            log.warning("tiles.overwritten", montage=montage.id, z=montage.z, fault=str(fault), metafile=path)
            return following
        return None

    async def fault_of(self, montage: Montage, stack: StackId) -> Fault | None:
        """Return a fault if the stack has tiles of a former content of the montage, otherwise None.

        Most montages have no predecessor and need no request.

        Raises
        ------
        RenderFault
            If the stack cannot be read.
        """
        if not await self._journal.may_be_overwritten(montage.id):
            return None
        try:
            section = await self._section(montage)
        except (MetafileFault, StorageFault) as fault:
            log.warning("tiles.not_compared", montage=montage.id, stack=str(stack), fault=str(fault))
            return None
        if section is None:
            return None
        shown = await self._client.resolved_tiles(stack, section.z)
        tiles = {} if shown is None else await asyncio.to_thread(tiles_by_id, shown)
        unwanted = await self._journal.unwanted_tile_ids(montage, str(stack))
        found = await asyncio.to_thread(_differences, section.specs, tiles, unwanted)
        if not found:
            return None
        return ReadBackDiffers(
            f"{stack} z {format_z(section.z)}", f"has other tiles than {montage.metafile.name}: {found}", HINT
        )


def _differences(specs: Collection[Json], tiles: dict[str, dict[str, Any]], unwanted: Collection[str]) -> str:
    """Return which tiles are unwanted or differ from the specs, without their mipmaps; empty if none."""
    lines = [line for spec in specs for line in _differences_of(spec, tiles.get(spec["tileId"]))]
    lines += [f"tile '{tile_id}' is of a former content" for tile_id in sorted(tiles.keys() & set(unwanted))]
    return abbreviate(lines, 5, "; ") if lines else ""


def _differences_of(spec: Json, shown: Json | None) -> list[str]:
    name = f"tile '{spec['tileId']}'"
    if shown is None:
        return [f"{name} is missing"]
    return list(differences(_without_mipmaps(spec), _without_mipmaps(shown), name))


def _without_mipmaps(spec: Json) -> dict[str, Any]:
    levels = spec.get("mipmapLevels") or {}
    return {**spec, "mipmapLevels": {"0": levels.get("0")}}
