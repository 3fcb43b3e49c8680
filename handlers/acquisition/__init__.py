"""What a microscope left on disk, as values: metafile, tiles, positions, z, and whether the images have arrived."""
