-- The journal, version 1. One row of `montages` per (metafile, content); `events` holds the history of its state.
-- Times are seconds since 1970 UTC. Faults are JSON objects {kind, subject, problem, hint}.

CREATE TABLE montages (
    id              INTEGER PRIMARY KEY,
    watch           TEXT NOT NULL,          -- name of the [[watch]] that found it
    metafile        TEXT NOT NULL,          -- file URI
    digest          TEXT,                   -- sha256 of the content; NULL until it is read
    size            INTEGER NOT NULL,       -- from stat when it was last noticed
    mtime_ns        INTEGER NOT NULL,
    inode           INTEGER NOT NULL,
    acquired        TEXT NOT NULL,          -- file name, which begins with the acquisition time: the order of work
    state           TEXT NOT NULL,
    failed_in       TEXT,                   -- the state it failed in, while FAILED
    z               REAL,
    raw_stack       TEXT,                   -- owner/project/stack
    mipmapped_stack TEXT,                   -- the same as raw_stack when the raw stack is updated in place
    tile_count      INTEGER,
    tile_ids        BLOB,                   -- zlib of the newline-separated tileIds
    findings        TEXT NOT NULL DEFAULT '[]',
    fault           TEXT,                   -- of the last attempt, while waiting or FAILED
    waiting_for     TEXT,                   -- one sentence, while it waits although nothing failed
    attempt         INTEGER NOT NULL DEFAULT 0,   -- attempts at the present step, the running one included
    crashes         INTEGER NOT NULL DEFAULT 0,   -- attempts at the present step that never ended and made no progress
    noticed_at      REAL NOT NULL,
    changed_at      REAL NOT NULL,
    complete_at     REAL
) STRICT;

CREATE UNIQUE INDEX montage_identity ON montages (metafile, digest) WHERE digest IS NOT NULL;
CREATE UNIQUE INDEX one_unread_per_metafile ON montages (metafile) WHERE digest IS NULL;
CREATE INDEX montages_by_state ON montages (state, acquired);
CREATE INDEX montages_by_z ON montages (z);

CREATE TABLE events (
    id         INTEGER PRIMARY KEY,
    montage_id INTEGER NOT NULL REFERENCES montages (id) ON DELETE CASCADE,
    at         REAL NOT NULL,
    event      TEXT NOT NULL,
    state      TEXT NOT NULL,               -- the state that followed
    detail     TEXT NOT NULL DEFAULT '{}'
) STRICT;
CREATE INDEX events_of_montage ON events (montage_id);

CREATE TABLE attempts (
    id         INTEGER PRIMARY KEY,
    montage_id INTEGER NOT NULL REFERENCES montages (id) ON DELETE CASCADE,
    step       TEXT NOT NULL,
    started_at REAL NOT NULL,
    ended_at   REAL,                        -- NULL while it runs, or if the process died during it
    outcome    TEXT,                        -- done | failed | waiting | stopped | crashed
    fault      TEXT
) STRICT;
CREATE INDEX attempts_of_montage ON attempts (montage_id);
CREATE INDEX unfinished_attempts ON attempts (montage_id) WHERE ended_at IS NULL;

-- Tiles whose mipmaps are made and verified; emptied when the montage is MIPMAPPED.
CREATE TABLE tiles (
    montage_id INTEGER NOT NULL REFERENCES montages (id) ON DELETE CASCADE,
    tile_id    TEXT NOT NULL,
    made_at    REAL NOT NULL,
    PRIMARY KEY (montage_id, tile_id)
) STRICT, WITHOUT ROWID;

-- Closed stacks of an APPLIED montage. When all its stacks are closed, the montage is COMPLETE.
CREATE TABLE closings (
    montage_id INTEGER NOT NULL REFERENCES montages (id) ON DELETE CASCADE,
    stack      TEXT NOT NULL,
    closed_at  REAL NOT NULL,
    PRIMARY KEY (montage_id, stack)
) STRICT, WITHOUT ROWID;
