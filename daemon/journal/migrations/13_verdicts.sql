-- The verdicts on a montage's quality: of the rules, and of a person, which replaces it. The events contain the history.
CREATE TABLE verdicts (
    montage_id INTEGER PRIMARY KEY REFERENCES montages (id) ON DELETE CASCADE,
    verdict    TEXT,                        -- of the rules: pass | review | fail; NULL until they are applied
    findings   TEXT NOT NULL DEFAULT '[]',  -- JSON: rule, limit, value, verdict, tiles, tile_count
    judged_at  REAL,
    scope      TEXT,                        -- the microscope
    acquired   TEXT,                        -- as in montages: the order of the microscope's sections
    focus      REAL,                        -- median focus score of the tiles
    decision   TEXT,                        -- of a person: pass | fail | re-image
    decided_by TEXT,
    decided_at REAL,
    note       TEXT
) STRICT;
CREATE INDEX verdicts_by_scope ON verdicts (scope, acquired) WHERE focus IS NOT NULL;
-- The effective verdict, next to the state: lists show it, and the step that closes a stack reads it.
ALTER TABLE montages ADD COLUMN verdict TEXT;
