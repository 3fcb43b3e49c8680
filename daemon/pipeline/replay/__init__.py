"""Which montages a person means, and how they are done again."""
