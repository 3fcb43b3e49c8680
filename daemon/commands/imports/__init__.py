"""The three import commands: parameters, flags and JSON files, results."""
