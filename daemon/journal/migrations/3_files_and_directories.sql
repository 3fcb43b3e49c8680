-- The file that has to change before a FAILED montage is retried, as it was before the failure; NULL if it was missing.
CREATE TABLE awaited (
    montage_id INTEGER PRIMARY KEY REFERENCES montages (id) ON DELETE CASCADE,
    file       TEXT NOT NULL,
    size       INTEGER,
    mtime_ns   INTEGER,
    inode      INTEGER
) STRICT;
-- Directories that mipmaps were written to. If the marker file is missing in one, its mount is gone.
CREATE TABLE mipmap_directories (directory TEXT PRIMARY KEY, first_used_at REAL NOT NULL) STRICT;
-- Settling looks up the same content under other paths.
CREATE INDEX montages_by_digest ON montages (digest) WHERE digest IS NOT NULL;
