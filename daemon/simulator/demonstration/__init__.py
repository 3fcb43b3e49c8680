"""`temwatch demo`: the processes of the demonstration, and what it prints and draws at the end."""
