"""What temwatch costs, measured: one script a target, `python -m benchmarks` for all of them."""
