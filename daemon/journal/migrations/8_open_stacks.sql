-- Stacks that are open for writing. If the process dies, the next one closes them.
CREATE TABLE open_stacks (
    stack     TEXT PRIMARY KEY,
    watch     TEXT NOT NULL,
    opened_at REAL NOT NULL
) STRICT, WITHOUT ROWID;
