"""What is asked of the operating system and the interpreter: locks, threads, text, systemd, logging, the collector."""
