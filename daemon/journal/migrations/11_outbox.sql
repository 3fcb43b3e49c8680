-- Events for hooks, alerts and pages: one row for each change of a state, written in the transaction of the change.
-- Numbers are never reused, even if old rows are deleted.
CREATE TABLE outbox (
    number   INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL,                 -- the same at each delivery; random, so that a restored back-up repeats none
    at       REAL NOT NULL,                 -- seconds since 1970 UTC
    kind     TEXT NOT NULL,                 -- montage.complete, stack.closed, ...
    watch    TEXT NOT NULL,
    subject  TEXT NOT NULL,                 -- montages/17, stacks/em/v1/s_raw: events of one subject are delivered in order
    data     TEXT NOT NULL                  -- JSON
) STRICT;
CREATE INDEX outbox_by_subject ON outbox (subject, number);

-- Number of the last event that is queued for a hook of the configuration.
CREATE TABLE hooks (
    hook     TEXT PRIMARY KEY,
    position INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Events that a hook has not accepted yet.
CREATE TABLE deliveries (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    hook        TEXT NOT NULL,
    number      INTEGER NOT NULL REFERENCES outbox (number),
    subject     TEXT NOT NULL,
    queued_at   REAL NOT NULL,              -- seconds since 1970 UTC; a replayed dead letter is queued again
    attempts    INTEGER NOT NULL DEFAULT 0,
    next_try_at REAL NOT NULL,
    is_dead     INTEGER NOT NULL DEFAULT 0, -- 1: given up, until an operator retries or drops it
    problem     TEXT                        -- why the last attempt failed
) STRICT;
CREATE UNIQUE INDEX deliveries_of_event ON deliveries (number, hook);
CREATE INDEX deliveries_by_subject ON deliveries (hook, is_dead, subject, number);
CREATE INDEX deliveries_by_time ON deliveries (hook, is_dead, next_try_at);

-- Stacks that this daemon has closed and not reopened.
CREATE TABLE closed_stacks (stack TEXT PRIMARY KEY, closed_at REAL NOT NULL) STRICT, WITHOUT ROWID;

-- Further values of a montage for its events. NULL in older rows.
ALTER TABLE montages ADD COLUMN section_id TEXT;
ALTER TABLE montages ADD COLUMN bounds TEXT;        -- [min x, min y, max x, max y] of its tiles in the stack, pixels
ALTER TABLE montages ADD COLUMN output_dir TEXT;    -- where its mipmaps are, or will be
