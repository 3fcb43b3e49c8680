"""The fault suite: what acquisition servers see, done to the running daemon. `make faults` prints the table."""
