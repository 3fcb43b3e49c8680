-- The file that a FAILED montage waits for, as it was before it failed; NULL if it was not there.
CREATE TABLE awaited (
    montage_id INTEGER PRIMARY KEY REFERENCES montages (id) ON DELETE CASCADE,
    file       TEXT NOT NULL,
    size       INTEGER,
    mtime_ns   INTEGER,
    inode      INTEGER
) STRICT;
-- Directories that mipmaps were written to: one that lacks its mark is not the same any more.
CREATE TABLE mipmap_directories (directory TEXT PRIMARY KEY, first_used_at REAL NOT NULL) STRICT;
-- The same content under another path is looked for whenever a metafile settles.
CREATE INDEX montages_by_digest ON montages (digest) WHERE digest IS NOT NULL;
