-- What alerts remember beside: up to which number of the outbox they were told, for example.
CREATE TABLE alert_notes (name TEXT PRIMARY KEY, value REAL NOT NULL) STRICT, WITHOUT ROWID;
-- Verdicts of a microscope in the order of its sections: whether several in a row break a rule.
CREATE INDEX verdicts_in_order ON verdicts (scope, acquired) WHERE verdict IS NOT NULL;
