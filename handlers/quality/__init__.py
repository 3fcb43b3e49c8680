"""Quality of a section: numbers of its tiles, and what is made of them. Does no input or output."""
