"""Which montages a selection matches, and how they are replayed."""
