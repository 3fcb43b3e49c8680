"""Commands that a person runs: status, verify, journal, replay, and the import commands."""
