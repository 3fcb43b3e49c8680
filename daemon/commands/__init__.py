"""What a person runs beside the daemon: status, verify, journal, replay, and the import commands."""
