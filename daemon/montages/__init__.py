"""What a montage is: its states and events, its record, the sighting that begins it."""
