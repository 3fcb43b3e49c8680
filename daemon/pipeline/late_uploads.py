"""Late uploads: tiles of a superseded content that reach a stack after the content that replaced them.

render-ws continues an upload whose client is gone. It may put the old tiles after the new ones were read back. A
montage whose predecessor left such an upload is therefore put once more before it is applied, and compared whole when
its stacks are closed, and again after that as long as its images are checked. docs/decisions/tile-ownership.md gives
the reasons.
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
from daemon.pipeline.section import Section
from handlers.errors import Fault, MetafileFault, ReadBackDiffers, StorageFault
from handlers.render.client import RenderClient
from handlers.render.names import StackId, format_z
from handlers.render.read_back import tiles_by_id
from handlers.render.tiles import Json, differences
from handlers.text import abbreviate

log = structlog.get_logger()

HINT = "an upload of its former content was late; the tiles are uploaded again"
MOST_TIMES = 5
"""Times that a process puts the tiles of a COMPLETE montage again: another program may put others for ever."""


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

    async def set_back(self, montage: Montage) -> Montage | None:
        """Return a COMPLETE montage after it was set back to MIPMAPPED: a stack shows tiles of a former content of it.

        None for most, without a request.

        Raises
        ------
        RenderFault
            If a stack cannot be read.
        """
        if self._times[montage.id] >= MOST_TIMES:
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
        """Return a fault if the stack shows tiles of a former content of the montage; None for most without a request.

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
            f"{stack} z {format_z(section.z)}", f"shows other tiles than {montage.metafile.name}: {found}", HINT
        )


def _differences(specs: Collection[Json], tiles: dict[str, dict[str, Any]], unwanted: Collection[str]) -> str:
    """Return which tiles differ from the specs in anything but their mipmaps, or are unwanted; empty if none."""
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
