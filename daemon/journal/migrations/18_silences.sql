-- Alerts that are silenced for a while. An empty text matches everything.
CREATE TABLE silences (
    kind    TEXT NOT NULL,
    watch   TEXT NOT NULL,
    subject TEXT NOT NULL,
    until   REAL NOT NULL,                  -- seconds since 1970 UTC
    made_at REAL NOT NULL,
    made_by TEXT NOT NULL,
    reason  TEXT NOT NULL,
    PRIMARY KEY (kind, watch, subject)
) STRICT, WITHOUT ROWID;
