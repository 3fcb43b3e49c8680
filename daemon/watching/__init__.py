"""Directories to sightings: events as hints, scans as the truth."""
