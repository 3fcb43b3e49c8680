"""Stores of levels: local directories and object stores behind one interface."""
