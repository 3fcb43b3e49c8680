"""Find montages of other paths with the same content, file or tiles.

Each tile of a stack belongs to one montage only.
"""

import json
from collections.abc import Collection

from daemon.journal.tables.rows import BY_ID, COLUMNS, Connection, find, montage_of
from daemon.journal.tables.tile_sets import unpack_tile_ids
from daemon.montages.records import Montage, Namesake, Rival, Settled, StaleInspection
from daemon.montages.states import HAS_SETTLED, MontageState
from handlers.acquisition.retakes import can_be_taken_again, is_later_take
from handlers.identity import FileIdentity
from handlers.uris import path_to_uri

_SETTLED_STATES = ", ".join(f"'{state}'" for state in sorted(HAS_SETTLED))
# Montages of other metafiles that own tiles at a z of one of two stacks, or did before they failed; tile ids last.
_TILE_OWNERS = (
    f"SELECT {COLUMNS}, tile_ids FROM montages JOIN tile_sets ON montage_id = id"  # noqa: S608  constant text
    f" WHERE z = :z AND metafile <> :metafile AND coalesce(failed_in, state) IN ({_SETTLED_STATES})"
    " AND (raw_stack IN (:raw, :mipmapped) OR mipmapped_stack IN (:raw, :mipmapped))"
    " AND (first_id IS NULL OR (first_id <= :last AND last_id >= :first)) ORDER BY id"
)
# Montages of other metafiles at a z of one of two stacks.
_BESIDE = (
    f"SELECT {COLUMNS} FROM montages WHERE z = :z AND metafile <> :metafile"  # noqa: S608  constant text
    f" AND coalesce(failed_in, state) IN ({_SETTLED_STATES})"
    " AND (raw_stack IN (:raw, :mipmapped) OR mipmapped_stack IN (:raw, :mipmapped)) ORDER BY id"
)
# Montages of other metafiles whose other header values gave the same stack name; the values last.
_NAMESAKES = tuple(
    f"SELECT {COLUMNS}, {fields} FROM montages WHERE {stack} = :stack AND {fields} IS NOT NULL"  # noqa: S608
    f" AND ({fields} < :fields OR {fields} > :fields) AND metafile <> :metafile"
    f" AND coalesce(failed_in, state) IN ({_SETTLED_STATES}) ORDER BY id"
    for stack, fields in (("raw_stack", "raw_fields"), ("mipmapped_stack", "mipmapped_fields"))
)
# Montages of other metafiles with the same content, or the same size, mtime and inode. A move changes the ctime.
_DUPLICATES = (
    f"SELECT {COLUMNS} FROM montages WHERE metafile <> :metafile AND state <> 'superseded' AND id IN ("  # noqa: S608
    "SELECT id FROM montages WHERE digest = :digest UNION SELECT id FROM montages WHERE seen_digest = :digest"
    " UNION SELECT id FROM montages WHERE inode = :inode AND size = :size AND mtime_ns = :mtime_ns)"
)
MAX_PATHS = 16
"""Paths of one content that `oldest` and `newest` return. A full disk leaves thousands of empty metafiles: comparing
each with all others would take the daemon hours. Recheck finds a path beyond these that is gone."""


def oldest(connection: Connection, montage: Montage) -> list[Montage]:
    """Return the oldest montages of other metafiles with the content or the file of a montage, the oldest first."""
    return _of_montage(connection, montage, f"{_DUPLICATES} ORDER BY id LIMIT {MAX_PATHS}")


def newest(connection: Connection, montage: Montage) -> list[Montage]:
    """Return the newest montages of other metafiles with the content or the file of a montage, the newest first."""
    return _of_montage(connection, montage, f"{_DUPLICATES} ORDER BY id DESC LIMIT {MAX_PATHS}")


def _of_montage(connection: Connection, montage: Montage, query: str) -> list[Montage]:
    seen = "SELECT coalesce(digest, seen_digest) FROM montages WHERE id = ?"
    digest = connection.execute(seen, (montage.id,)).fetchone()[0]
    values = _values(path_to_uri(montage.metafile), digest, montage.identity)
    return [montage_of(row) for row in connection.execute(query, values)]


def tile_owners(connection: Connection, metafile: str, settled: Settled) -> list[Rival]:
    """Return the montages of other metafiles that own tiles of a settling montage."""
    wanted = frozenset(settled.tile_ids)
    values = {
        "z": settled.z,
        "metafile": metafile,
        "raw": settled.raw_stack,
        "mipmapped": settled.mipmapped_stack,
        "first": min(wanted, default=""),
        "last": max(wanted, default=""),
    }
    owners = [
        Rival(montage_of(row), tuple(sorted(wanted.intersection(unpack_tile_ids(packed)))))
        for *row, packed in connection.execute(_TILE_OWNERS, values)
    ]
    return [owner for owner in owners if owner.shared]


def namesake(connection: Connection, metafile: str, settled: Settled, superseded: Collection[int]) -> Namesake | None:
    """Return the first montage whose stack has the same name although a header field in the name has another value.

    Parameters
    ----------
    superseded : ids of montages that the settling montage supersedes.
    """
    names = ((settled.raw_stack, settled.raw_fields), (settled.mipmapped_stack, settled.mipmapped_fields))
    for stack, fields in dict.fromkeys(names):
        own = json.loads(fields or "{}")
        for query in _NAMESAKES if own else ():
            for *row, packed in connection.execute(query, {"stack": stack, "fields": fields, "metafile": metafile}):
                other = json.loads(packed)
                field = next((each for each in own if other.get(each, own[each]) != own[each]), None)
                montage = montage_of(row)
                if field is not None and montage.id not in superseded:
                    return Namesake(montage, stack, field, own[field], other[field])
    return None


def rivals(connection: Connection, montage: Montage, settled: Settled, identity: FileIdentity) -> list[Rival]:
    """Return the montages of other metafiles that own tiles of a montage, or may be that montage under another path.

    A repeated acquisition of the same slice is also a rival, although its tiles may have other ids.
    """
    metafile = path_to_uri(montage.metafile)
    found = tile_owners(connection, metafile, settled)
    known = {rival.montage.id for rival in found}
    for other in _takes(connection, montage, settled):
        if other.id not in known:
            found.append(Rival(other, ()))
            known.add(other.id)
    values = _values(metafile, settled.digest, identity)
    for other in map(montage_of, connection.execute(f"{_DUPLICATES} ORDER BY id", values)):
        has_same_target = other.raw_stack in (None, settled.raw_stack) and other.z in (None, settled.z)
        may_be_same = has_same_target and other.digest in (None, settled.digest)
        if may_be_same and other.id not in known and other.state is not MontageState.IGNORED:
            found.append(Rival(other, ()))
    return found


def _takes(connection: Connection, montage: Montage, settled: Settled) -> list[Montage]:
    if not can_be_taken_again(montage.metafile):
        return []
    values = {
        "z": settled.z,
        "metafile": path_to_uri(montage.metafile),
        "raw": settled.raw_stack,
        "mipmapped": settled.mipmapped_stack,
    }
    beside = map(montage_of, connection.execute(_BESIDE, values))
    own = montage.metafile
    return [each for each in beside if is_later_take(own, each.metafile) or is_later_take(each.metafile, own)]


def require_unchanged(connection: Connection, montage: Montage) -> Montage:
    """Return the montage. Raises StaleInspection if its state or its file changed since its path was checked."""
    present = find(connection, BY_ID, (montage.id,))
    if present is None or (present.state, present.identity) != (montage.state, montage.identity):
        raise StaleInspection
    return present


def _values(metafile: str, digest: str | None, identity: FileIdentity) -> dict[str, str | int | None]:
    return {
        "metafile": metafile,
        "digest": digest,
        "inode": identity.inode,
        "size": identity.size,
        "mtime_ns": identity.mtime_ns,
    }
