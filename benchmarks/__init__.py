"""Measurements of what temwatch costs: one script for each target; `python -m benchmarks` runs all."""
