"""`temwatch status`: the report, its causes, its text, and the screen on which it is printed."""
