"""Stores of levels: local directories and object stores, with one interface."""
