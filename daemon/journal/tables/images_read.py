"""Identity and digest of each tile's image as it was read.

While a montage's mipmaps are made, each tile has a row. When all are made, the rows are packed into one compressed
block: about 100 kB for a section of 2,772 tiles, mostly digests.
"""

import json
import struct
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from daemon.journal.tables.rows import Connection, need, record
from daemon.journal.tables.tallies import count_tiles
from daemon.montages.records import Montage
from daemon.montages.states import Event
from handlers.identity import FileIdentity
from handlers.images.digest import DIGEST_BYTES, FileContent
from handlers.text import abbreviate

MAX_NAMES = 5
MAX_CHANGES = 10
"""Largest number of findings about changed images that a montage keeps; the newest ones stay."""
_CHANGED = "changed after their mipmaps were made"
_NUMBERS = 4
"""Number of fields of an identity: size, mtime, ctime, inode."""
_MASK = (1 << 64) - 1
_HEAD = struct.Struct("<BI")
_LAYOUT = 1


# --- one tile


def to_row(content: FileContent | None) -> tuple[int | None, int | None, int | None, int | None, bytes | None]:
    """Return the columns of a tile: size, mtime_ns, ctime_ns, inode, digest."""
    return (*content.identity, content.digest) if content else (None, None, None, None, None)


# --- all tiles of a montage, packed


def pack(contents: Mapping[str, FileContent]) -> bytes:
    """Return the compressed block of contents.

    Numbers are stored as differences from tile to tile, split into byte planes: consecutive files were written within a
    second of each other, so most bytes of the upper planes are equal.

    Parameters
    ----------
    contents : tile id -> identity and digest of its image.
    """
    columns = list(zip(*(content.identity for content in contents.values()), strict=True)) or [()] * _NUMBERS
    names = json.dumps(list(contents)).encode()
    numbers = b"".join(_planes([number or 0 for number in column]) for column in columns)
    digests = b"".join(content.digest for content in contents.values())
    packed = zlib.compress(names) + zlib.compress(numbers)
    return _HEAD.pack(_LAYOUT, len(contents)) + packed + digests


def unpack(block: bytes) -> dict[str, FileContent]:
    """Return the contents, by tile id, of a block from `pack`. Raises ValueError for an unknown layout."""
    layout, count = _HEAD.unpack_from(block)
    if layout != _LAYOUT:
        raise ValueError(f"images_read: layout {_LAYOUT} expected, found {layout}")
    names, rest = _decompressed(block[_HEAD.size :])
    numbers, digests = _decompressed(rest)
    columns = [_numbers(numbers[8 * count * index : 8 * count * (index + 1)]) for index in range(_NUMBERS)]
    identities = (FileIdentity(*values) for values in zip(*columns, strict=True))
    each = (digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES))
    pairs = (FileContent(identity, digest) for identity, digest in zip(identities, each, strict=True))
    return dict(zip(json.loads(names), pairs, strict=True))


def _planes(values: Sequence[int]) -> bytes:
    differences = array("Q", ((value - before) & _MASK for before, value in zip((0, *values), values, strict=False)))
    raw = differences.tobytes()
    return b"".join(raw[plane::8] for plane in range(8))


def _numbers(planes: bytes) -> Iterator[int]:
    count = len(planes) // 8
    raw = bytearray(len(planes))
    for plane in range(8):
        raw[plane::8] = planes[plane * count : (plane + 1) * count]
    for number in accumulate(array("Q", bytes(raw))):
        value = number & _MASK
        yield value - (1 << 64) if value >> 63 else value


def _decompressed(packed: bytes) -> tuple[bytes, bytes]:
    """Return the first of two compressed parts, decompressed, and the bytes after it."""
    unpacker = zlib.decompressobj()
    return unpacker.decompress(packed), unpacker.unused_data


# --- in the journal


def keep(connection: Connection, montage_id: int) -> None:
    """Pack the tile rows that have a digest into the montage's block."""
    rows = connection.execute(
        "SELECT tile_id, size, mtime_ns, ctime_ns, inode, digest FROM tiles"
        " WHERE montage_id = ? AND digest IS NOT NULL",
        (montage_id,),
    )
    contents = {tile_id: FileContent(FileIdentity(*identity), digest) for tile_id, *identity, digest in rows}
    if contents:
        _store(connection, montage_id, contents)


def _store(connection: Connection, montage_id: int, contents: Mapping[str, FileContent]) -> None:
    connection.execute("INSERT OR REPLACE INTO images_read VALUES (?, ?, 1)", (montage_id, pack(contents)))


def contents_of(connection: Connection, montage_id: int) -> dict[str, FileContent]:
    """Return identity and digest of each tile's image, by tile id; empty if the montage has no block."""
    row = connection.execute("SELECT contents FROM images_read WHERE montage_id = ?", (montage_id,)).fetchone()
    return unpack(row[0]) if row else {}


def adopt(connection: Connection, montage_id: int, contents: Mapping[str, FileContent]) -> None:
    """Store new identities of images, except for images whose digest differs from the stored one."""
    before = contents_of(connection, montage_id)
    same = {tile_id: content for tile_id, content in contents.items() if _is_same(before.get(tile_id), content)}
    if same:
        connection.execute(
            "UPDATE images_read SET contents = ? WHERE montage_id = ?", (pack({**before, **same}), montage_id)
        )


def _is_same(before: FileContent | None, now: FileContent) -> bool:
    return before is not None and before.digest == now.digest


def change(connection: Connection, montage_id: int, changed: Mapping[str, str], now: float) -> Montage:
    """Reset the montage to INGESTED, so that the mipmaps of changed images are made again; other tiles stay recorded.

    Parameters
    ----------
    changed : tile id -> name of its image.
    """
    rest = {tile_id: each for tile_id, each in contents_of(connection, montage_id).items() if tile_id not in changed}
    images = sorted(set(changed.values()))
    names = abbreviate(images, MAX_NAMES)
    montage = record(
        connection, montage_id, Event.IMAGES_CHANGED, now, {"images": len(images), "names": images[:MAX_NAMES]}
    )
    finding = f"{len(images)} images {_CHANGED}: {names}"
    others = [each for each in montage.findings if _CHANGED not in each]
    former = [each for each in montage.findings if _CHANGED in each and each != finding]
    findings = [*others, *former[1 - MAX_CHANGES :], finding]
    connection.execute(
        "UPDATE montages SET findings = ?, waiting_for = ? WHERE id = ?",
        (json.dumps(findings), f"making the mipmaps of {len(images)} changed images again: {names}", montage_id),
    )
    _insert_tiles(connection, montage_id, rest, {}, now)
    return need(connection, montage_id)


def record_tiles(
    connection: Connection,
    montage_id: int,
    contents: Mapping[str, FileContent | None],
    measured: Mapping[str, bytes],
    now: float,
) -> None:
    """Record tiles whose mipmaps are made.

    Parameters
    ----------
    contents : tile id -> identity and digest of the image as it was read; None if unknown.
    measured : tile id -> packed numbers of the tile, as far as they are known.
    now : seconds since 1970 UTC.
    """
    _insert_tiles(connection, montage_id, contents, measured, now)
    count_tiles(connection, montage_id, len(contents), now)
    # The montage makes progress, so it did not cause the earlier crashes.
    connection.execute("UPDATE montages SET crashes = 0 WHERE id = ? AND crashes > 0", (montage_id,))


def _insert_tiles(
    connection: Connection,
    montage_id: int,
    contents: Mapping[str, FileContent | None],
    measured: Mapping[str, bytes],
    now: float,
) -> None:
    """Insert or replace the rows of tiles."""
    connection.executemany(
        "INSERT OR REPLACE INTO tiles (montage_id, tile_id, made_at, size, mtime_ns, ctime_ns, inode, digest, measured)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [(montage_id, tile_id, now, *to_row(content), measured.get(tile_id)) for tile_id, content in contents.items()],
    )


def watched(connection: Connection) -> list[tuple[int, str, float]]:
    """Return (id, watch, completion time) of every montage whose images are still rechecked."""
    query = (
        "SELECT id, watch, complete_at FROM images_read JOIN montages ON id = montage_id"
        " WHERE is_watched = 1 AND state = 'complete' ORDER BY complete_at, id"
    )
    return connection.execute(query).fetchall()


def end_watch(connection: Connection, montage_id: int) -> None:
    """Stop rechecking the images of a montage."""
    connection.execute("UPDATE images_read SET is_watched = 0 WHERE montage_id = ?", (montage_id,))
