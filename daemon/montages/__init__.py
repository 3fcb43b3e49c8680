"""A montage as values: states and events, journal record, verdict, JSON form, the sighting that begins it."""
