"""Stacks: who uses them, and when the daemon opens and closes them."""
