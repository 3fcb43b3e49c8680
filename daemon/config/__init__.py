"""The settings: their model, how they are loaded, their error messages and reference text."""
