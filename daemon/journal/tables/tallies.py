"""Count finished tiles by minute."""

from daemon.journal.tables.rows import Connection

MINUTES_KEPT = 24 * 60
"""Minutes with a row of their own. Older minutes are summed in the row of minute 0."""

_ADD = (
    "UPDATE tiles_made SET tiles = tiles + :tiles WHERE minute = :minute"
    " AND (watch, scope) = (SELECT watch, coalesce(scope, '') FROM montages WHERE id = :id)"
)
_BEGIN = (
    "INSERT INTO tiles_made (minute, watch, scope, tiles)"
    " SELECT :minute, watch, coalesce(scope, ''), :tiles FROM montages WHERE id = :id"
)
_FOLD = (
    "INSERT INTO tiles_made (minute, watch, scope, tiles)"
    " SELECT 0, watch, scope, sum(tiles) FROM tiles_made WHERE minute > 0 AND minute < ? GROUP BY watch, scope"
    " ON CONFLICT DO UPDATE SET tiles = tiles + excluded.tiles"
)
_SINCE = "SELECT watch, scope, sum(tiles) FROM tiles_made WHERE minute >= ? GROUP BY watch, scope"


def count_tiles(connection: Connection, montage_id: int, tiles: int, now: float) -> None:
    """Add tiles of a montage to the present minute.

    Parameters
    ----------
    now : seconds since 1970 UTC.
    """
    minute = int(now // 60)
    values = {"minute": minute, "tiles": tiles, "id": montage_id}
    if connection.execute(_ADD, values).rowcount:
        return
    connection.execute(_BEGIN, values)
    oldest = minute - MINUTES_KEPT
    if connection.execute("SELECT 1 FROM tiles_made WHERE minute > 0 AND minute < ?", (oldest,)).fetchone():
        connection.execute(_FOLD, (oldest,))
        connection.execute("DELETE FROM tiles_made WHERE minute > 0 AND minute < ?", (oldest,))


def tiles_since(connection: Connection, minute: int) -> dict[tuple[str, str], int]:
    """Return the number of tiles made since a minute, by watch and scope.

    Parameters
    ----------
    minute : minutes since 1970 UTC; 0 counts all tiles ever made.
    """
    return {(watch, scope): tiles for watch, scope, tiles in connection.execute(_SINCE, (minute,))}
