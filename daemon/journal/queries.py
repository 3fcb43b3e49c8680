"""Queries of the journal, each in one read transaction."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from daemon.journal.ages import Ages
from daemon.journal.connection import JournalConnection
from daemon.journal.file import Examination
from daemon.journal.tables import duplicates, images_read, quality, retries, rows, tile_sets, verdicts
from daemon.montages.records import AwaitedFile, Montage
from daemon.montages.states import MontageState
from daemon.montages.verdicts import WAITS_FOR_PERSON, MontageVerdict
from handlers.images.digest import FileContent
from handlers.place import Place
from handlers.uris import place_uri

Clock = Callable[[], float]

# Without the + SQLite would scan all rows in the order of their ids.
# A montage that waits for a person does not count as backlog.
_FIRST_UNFINISHED = (
    f"SELECT min(+id) FROM montages WHERE state IN ({rows.UNFINISHED_STATES})"  # noqa: S608  constant
    f" AND waiting_for IS NOT '{WAITS_FOR_PERSON}'"
)
_OLDEST_UNFINISHED = f"SELECT id, noticed_at FROM montages WHERE id = ({_FIRST_UNFINISHED})"  # noqa: S608  constant text
_HAS_PUT_NOTHING = (
    "SELECT NOT EXISTS (SELECT 1 FROM events WHERE montage_id = :id"
    " AND event NOT IN ('noticed', 'renoticed', 'settled')) AND NOT EXISTS (SELECT 1 FROM attempts"
    " WHERE montage_id = :id AND step = 'ingest' AND ended_at IS NOT NULL)"
)


class JournalQueries(JournalConnection):
    """The journal's queries. Parameters and exceptions: see `Journal`."""

    def __init__(
        self,
        path: Path,
        clock: Clock = time.time,
        *,
        steady: Clock = time.monotonic,
        read_only: bool = False,
        examination: Examination | None = None,
    ) -> None:
        super().__init__(path, read_only=read_only, examination=examination)
        self._clock = clock
        self._ages = Ages(clock, steady)

    # --- montages

    async def montage(self, montage_id: int) -> Montage | None:
        """Return the montage with this id; None if there is none."""
        return await self.read(lambda connection: rows.find(connection, rows.BY_ID, (montage_id,)))

    async def montages(
        self,
        *,
        states: Iterable[MontageState] | None = None,
        z: float | None = None,
        stack: str | None = None,
        ids: Iterable[int] | None = None,
        metafile: Path | None = None,
        below: Path | None = None,
        limit: int = 1000,
        newest_first: bool = False,
    ) -> list[Montage]:
        """Return the montages that match all given conditions, in order of acquisition or newest first.

        Parameters
        ----------
        metafile : path of one metafile.
        below : directory that contains the metafiles, at any depth.
        """
        where = rows.Where(states, z, stack, ids, metafile, below)
        return await self.read(lambda connection: rows.select(connection, where, limit=limit, newest=newest_first))

    async def unfinished(self) -> list[tuple[int, str, MontageState, str]]:
        """Return (id, acquired, state, watch) of every unfinished montage."""
        return await self.read(rows.unfinished)

    async def awaited(self) -> list[AwaitedFile]:
        """Return every montage that is FAILED or IGNORED because of a file, with that file."""
        return await self.read(retries.awaited)

    async def former_paths(self, montage: Montage) -> list[Montage]:
        """Return the oldest montages, not SUPERSEDED, of other paths with the content or the file of a montage."""
        return await self.read(lambda connection: duplicates.oldest(connection, montage))

    async def later_paths(self, montage: Montage) -> list[Montage]:
        """Return the newest montages, not SUPERSEDED, of other paths with the content or the file of a montage."""
        return await self.read(lambda connection: duplicates.newest(connection, montage))

    async def events(self, montage_id: int) -> list[dict[str, Any]]:
        """Return the events of a montage in order."""
        return await self.read(lambda connection: rows.events(connection, montage_id))

    async def attempts(self, montage_id: int) -> list[dict[str, Any]]:
        """Return the attempts of a montage in order."""
        return await self.read(lambda connection: rows.attempts(connection, montage_id))

    # --- verdicts

    async def verdict(self, montage_id: int) -> MontageVerdict | None:
        """Return the verdict on a montage; None if neither the rules nor a person have given one."""
        return await self.read(lambda connection: verdicts.verdict_of(connection, montage_id))

    async def evidence(self, montage: Montage) -> verdicts.QualityEvidence:
        """Return what a montage is judged by, and its present verdict."""
        return await self.read(lambda connection: verdicts.evidence(connection, montage))

    async def holding(self) -> list[tuple[str, tuple[str, ...]]]:
        """Return watch and stacks of each montage whose verdict holds them open if its watch has `hold = true`."""
        return await self.read(verdicts.holding)

    # --- numbers

    async def counts(self) -> dict[tuple[str, MontageState], int]:
        """Return the number of montages by watch and state."""
        query = "SELECT watch, state, count(*) FROM montages GROUP BY watch, state"
        return await self.read(
            lambda connection: {
                (watch, MontageState(state)): count for watch, state, count in connection.execute(query)
            }
        )

    async def known_metafiles(self) -> dict[str, int]:
        """Return the number of metafiles in the journal by watch."""
        return await self.read(known_metafiles)

    async def oldest_unfinished_s(self) -> float | None:
        """Return the age of the oldest unfinished montage, seconds; None if all are finished or wait for a person."""
        oldest = await self.read(lambda connection: connection.execute(_OLDEST_UNFINISHED).fetchone())
        return None if oldest is None else self._ages.seconds(*oldest)

    def age_s(self, montage: Montage) -> float:
        """Return the seconds since the montage was noticed."""
        return self._ages.seconds(montage.id, montage.noticed_at)

    # --- tiles, images, stacks

    async def tiles_made(self, montage_id: int) -> frozenset[str]:
        """Return the ids of the tiles whose mipmaps are recorded as made; empty once the montage is MIPMAPPED."""
        query = "SELECT tile_id FROM tiles WHERE montage_id = ?"
        return await self.read(lambda connection: frozenset(row[0] for row in connection.execute(query, (montage_id,))))

    async def images_read(self, montage_id: int) -> dict[str, FileContent]:
        """Return identity and digest of each tile's image as it was read, by tile id; empty before MIPMAPPED."""
        return await self.read(lambda connection: images_read.contents_of(connection, montage_id))

    async def made_tiles(self, montage_id: int) -> quality.MadeTiles:
        """Return the tiles that are recorded as made, and the numbers that theirs replace."""
        return await self.read(lambda connection: quality.made_tiles(connection, montage_id))

    async def quality_numbers(self, montage_id: int) -> bytes | None:
        """Return the packed quality numbers of a montage; None if it has none, or they are being made again."""
        return await self.read(lambda connection: quality.numbers_of(connection, montage_id))

    async def watched_images(self) -> list[tuple[int, str, float]]:
        """Return (id, watch, completion time) of every montage whose images are still rechecked."""
        return await self.read(images_read.watched)

    async def tile_ids(self, montage_id: int) -> frozenset[str]:
        """Return the ids of a montage's tiles."""
        return await self.read(lambda connection: tile_sets.tile_ids(connection, montage_id))

    async def former_tile_ids(self, montage: Montage, stack: str) -> frozenset[str]:
        """Return the ids of tiles that superseded montages had put into a stack and that this montage does not have.

        These montages are former contents of its path, and of the paths that its metafile was moved from.
        """
        return await self.read(lambda connection: tile_sets.former_tile_ids(connection, montage, stack))

    async def unwanted_tile_ids(self, montage: Montage, stack: str) -> frozenset[str]:
        """Return the `former_tile_ids` that belong to no montage of the stack except SUPERSEDED ones."""
        return await self.read(lambda connection: tile_sets.unwanted_tile_ids(connection, montage, stack))

    async def may_be_overwritten(self, montage_id: int) -> bool:
        """Whether an upload of a superseded content had no response: its tiles may still arrive in the stack."""
        return await self.read(lambda connection: tile_sets.may_be_overwritten(connection, montage_id))

    async def known_before_first_put(self, montage: Montage, stack: str) -> frozenset[str] | None:
        """Return the ids that this daemon put for predecessors; None if it may have put tiles of the montage itself."""

        def query(connection: rows.Connection) -> frozenset[str] | None:
            has_put_nothing = connection.execute(_HAS_PUT_NOTHING, {"id": montage.id}).fetchone()[0]
            return tile_sets.put_by_predecessors(connection, montage, stack) if has_put_nothing else None

        return await self.read(query)

    async def open_stacks(self) -> list[tuple[str, str]]:
        """Return each stack that was opened and not closed since, with the watch for which it was opened."""
        query = "SELECT stack, watch FROM open_stacks ORDER BY stack"
        return await self.read(lambda connection: connection.execute(query).fetchall())

    async def is_used_for_mipmaps(self, directory: Place) -> bool:
        """Whether mipmaps were ever written to a directory."""
        return place_uri(directory) in await self.read(mipmap_directories)


def known_metafiles(connection: rows.Connection) -> dict[str, int]:
    """Return the number of metafiles in the journal by watch."""
    return dict(connection.execute("SELECT watch, count(DISTINCT metafile) FROM montages GROUP BY watch"))


def mipmap_directories(connection: rows.Connection) -> frozenset[str]:
    """Return the URIs of the directories and stores to which mipmaps were ever written."""
    return frozenset(uri for (uri,) in connection.execute("SELECT directory FROM mipmap_directories"))
