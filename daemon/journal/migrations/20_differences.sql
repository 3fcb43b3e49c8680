-- Differences that the last `temwatch verify` of a montage found. They end when the montage is COMPLETE again after a
-- replay.
CREATE TABLE differences (
    montage_id  INTEGER PRIMARY KEY REFERENCES montages (id) ON DELETE CASCADE,
    found_at    REAL NOT NULL,              -- seconds since 1970 UTC
    differences INTEGER NOT NULL,
    start       TEXT                        -- first step of the replay that repairs them; NULL if none does
) STRICT;
