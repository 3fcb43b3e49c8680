"""Tile ids of montages."""

import zlib
from collections.abc import Sequence

from daemon.journal.tables.rows import Connection
from daemon.montages.records import Montage

# A montage's predecessors: former contents of its path, and of paths that its metafile moved from.
_PREDECESSORS = (
    "WITH RECURSIVE former(id) AS (SELECT id FROM montages WHERE superseded_by = :id"
    " UNION SELECT montages.id FROM montages JOIN former ON superseded_by = former.id)"
)
# Tiles that a montage's predecessors had put into a stack.
_FORMER = (
    f"{_PREDECESSORS} SELECT tile_ids FROM tile_sets JOIN former ON montage_id = former.id"  # noqa: S608  constant text
    " JOIN montages ON montages.id = former.id"
    " WHERE :stack IN (raw_stack, mipmapped_stack)"
)
# Whether an upload of a predecessor may have had no response: it failed, was stopped, or the daemon died meanwhile.
_MAY_BE_OVERWRITTEN = (
    f"{_PREDECESSORS} SELECT EXISTS (SELECT 1 FROM attempts JOIN former ON montage_id = former.id"  # noqa: S608
    " WHERE step IN ('ingest', 'apply') AND outcome IS NOT 'done')"
)
# Tiles of every montage of a stack that is not superseded.
_OWNED = (
    "SELECT tile_ids FROM tile_sets JOIN montages ON montage_id = id"
    " WHERE state <> 'superseded' AND :stack IN (raw_stack, mipmapped_stack)"
)


def store_tile_ids(connection: Connection, montage_id: int, tile_ids: Sequence[str]) -> None:
    """Store or replace the tile ids of a montage."""
    packed = zlib.compress("\n".join(tile_ids).encode())
    connection.execute(
        "INSERT OR REPLACE INTO tile_sets (montage_id, tile_ids, first_id, last_id) VALUES (?, ?, ?, ?)",
        (montage_id, packed, min(tile_ids, default=""), max(tile_ids, default="")),
    )


def unpack_tile_ids(packed: bytes) -> list[str]:
    """Return the tile ids of a packed column."""
    return zlib.decompress(packed).decode().split("\n")


def _select(connection: Connection, query: str, values: dict[str, object]) -> frozenset[str]:
    return frozenset(tile_id for (packed,) in connection.execute(query, values) for tile_id in unpack_tile_ids(packed))


def tile_ids(connection: Connection, montage_id: int) -> frozenset[str]:
    """Return the tile ids of a montage."""
    return _select(connection, "SELECT tile_ids FROM tile_sets WHERE montage_id = :id", {"id": montage_id})


def put_by_predecessors(connection: Connection, montage: Montage, stack: str) -> frozenset[str]:
    """Return the ids that a montage's predecessors had put into a stack."""
    return _select(connection, _FORMER, {"id": montage.id, "stack": stack})


def former_tile_ids(connection: Connection, montage: Montage, stack: str) -> frozenset[str]:
    """Return the ids that a montage's predecessors had put into a stack and that the montage does not have."""
    return put_by_predecessors(connection, montage, stack) - tile_ids(connection, montage.id)


def unwanted_tile_ids(connection: Connection, montage: Montage, stack: str) -> frozenset[str]:
    """Return the `former_tile_ids` that belong to no montage of the stack, except superseded ones."""
    former = former_tile_ids(connection, montage, stack)
    # Most montages have no former tiles. Then the tile ids of all other montages need not be unpacked.
    return former - _select(connection, _OWNED, {"stack": stack}) if former else former


def may_be_overwritten(connection: Connection, montage_id: int) -> bool:
    """Whether render-ws may still process an upload of a predecessor, which would replace the montage's tiles."""
    return bool(connection.execute(_MAY_BE_OVERWRITTEN, {"id": montage_id}).fetchone()[0])
