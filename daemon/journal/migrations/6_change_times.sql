-- The change time belongs to a file's identity: unlike the modification time no copy program can set it. NULL in rows of
-- before; those are compared without it, and take it over at the next sighting.
ALTER TABLE montages ADD COLUMN ctime_ns INTEGER;
ALTER TABLE awaited ADD COLUMN ctime_ns INTEGER;
