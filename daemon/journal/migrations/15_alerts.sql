-- Conditions that are reported or will be, so that a restart neither repeats nor loses a message.
CREATE TABLE alerts (
    kind     TEXT NOT NULL,
    watch    TEXT NOT NULL,                 -- empty if it concerns no single watch
    subject  TEXT NOT NULL,
    text     TEXT NOT NULL,
    since    REAL NOT NULL,                 -- seconds since 1970 UTC
    sent_at  REAL,                          -- of the last message; NULL before the first
    ended_at REAL,                          -- set until it was told that it is over
    PRIMARY KEY (kind, watch, subject)
) STRICT, WITHOUT ROWID;
