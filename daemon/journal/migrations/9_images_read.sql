-- Level 0 of a tile as it was read: its file's identity, and the XXH3-128 of its bytes. NULL if only render-ws could read
-- it, and in older rows.
ALTER TABLE tiles ADD COLUMN size INTEGER;
ALTER TABLE tiles ADD COLUMN mtime_ns INTEGER;
ALTER TABLE tiles ADD COLUMN ctime_ns INTEGER;
ALTER TABLE tiles ADD COLUMN inode INTEGER;
ALTER TABLE tiles ADD COLUMN digest BLOB;
-- The same for all tiles of a montage in MIPMAPPED or a later state, packed.
CREATE TABLE images_read (
    montage_id INTEGER PRIMARY KEY REFERENCES montages (id) ON DELETE CASCADE,
    contents   BLOB NOT NULL,
    is_watched INTEGER NOT NULL             -- 1 while the images of a COMPLETE montage are rechecked
) STRICT;
CREATE INDEX watched_images ON images_read (montage_id) WHERE is_watched = 1;
