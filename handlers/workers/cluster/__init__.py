"""The workers of a dask scheduler that is not ours: found, proved, given jobs, and waited for."""
