"""Object stores: the connection of each process, requests and their faults, objects read as files."""
