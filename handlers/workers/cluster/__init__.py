"""The workers of an external dask scheduler: finding them, testing the files that they see, giving them jobs."""
