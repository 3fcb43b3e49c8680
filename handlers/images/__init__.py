"""Image files: which format a file has, level 0 with its digest, grey values, and the encoding of levels."""
