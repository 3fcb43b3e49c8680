"""Fuzzers of all input from outside: images, metafiles, answers of render-ws, requests. `make fuzz` runs them."""
