"""Values of a montage: its states and events, its journal record, its JSON form, the sighting that begins it."""
