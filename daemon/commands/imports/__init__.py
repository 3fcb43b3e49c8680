"""The three import commands: parameters from flags and JSON files, the work, results."""
