-- Medians of a section's quality numbers, for the trends of its microscope: no packed numbers need be read.
CREATE TABLE trends (
    montage_id     INTEGER PRIMARY KEY REFERENCES montages (id) ON DELETE CASCADE,
    focus          REAL,
    std_dev        REAL,
    interval_s     REAL,
    stage_error_px REAL,
    pixel_size_nm  REAL
) STRICT;
