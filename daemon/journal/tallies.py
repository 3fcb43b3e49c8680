"""Tiles made, counted by minute. Functions of the connection, as in `rows`."""

from daemon.journal.rows import Connection

MINUTES_KEPT = 24 * 60
"""Older minutes are added together."""

_ADD = (
    "INSERT INTO tiles_made (minute, watch, scope, tiles)"
    " SELECT ?, watch, coalesce(scope, ''), ? FROM montages WHERE id = ?"
    " ON CONFLICT DO UPDATE SET tiles = tiles + excluded.tiles"
)
_FOLD = (
    "INSERT INTO tiles_made (minute, watch, scope, tiles)"
    " SELECT 0, watch, scope, sum(tiles) FROM tiles_made WHERE minute > 0 AND minute < ? GROUP BY watch, scope"
    " ON CONFLICT DO UPDATE SET tiles = tiles + excluded.tiles"
)
_SINCE = "SELECT watch, scope, sum(tiles) FROM tiles_made WHERE minute >= ? GROUP BY watch, scope"


def count_tiles(connection: Connection, montage_id: int, tiles: int, now: float) -> None:
    """Count tiles of a montage as made in this minute."""
    minute = int(now // 60)
    connection.execute(_ADD, (minute, tiles, montage_id))
    oldest = minute - MINUTES_KEPT
    if connection.execute("SELECT 1 FROM tiles_made WHERE minute > 0 AND minute < ?", (oldest,)).fetchone():
        connection.execute(_FOLD, (oldest,))
        connection.execute("DELETE FROM tiles_made WHERE minute > 0 AND minute < ?", (oldest,))


def tiles_since(connection: Connection, minute: int) -> dict[tuple[str, str], int]:
    """Return the tiles made since a minute by watch and scope; 0 means all that were ever made."""
    return {(watch, scope): tiles for watch, scope, tiles in connection.execute(_SINCE, (minute,))}
