"""The fault suite: what a real acquisition server sees, done to the daemon as a process; `make faults` prints the table."""
