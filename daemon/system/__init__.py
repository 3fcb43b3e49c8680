"""Services of the operating system and the interpreter: locks, threads, systemd, logging, garbage collection."""
