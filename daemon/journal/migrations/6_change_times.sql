-- The change time is part of a file's identity: unlike the modification time, copy programs cannot set it. NULL in older
-- rows: they are compared without it, and get it when the metafile is noticed again.
ALTER TABLE montages ADD COLUMN ctime_ns INTEGER;
ALTER TABLE awaited ADD COLUMN ctime_ns INTEGER;
