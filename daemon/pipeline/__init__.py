"""The way of a montage: which step comes next, when, and what each outcome means."""
