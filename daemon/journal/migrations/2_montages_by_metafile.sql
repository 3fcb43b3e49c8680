-- Every sighting looks up its metafile. The indexes of version 1 are partial and cannot be used for that.
CREATE INDEX montages_by_metafile ON montages (metafile, id);
