"""`temwatch replay`: requests from the command line, their execution, and progress."""
