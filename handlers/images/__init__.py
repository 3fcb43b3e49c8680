"""Image files: headers, pixels, digests, and the encoding of levels."""
