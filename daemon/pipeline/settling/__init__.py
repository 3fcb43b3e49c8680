"""Whether a metafile and its images are complete, what the metafile says, and its conflicts with other montages."""
