"""The command line: arguments, help texts, exit codes. Each command imports its modules when it is called."""
