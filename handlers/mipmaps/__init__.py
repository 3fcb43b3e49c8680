"""Arrays to mipmap levels: which levels, how pixels are reduced, the job of one tile."""
