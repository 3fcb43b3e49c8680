"""Quality numbers of a montage, stored as opaque blocks."""

from typing import NamedTuple

from daemon.journal.tables.rows import Connection


class TileRow(NamedTuple):
    """A tile whose mipmaps are made, of a montage that is not MIPMAPPED yet."""

    digest: bytes | None
    """Digest of the bytes of level 0; None if they were not read."""
    measured: bytes | None
    """Numbers of the image, packed; None if it was not measured."""


class MadeTiles(NamedTuple):
    """The tiles of a montage that are recorded as made; none once it is MIPMAPPED."""

    rows: dict[str, TileRow]
    """By tile id, oldest first."""
    former: bytes | None
    """Packed numbers of the montage before some of its tiles were made again; None if there are none."""


def made_tiles(connection: Connection, montage_id: int) -> MadeTiles:
    """Return the tiles that are recorded as made, and the numbers that theirs replace."""
    query = "SELECT tile_id, digest, measured FROM tiles WHERE montage_id = ? ORDER BY made_at"
    rows = {tile_id: TileRow(*row) for tile_id, *row in connection.execute(query, (montage_id,))}
    return MadeTiles(rows, numbers_of(connection, montage_id, former=True))


def store(connection: Connection, montage_id: int, numbers: bytes | None) -> None:
    """Store or replace the packed numbers of a montage; None deletes them."""
    if numbers is None:
        connection.execute("DELETE FROM quality WHERE montage_id = ?", (montage_id,))
    else:
        connection.execute("INSERT OR REPLACE INTO quality VALUES (?, ?, 1)", (montage_id, numbers))


def numbers_of(connection: Connection, montage_id: int, *, former: bool = False) -> bytes | None:
    """Return the packed numbers of a montage; None if it has none, or if they are being made again.

    Parameters
    ----------
    former : whether numbers that are being made again are returned, too.
    """
    query = "SELECT numbers FROM quality WHERE montage_id = ? AND is_current >= ?"
    row = connection.execute(query, (montage_id, 0 if former else 1)).fetchone()
    return row[0] if row else None
