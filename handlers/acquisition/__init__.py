"""Files of a microscope as values: metafile, tiles, positions, z, and whether the images have arrived."""
