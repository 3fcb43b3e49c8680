"""The fault suite: faults of acquisition servers, injected into the running daemon. `make faults` prints the table."""
