"""Making mipmap levels and their files: the plan, the reductions, and the job of one tile."""
