"""Object stores: the connection of each process, requests and their faults, and objects as files."""
