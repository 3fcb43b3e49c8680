-- Every sighting asks for its metafile; each index of version 1 holds a part of the rows alone, and cannot answer.
CREATE INDEX montages_by_metafile ON montages (metafile, id);
