"""The worker pool: processes, dask or in-line, and how a worker process starts and ends."""
