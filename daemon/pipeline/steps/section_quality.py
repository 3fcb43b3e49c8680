"""Pack the quality numbers of a section whose mipmaps are made, for the journal."""

import asyncio
from collections.abc import Mapping

from daemon.journal.journal import Journal
from daemon.journal.tables.quality import TileRow
from daemon.pipeline.steps.section import Section
from handlers.mipmaps.measure import Measured
from handlers.quality.from_metafile import quality_of
from handlers.quality.measured import MadeTile, level_digests, measured_columns, repeats
from handlers.quality.neighbours import stage_columns
from handlers.quality.packing import Quality, pack, unpack


async def packed_numbers(section: Section, journal: Journal) -> bytes:
    """Return the packed numbers of a section whose tiles are all recorded as made."""
    rows, former = await journal.made_tiles(section.montage.id)
    return await asyncio.to_thread(lambda: pack(_quality(section, rows, unpack(former) if former else None)))


def _quality(section: Section, rows: Mapping[str, TileRow], former: Quality | None) -> Quality:
    ids, levels = tuple(str(spec["tileId"]) for spec in section.specs), section.watch.mipmaps.levels
    made = {tile_id: MadeTile(row.digest, _measured(row)) for tile_id in ids if (row := rows.get(tile_id)) is not None}
    stated = quality_of(section.acquisition, ids)
    numbers = stated.tiles.replaced(measured_columns(ids, made, former))
    measured = {tile_id: tile.measured for tile_id, tile in made.items() if tile.measured is not None}
    compared = former.tiles.columns if former and former.tiles.tile_ids == ids else {}
    stage = stage_columns(section.acquisition.tiles, ids, measured, compared)
    numbers = numbers.replaced({"repeat_of": repeats(numbers, made), **stage})
    return Quality(numbers, stated.section, levels, level_digests(made, former, levels))


def _measured(row: TileRow) -> Measured | None:
    return None if row.measured is None else Measured.from_bytes(row.measured)
