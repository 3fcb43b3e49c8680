"""The outbox's readers: what others are told, how it is delivered, and what follows when it cannot be."""
