"""Arrays to mipmap levels and their files: the plan, the reductions, the job of one tile, each level put in place."""
