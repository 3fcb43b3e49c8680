"""Measurements of temwatch's time, CPU and memory, by target; `python -m benchmarks` runs all scripts."""
