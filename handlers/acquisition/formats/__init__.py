"""One reader for each microscope format: from the bytes of its files to the values of an acquisition."""
