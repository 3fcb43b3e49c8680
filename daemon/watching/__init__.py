"""Watch directories and report sightings of metafiles: events are hints, scans decide."""
