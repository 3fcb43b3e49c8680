-- The row with the highest number has the present content of a path. This need not be the row with the highest id: a
-- content that returns keeps its row.
ALTER TABLE montages ADD COLUMN sighted INTEGER NOT NULL DEFAULT 0;
-- SHA-256 of the content that was read last, while the digest is NULL: the montage waits, or is read again.
ALTER TABLE montages ADD COLUMN seen_digest TEXT;
-- The successor of a superseded montage. The former tiles of a montage are those of its predecessors.
ALTER TABLE montages ADD COLUMN superseded_by INTEGER;
-- 1: the montage is also retried when the file is gone.
ALTER TABLE awaited ADD COLUMN or_gone INTEGER NOT NULL DEFAULT 0;
-- The lowest and the highest tileId: most montages of one z are found disjoint without unpacking. NULL in
-- older rows.
ALTER TABLE tile_sets ADD COLUMN first_id TEXT;
ALTER TABLE tile_sets ADD COLUMN last_id TEXT;

-- A superseded row that was never read is useless, and would keep its path from being noticed again.
DELETE FROM montages WHERE digest IS NULL AND state = 'superseded';
UPDATE montages SET sighted = id + (SELECT max(id) FROM montages) * (state <> 'superseded');
UPDATE montages SET superseded_by = (
    SELECT json_extract(detail, '$.by') FROM events
    WHERE montage_id = montages.id AND event = 'superseded' ORDER BY id DESC LIMIT 1
) WHERE state = 'superseded';
-- At most one row of a path is unread: the row without a digest.
UPDATE montages SET seen_digest = digest, digest = NULL
WHERE state = 'noticed' AND digest IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM montages AS other WHERE other.metafile = montages.metafile AND other.digest IS NULL);
INSERT INTO events (montage_id, at, event, state)
SELECT id, changed_at, 'superseded', 'superseded' FROM montages WHERE state = 'noticed' AND digest IS NOT NULL;
UPDATE montages SET state = 'superseded' WHERE state = 'noticed' AND digest IS NOT NULL;

CREATE INDEX montages_by_successor ON montages (superseded_by) WHERE superseded_by IS NOT NULL;
CREATE INDEX montages_by_inode ON montages (inode);
CREATE INDEX montages_by_seen_digest ON montages (seen_digest) WHERE seen_digest IS NOT NULL;
