"""Which tiles montages hold: a tile belongs to one montage of a stack. Functions of the connection, as in `rows`."""

import zlib
from collections.abc import Sequence

from daemon.journal.rows import COLUMNS, Connection, montage_of
from daemon.montages.records import Montage, Rival, Settled
from daemon.montages.states import HAS_SETTLED
from handlers.identity import FileIdentity
from handlers.uris import path_to_uri

_SETTLED_STATES = ", ".join(f"'{state}'" for state in sorted(HAS_SETTLED))
# Montages of other metafiles that put tiles into one of two stacks at a z, or did before they failed; tile ids last.
_HOLDERS = (
    f"SELECT {COLUMNS}, tile_ids FROM montages JOIN tile_sets ON montage_id = id"  # noqa: S608  constant text
    f" WHERE z = :z AND metafile <> :metafile AND coalesce(failed_in, state) IN ({_SETTLED_STATES})"
    " AND (raw_stack IN (:raw, :mipmapped) OR mipmapped_stack IN (:raw, :mipmapped))"
    " AND (first_id IS NULL OR (first_id <= :last AND last_id >= :first)) ORDER BY id"
)
# Montages of other metafiles that hold a content, or whose file is the one with this size, mtime and inode.
_ALIKE = (
    f"SELECT {COLUMNS} FROM montages WHERE metafile <> :metafile AND state <> 'superseded' AND id IN ("  # noqa: S608
    "SELECT id FROM montages WHERE digest = :digest UNION SELECT id FROM montages WHERE seen_digest = :digest"
    " UNION SELECT id FROM montages WHERE inode = :inode AND size = :size AND mtime_ns = :mtime_ns) ORDER BY id"
)
# Tiles that a montage's predecessors had put into a stack: of its path, and of paths that its metafile moved from.
_FORMER = (
    "WITH RECURSIVE former(id) AS (SELECT id FROM montages WHERE superseded_by = :id"
    " UNION SELECT montages.id FROM montages JOIN former ON superseded_by = former.id)"
    " SELECT tile_ids FROM tile_sets JOIN former ON montage_id = former.id JOIN montages ON montages.id = former.id"
    " WHERE :stack IN (raw_stack, mipmapped_stack)"
)
# Tiles of every montage of a stack that nothing has superseded.
_HELD = (
    "SELECT tile_ids FROM tile_sets JOIN montages ON montage_id = id"
    " WHERE state <> 'superseded' AND :stack IN (raw_stack, mipmapped_stack)"
)


def store_tile_ids(connection: Connection, montage_id: int, tile_ids: Sequence[str]) -> None:
    packed = zlib.compress("\n".join(tile_ids).encode())
    connection.execute(
        "INSERT OR REPLACE INTO tile_sets (montage_id, tile_ids, first_id, last_id) VALUES (?, ?, ?, ?)",
        (montage_id, packed, min(tile_ids, default=""), max(tile_ids, default="")),
    )


def _unpacked(packed: bytes) -> list[str]:
    return zlib.decompress(packed).decode().split("\n")


def _tile_ids(connection: Connection, query: str, values: dict[str, object]) -> frozenset[str]:
    return frozenset(tile_id for (packed,) in connection.execute(query, values) for tile_id in _unpacked(packed))


def tile_ids(connection: Connection, montage_id: int) -> frozenset[str]:
    return _tile_ids(connection, "SELECT tile_ids FROM tile_sets WHERE montage_id = :id", {"id": montage_id})


def former_tile_ids(connection: Connection, montage: Montage, stack: str) -> frozenset[str]:
    return _tile_ids(connection, _FORMER, {"id": montage.id, "stack": stack}) - tile_ids(connection, montage.id)


def unwanted_tile_ids(connection: Connection, montage: Montage, stack: str) -> frozenset[str]:
    former = former_tile_ids(connection, montage, stack)
    # Most montages have no former tiles; only then is it worth unpacking all others.
    return former - _tile_ids(connection, _HELD, {"stack": stack}) if former else former


def holders(connection: Connection, metafile: str, settled: Settled) -> list[Rival]:
    """Montages of other metafiles that hold some of the tiles."""
    wanted = frozenset(settled.tile_ids)
    values = {
        "z": settled.z,
        "metafile": metafile,
        "raw": settled.raw_stack,
        "mipmapped": settled.mipmapped_stack,
        "first": min(wanted, default=""),
        "last": max(wanted, default=""),
    }
    found = [
        Rival(montage_of(row), tuple(sorted(wanted.intersection(_unpacked(packed)))))
        for *row, packed in connection.execute(_HOLDERS, values)
    ]
    return [rival for rival in found if rival.shared]


def alike(connection: Connection, metafile: str, digest: str | None, identity: FileIdentity) -> list[Montage]:
    """Montages of other metafiles with this content, or whose file it is, the change time aside: a move renews it."""
    values = {
        "metafile": metafile,
        "digest": digest,
        "inode": identity.inode,
        "size": identity.size,
        "mtime_ns": identity.mtime_ns,
    }
    return [montage_of(row) for row in connection.execute(_ALIKE, values)]


def rivals(connection: Connection, montage: Montage, settled: Settled, identity: FileIdentity) -> list[Rival]:
    """Montages of other metafiles that hold tiles of one that settles, or may be it under another path."""
    metafile = path_to_uri(montage.metafile)
    found = holders(connection, metafile, settled)
    known = {rival.montage.id for rival in found}
    for other in alike(connection, metafile, settled.digest, identity):
        goes_there = other.raw_stack in (None, settled.raw_stack) and other.z in (None, settled.z)
        is_it = goes_there and (other.digest in (None, settled.digest))
        if is_it and other.id not in known and other.state != "ignored":
            found.append(Rival(other, ()))
    return found
