"""Fuzzers of everything that others write: images, metafiles, answers of render-ws, requests. `make fuzz` runs them."""
