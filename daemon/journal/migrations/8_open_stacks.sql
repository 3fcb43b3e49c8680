-- Stacks that were opened for writing and not closed since: a process that dies leaves them to the next one.
CREATE TABLE open_stacks (
    stack     TEXT PRIMARY KEY,
    watch     TEXT NOT NULL,
    opened_at REAL NOT NULL
) STRICT, WITHOUT ROWID;
