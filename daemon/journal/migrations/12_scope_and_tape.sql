-- The microscope and the tape of a montage, from its header; NULL if the header has none, and in older rows.
ALTER TABLE montages ADD COLUMN scope TEXT;
ALTER TABLE montages ADD COLUMN tape TEXT;
-- The pages count by watch, scope and state, and show the newest montages of a filter: each index covers one query.
CREATE INDEX montages_by_scope ON montages (watch, scope, state, noticed_at, tile_count);
CREATE INDEX montages_by_tape ON montages (tape) WHERE tape IS NOT NULL;
CREATE INDEX montages_newest_of_scope ON montages (scope) WHERE scope IS NOT NULL;
CREATE INDEX montages_newest_of_state ON montages (state);
CREATE INDEX montages_by_completion ON montages (complete_at, watch, scope) WHERE complete_at IS NOT NULL;
-- Tiles whose mipmaps were made, by minute since 1970: rates and totals that survive a restart. The last day has a
-- row for each minute; older minutes are added to the row of minute 0.
CREATE TABLE tiles_made (
    minute INTEGER NOT NULL,
    watch  TEXT NOT NULL,
    scope  TEXT NOT NULL,                   -- empty where it is not known
    tiles  INTEGER NOT NULL,
    PRIMARY KEY (minute, watch, scope)
) STRICT, WITHOUT ROWID;
