-- The tileIds of a montage, zlib of the newline-separated text. In a column of `montages`, SQLite would have to
-- read twelve overflow pages to reach the following columns of a row.
CREATE TABLE tile_sets (
    montage_id INTEGER PRIMARY KEY REFERENCES montages (id) ON DELETE CASCADE,
    tile_ids   BLOB NOT NULL
) STRICT;
INSERT INTO tile_sets SELECT id, tile_ids FROM montages WHERE tile_ids IS NOT NULL;
ALTER TABLE montages DROP COLUMN tile_ids;
