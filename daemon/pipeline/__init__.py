"""The work on montages, from a sighting to COMPLETE: the runner of steps, its assembly, health, metrics, pictures."""
