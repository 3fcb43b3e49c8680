-- Numbers that a worker measured while it made a tile's mipmaps, packed. NULL in older rows.
ALTER TABLE tiles ADD COLUMN measured BLOB;
-- The numbers of all tiles of a montage, packed. They are written with the event MIPMAPPED, in one transaction.
CREATE TABLE quality (
    montage_id INTEGER PRIMARY KEY REFERENCES montages (id) ON DELETE CASCADE,
    numbers    BLOB NOT NULL,
    is_current INTEGER NOT NULL             -- 0 while mipmaps are made again: then other numbers follow
) STRICT;
