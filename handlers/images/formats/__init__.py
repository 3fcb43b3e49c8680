"""Formats of image files: the header of each, its pixels, and their rows while the file is read."""
