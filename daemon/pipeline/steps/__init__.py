"""The steps of one montage (settle, ingest, mipmap, apply), one attempt at a step, and the handling of its failure."""
