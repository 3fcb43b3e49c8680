"""Journals of each former version: made by its migrations, with data in every table."""

import sqlite3
import zlib
from contextlib import closing
from pathlib import Path

from daemon.journal.migration import MIGRATIONS

_IDS = zlib.compress(b"t1\nt2").hex()
_FAULT = '{"kind": "ImageFault", "subject": "a.tif", "problem": "is truncated", "hint": ""}'
_MONTAGE = "INSERT INTO montages (id, watch, metafile, digest, size, mtime_ns, inode, acquired, state, z, raw_stack,"
_STACKS = "'em/v1/s_raw', 'em/v1/s_mips'"


def _montage(number: int, state: str, *, digest: bool = True, more: str = "", values: str = "") -> str:
    """Return the statement that inserts a montage and its first event."""
    found = f"'d{number}'" if digest else "NULL"
    return (
        f"{_MONTAGE} mipmapped_stack, tile_count, noticed_at, changed_at{more}) VALUES ({number}, 'temca2',"
        f" 'file:///data/_metadata_{number}_.json', {found}, 10, 20, {number}, '_metadata_{number}_.json', '{state}',"
        f" {number}.0, {_STACKS}, 2, 1.5, 2.5{values});"
        f"INSERT INTO events (montage_id, at, event, state) VALUES ({number}, 1.5, 'noticed', 'noticed');"
    )


STATES = ("settled", "ingested", "mipmapped", "applied", "complete", "failed", "superseded", "ignored")
"""States of the montages 1 to 8. Montage 9 is NOTICED, and its content was not read."""

DATA: dict[int, str] = {
    1: "".join(
        _montage(number, state, more=", tile_ids", values=f", X'{_IDS}'") for number, state in enumerate(STATES, 1)
    )
    + _montage(9, "noticed", digest=False)
    + f"UPDATE montages SET failed_in = 'ingested', fault = '{_FAULT}' WHERE state = 'failed';"
    "UPDATE montages SET complete_at = 3.5 WHERE state = 'complete';"
    "INSERT INTO events (montage_id, at, event, state, detail) VALUES (7, 2.0, 'superseded', 'superseded',"
    " '{\"by\": 5}');"
    f"INSERT INTO attempts VALUES (1, 6, 'mipmaps', 1.0, 2.0, 'failed', '{_FAULT}'), (2, 2, 'mipmaps', 1.0, NULL, NULL,"
    " NULL);"
    "INSERT INTO tiles VALUES (2, 't1', 2.0);"
    "INSERT INTO closings VALUES (4, 'em/v1/s_raw', 2.0);",
    3: "INSERT INTO awaited (montage_id, file, size, mtime_ns, inode) VALUES (6, 'file:///data/a.tif', 1, 2, 3);"
    "INSERT INTO mipmap_directories VALUES ('file:///data/mipmaps', 1.0);",
    4: _montage(14, "complete") + f"INSERT INTO tile_sets (montage_id, tile_ids) VALUES (14, X'{_IDS}');",
    6: _montage(16, "complete", more=", ctime_ns", values=", 5"),
    7: _montage(17, "noticed", digest=False, more=", sighted, seen_digest", values=", 3, 'dd'"),
    8: "INSERT INTO open_stacks VALUES ('em/v1/s_raw', 'temca2', 2.0);",
    9: "INSERT INTO tiles (montage_id, tile_id, made_at, size, digest) VALUES (2, 't2', 2.0, 9, X'00');"
    "INSERT INTO images_read VALUES (5, X'00', 1);",
    10: _montage(20, "complete", more=", raw_fields", values=', \'{"specimen_id": "s"}\''),
    11: "INSERT INTO outbox (event_id, at, kind, watch, subject, data) VALUES ('e', 1.0, 'montage.complete', 'temca2',"
    " 'montages/5', '{}');"
    "INSERT INTO hooks VALUES ('h', 1);"
    "INSERT INTO deliveries (hook, number, subject, queued_at, next_try_at) VALUES ('h', 1, 'montages/5', 1.0, 1.0);"
    "INSERT INTO closed_stacks VALUES ('em/v1/s_mips', 1.0);"
    "UPDATE montages SET section_id = '5.0', bounds = '[0, 0, 10, 10]', output_dir = '/data/mipmaps' WHERE id = 5;",
    12: "INSERT INTO tiles_made VALUES (0, 'temca2', '', 5);UPDATE montages SET scope = 't2', tape = '7' WHERE id = 5;",
    13: "INSERT INTO verdicts (montage_id, verdict) VALUES (5, 'pass');"
    "UPDATE montages SET verdict = 'pass' WHERE id = 5;",
    14: "INSERT INTO quality VALUES (5, X'00', 1);",
    15: "INSERT INTO alerts VALUES ('montage failed', 'temca2', 'montages/6', 'is truncated', 1.0, 2.0, NULL);",
    16: "INSERT INTO trends VALUES (5, 30.0, 20.0, 0.3, NULL, 3.9);",
    17: "INSERT INTO alert_letters (id, made_at, kind, watch, scope, severity, title, body, taken)"
    " VALUES ('0a', 1.0, 'montage failed', 'temca2', '', 'warning', 'montage failed (temca2)', 'is truncated', '[1]');",
    18: "INSERT INTO silences VALUES ('disk low', '', '', 3.0, 1.0, 'anna', 'new disks on Monday');",
    19: "INSERT INTO alert_notes VALUES ('outbox', 1.0);",
    20: "INSERT INTO differences VALUES (5, 4.0, 2, 'apply');",
    21: "INSERT INTO alert_messages (id, made_at, kind, watch, scope, severity, title, body, taken)"
    " VALUES ('0b', 2.0, 'backlog', '', '', 'warning', 'backlog', 'waits', '[]');",
}
"""Version -> statements that insert the data of a daemon of this version, in its schema."""


def write_journal(path: Path, version: int) -> None:
    """Write a journal that version 1 created and each version up to `version` migrated and used."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for number, script in enumerate(MIGRATIONS[:version], start=1):
            connection.executescript(f"BEGIN;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")
            connection.executescript(f"BEGIN;\n{DATA.get(number, '')}\nCOMMIT;")
