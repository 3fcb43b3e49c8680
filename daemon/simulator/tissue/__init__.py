"""A synthetic block of neuropil for the simulated microscope."""
