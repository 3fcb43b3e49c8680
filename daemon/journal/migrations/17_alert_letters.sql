-- Messages that not every address has accepted yet. They are committed with the alerts that they report.
CREATE TABLE alert_letters (
    number   INTEGER PRIMARY KEY AUTOINCREMENT,
    id       TEXT NOT NULL UNIQUE,          -- the same at each attempt; it stands in the message
    made_at  REAL NOT NULL,                 -- seconds since 1970 UTC
    kind     TEXT NOT NULL,
    watch    TEXT NOT NULL,
    scope    TEXT NOT NULL,
    severity TEXT NOT NULL,
    title    TEXT NOT NULL,
    body     TEXT NOT NULL,
    taken    TEXT NOT NULL                  -- JSON: numbers of the addresses in alerts.urls_file that took it
) STRICT;
-- The microscope, by which alerts are grouped besides the watch; and whether the alert is an error, not a warning.
ALTER TABLE alerts ADD COLUMN scope TEXT NOT NULL DEFAULT '';
ALTER TABLE alerts ADD COLUMN is_error INTEGER NOT NULL DEFAULT 0;
