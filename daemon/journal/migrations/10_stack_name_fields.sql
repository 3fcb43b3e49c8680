-- Header fields in the name of each stack, with their values, as JSON: different values may give the same legal name.
-- NULL if the name contains no field, and in older rows.
ALTER TABLE montages ADD COLUMN raw_fields TEXT;
ALTER TABLE montages ADD COLUMN mipmapped_fields TEXT;
CREATE INDEX montages_by_raw_fields ON montages (raw_stack, raw_fields) WHERE raw_fields IS NOT NULL;
CREATE INDEX montages_by_mipmapped_fields ON montages (mipmapped_stack, mipmapped_fields)
    WHERE mipmapped_fields IS NOT NULL;
