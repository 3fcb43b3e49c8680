"""The settings: their model, loading, error messages and reference text."""
