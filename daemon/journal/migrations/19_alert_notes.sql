-- Further values of alerts, such as the number of the last outbox event that they have read.
CREATE TABLE alert_notes (name TEXT PRIMARY KEY, value REAL NOT NULL) STRICT, WITHOUT ROWID;
-- Verdicts of a microscope in the order of its sections, to find several in a row that break a rule.
CREATE INDEX verdicts_in_order ON verdicts (scope, acquired) WHERE verdict IS NOT NULL;
