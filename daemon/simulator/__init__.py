"""Simulated microscopes, the stand-in for render-ws, the demonstration; for `commands`, `app` (embedded) and tests."""
