"""Image files: what a header says, pixels in, levels out, each written whole and verified."""
